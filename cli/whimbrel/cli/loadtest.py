"""`whimbrel loadtest`: load from hey on a URL or a service; a table, JSON, a plot, and conditions that fail it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.console import Output, out, print_json, progress_out
from whimbrel.cli.loadtest_tables import comparison_table, stages_table, statuses_line, warnings
from whimbrel.cli.options import DEFAULT_STATE, OutputFormat, State
from whimbrel.core.errors import SettingsError
from whimbrel.core.references import ObjectRef
from whimbrel.core.settings import load as load_settings
from whimbrel.loadtest import bodies as bodies_of
from whimbrel.loadtest import gates, report, targets
from whimbrel.loadtest.bodies import Body
from whimbrel.loadtest.comparison import compare, differences
from whimbrel.loadtest.hey import Request
from whimbrel.loadtest.measure import DEFAULT_WARM_UP, measure, plan_lines
from whimbrel.loadtest.plan import Load
from whimbrel.loadtest.plot import draw
from whimbrel.loadtest.settings import LimitSettings
from whimbrel.loadtest.targets import Cluster, Place, Target
from whimbrel.local.state import read_status


def loadtest(
    url: Annotated[str | None, typer.Argument(help="where to send; or name a service with --inference-service")] = None,
    *,
    inference_service: Annotated[
        str | None, typer.Option(help="InferenceService or Knative Service, of 'whimbrel up' or of a cluster")
    ] = None,
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="namespace of the service")] = "default",
    gateway: Annotated[str | None, typer.Option(help="URL of a gateway that routes by Host")] = None,
    kubeconfig: Annotated[str | None, typer.Option(help="look the service up in this cluster")] = None,
    context: Annotated[str | None, typer.Option(help="context in the kubeconfig")] = None,
    path: Annotated[
        str | None, typer.Option(help="path on the service; default: the V1 predict path, /events for events")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Host header, with a URL")] = None,
    method: Annotated[str | None, typer.Option(help="HTTP method; default: POST with a body, GET without")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value', repeatable")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="image file, or folder of them, repeatable")] = None,
    v1: Annotated[bool, typer.Option("--v1", help='send images as {"instances":[{"b64":...}]}')] = False,
    template: Annotated[
        Path | None, typer.Option(help='JSON file; the string "$image_b64" in it becomes the image')
    ] = None,
    event: Annotated[list[str] | None, typer.Option(help="s3://BUCKET/KEY, sent as its upload's CloudEvent")] = None,
    structured: Annotated[bool, typer.Option("--structured", help="events as one JSON document")] = False,
    concurrency: Annotated[str, typer.Option("-c", "--concurrency", help="requests at once; 1,2,4 is a sweep")] = "1",
    requests: Annotated[int | None, typer.Option(help="how many, at each concurrency")] = None,
    duration: Annotated[float | None, typer.Option(help="for how many seconds, at each concurrency")] = None,
    rate: Annotated[float | None, typer.Option(help="requests a second, over all workers")] = None,
    timeout: Annotated[int, typer.Option(help="longest wait for an answer, in seconds")] = 20,
    warm_up: Annotated[int, typer.Option(help="requests before the first, thrown away")] = DEFAULT_WARM_UP,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture (PNG) here")] = None,
    compare_with: Annotated[Path | None, typer.Option("--compare", help="JSON of an earlier test")] = None,
    fail_on: Annotated[str, typer.Option(help=f"end with 1 when one holds: {gates.EXAMPLE}")] = "",
    max_requests: Annotated[int | None, typer.Option(help="most at one concurrency")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="longest at one concurrency")] = None,
    max_concurrency: Annotated[int | None, typer.Option(help="most requests at once")] = None,
    max_bodies: Annotated[int | None, typer.Option(help="most different bodies")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="most bytes of one body")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent, send nothing")] = False,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """Load a service with hey and say what came of it. Needs --requests or --duration.

    Errors are counted from what hey leaves out. Ends with 1 when a condition of --fail-on holds.
    """
    limits = _limits(
        requests=max_requests,
        seconds=max_seconds,
        concurrency=max_concurrency,
        bodies=max_bodies,
        body_bytes=max_body_bytes,
    )
    conditions = gates.parse(fail_on)
    before = report.read(compare_with) if compare_with else None
    sent = _image_bodies(image or [], v1=v1, template=template, limits=limits) + _events(event or [], structured)
    target = _target(
        Target(url, host) if url else None,
        Place(inference_service, namespace, path or _default_path(inference_service, event))
        if inference_service
        else None,
        gateway or (None if kubeconfig or context else _gateway_of_engine(state)),
        Cluster(kubeconfig, context),
    )
    request = Request(target, method or ("POST" if sent else "GET"), _headers(header or []), tuple(sent))
    loads = [Load(each, requests, duration, rate, timeout) for each in _concurrencies(concurrency)]
    for line in plan_lines(request, loads, warm_up, limits):
        progress_out.print(line, markup=False, soft_wrap=True)
    if dry_run:
        return
    found = measure(
        request,
        loads,
        warm_up=warm_up,
        limits=limits,
        on_stage=lambda stage: progress_out.print(statuses_line(stage), markup=False, soft_wrap=True),
    )
    _show(found, before, output)
    if json_file:
        report.write(found, json_file)
    if plot:
        draw(found, plot, before)
    broken = gates.breaches(conditions, found.stages)
    for breach in broken:
        progress_out.print(f"failed: {breach}", markup=False)
    if broken:
        raise typer.Exit(1)


def _show(found: report.Report, before: report.Report | None, output: Output) -> None:
    if output is Output.JSON:
        print_json(report.to_json(found))
        return
    out.print(stages_table(found))
    for line in warnings(found):
        progress_out.print(line, markup=False, soft_wrap=True)
    if before is not None:
        out.print(comparison_table(compare(found, before), before))
        for line in differences(found, before):
            out.print(f"not the same: {line}", markup=False, soft_wrap=True)


def _limits(**given: int | float | None) -> LimitSettings:
    """The environment's limits, each replaced by the option where one is given."""
    options = [
        part
        for name, value in given.items()
        if value is not None
        for part in (f"--loadtest-max-{name.replace('_', '-')}", str(value))
    ]
    return load_settings(LimitSettings, options, program="whimbrel loadtest")


def _target(url: Target | None, place: Place | None, gateway: str | None, cluster: Cluster) -> Target:
    if url is not None and place is None:
        return url
    if place is None or url is not None:
        raise SettingsError("expected a URL or --inference-service, one of the two")
    if gateway is not None:
        return targets.behind_gateway(gateway, place)
    return asyncio.run(targets.on_cluster(place, cluster))


def _default_path(service: str, events: Sequence[str] | None) -> str:
    return targets.EVENTS_PATH if events else targets.predict_path(service)


def _gateway_of_engine(state: Path) -> str | None:
    """Of a running engine only: what a stopped one wrote leads nowhere, and a cluster may be meant."""
    status = read_status(state)
    return status["endpoints"].get("gateway") if status and status.get("running") else None


def _image_bodies(paths: Sequence[Path], *, v1: bool, template: Path | None, limits: LimitSettings) -> list[Body]:
    if v1 and template:
        raise SettingsError("expected --v1 or --template, seen both; --v1 is the template of KServe's V1 protocol")
    if not paths:
        if v1:
            raise SettingsError("expected --image with --v1, seen none")
        return [bodies_of.json_body(template.name, bodies_of.read_json(template))] if template else []
    files = bodies_of.image_paths(paths, limits.loadtest_max_bodies)
    images = [bodies_of.read_image(file, limits.loadtest_max_body_bytes) for file in files]
    if not v1 and template is None:
        return images
    document = bodies_of.V1_TEMPLATE if template is None else bodies_of.read_json(template)
    return [bodies_of.in_json(document, image) for image in images]


def _events(references: Sequence[str], structured: bool) -> list[Body]:
    now = datetime.now(UTC)
    return [bodies_of.object_created(ObjectRef.from_uri(each), now, structured=structured) for each in references]


def _headers(given: Sequence[str]) -> dict[str, str]:
    split = [line.partition(":") for line in given]
    return {name.strip(): value.strip() for name, _, value in split}


def _concurrencies(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise SettingsError(f"expected --concurrency as a number or several (1,2,4), seen {text!r}")
    return found
