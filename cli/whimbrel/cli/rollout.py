"""`whimbrel rollout`: start the rollout of a model version, watch it, and decide by hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, cluster, run
from whimbrel.cli.connection import Connection, connect
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.options import (
    DEAD_LETTERS,
    DEFAULT_STATE,
    RESULTS,
    DeadLettersBucket,
    OutputFormat,
    ResultsBucket,
    State,
)
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.settings import load
from whimbrel.kube.kinds import MODEL_ROLLOUT
from whimbrel.mlflow.registry_view import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from whimbrel.core.model_pointer import PointedVersion
    from whimbrel.kube.client import Client, Object
    from whimbrel.mlflow.rollout.known_objects import KnownObject
    from whimbrel.mlflow.rollout.policy import Policy
    from whimbrel.mlflow.rollout.resource import ModelRollout, Spec

_POLL_SECONDS = 1.0

app = typer.Typer(no_args_is_help=True, help="Roll out a model version: judged before and during, back by itself.")
Name = Annotated[str, typer.Argument(help="name of the rollout; see 'whimbrel rollout status'")]


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="NAME, its challenger; NAME@ALIAS or NAME/VERSION")],
    inference_service: Annotated[str | None, typer.Option("--isvc", help="whose traffic moves; default: NAME")] = None,
    by_revision: Annotated[
        bool,
        typer.Option("--by-revision", help="KServe moves the traffic to a new revision; absent: as the policy says"),
    ] = False,
    pointer: Annotated[
        str | None,
        typer.Option(help="in place: s3:// address of the model pointer; default: s3://models/NAME/pointer.json"),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML file with the policy; absent: its defaults")] = None,
    known: Annotated[
        str | None,
        typer.Option(
            help="JSON lines of objects and labels: a file, or s3://...; absent: s3://models/NAME/known.jsonl, or, "
            "without one, the latest results"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the rollout; default: NAME-VERSION")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="s3:// prefix for what it sees; default: s3://models/NAME/rollouts")
    ] = None,
    forced: Annotated[bool, typer.Option("--force", help="go on where the backtest refuses")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="stay until its end")] = False,
    results_bucket: ResultsBucket = RESULTS,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Start to give a version its traffic, step by step; `whimbrel rollout run` carries it out.

    The champion is the version with that alias, and what the traffic goes back to. With --watch it ends with 0 when
    the version was promoted, with 1 when it was rolled back.
    """
    from whimbrel.mlflow.rollout.known_objects import dump_known_objects, write_known_objects
    from whimbrel.mlflow.rollout.resource import Spec, new, rollout_name

    registered, _, selector = model.replace("/", "@").partition("@")
    connection = connect(state)
    candidate = _version(connection, registered, selector or CHALLENGER)
    objects, place = _known_objects(connection, registered, known, results_bucket)
    prefix = (evidence or f"s3://models/{registered}/rollouts").rstrip("/")
    called = name or rollout_name(registered, candidate.version)
    digest = hashlib.sha256(dump_known_objects(objects)).hexdigest()
    kept = place or f"{prefix}/known/{digest}.jsonl"
    rules = _policy(policy, truth_known=any(each.label for each in objects), by_revision=by_revision)
    document = {
        "model": registered,
        "inferenceService": inference_service or registered,
        "candidate": candidate,
        "champion": _version(connection, registered, CHAMPION),
        "pointer": pointer or _pointer(rules, registered),
        "knownObjects": kept,
        "evidence": prefix,
        "policy": rules,
        "forced": forced,
    }
    spec = _valid(Spec, document)
    if place is None:  # beside the evidence, so that every controller asks about the same objects
        write_known_objects(connection.s3(), kept, objects)
    run(_start(new, called, spec, (namespace, kubeconfig, context, state)))
    say(f"rollout {called}: version {candidate.version} against {spec.champion.version}")
    if follow:
        run(_watch(called, namespace, kubeconfig, context, state))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="one rollout; absent: all of the namespace")] = None,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Show where rollouts stand, with the last verdict of each gate when one is named."""
    found = run(_read(name, namespace, kubeconfig, context, state))
    if output is Output.JSON:
        print_json([each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in found])
        return
    rows = (
        (each.name, each.spec.model, each.spec.candidate.version, each.status.phase, _share(each), each.status.message)
        for each in found
    )
    out.print(add_rows(table("ROLLOUT", "MODEL", "CANDIDATE", "PHASE", "TRAFFIC", "MESSAGE"), rows))
    if name is not None:
        for verdict in found[0].status.verdicts or found[0].status.backtest:
            say(verdict.line())
        if found[0].status.report:
            say(f"backtest: {found[0].status.report}")


@app.command()
def watch(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Tell what a rollout does until its end. Ends with 0 when promoted, with 1 when rolled back."""
    run(_watch(name, namespace, kubeconfig, context, state))


@app.command()
def history(
    name: Name,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """List what a rollout has gone through, and why."""
    (found,) = run(_read(name, namespace, kubeconfig, context, state))
    if output is Output.JSON:
        print_json(list(found.status.history))
        return
    rows = (
        (f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.phase, f"{entry.percent}%", entry.message)
        for entry in found.status.history
    )
    out.print(add_rows(table("TIME (UTC)", "PHASE", "TRAFFIC", "WHY"), rows))


def _deciding(command: str, says: str, change: dict[str, Any]) -> Callable[..., None]:
    def decide(
        name: Name,
        namespace: Namespace = None,
        kubeconfig: Kubeconfig = None,
        context: Context = None,
        state: State = DEFAULT_STATE,
    ) -> None:
        run(_change(name, change, namespace, kubeconfig, context, state))
        say(f"rollout {name}: {command}")

    decide.__doc__ = says
    return decide


for _command, _says, _change_of in (
    ("pause", "Hold the traffic where it is, and judge no further.", {"paused": True}),
    ("resume", "Go on after a pause.", {"paused": False}),
    ("promote", "Give the candidate all traffic now, whatever the gates say.", {"decision": "Promote"}),
    ("abort", "Take the traffic back to the champion.", {"decision": "Abort"}),
):
    app.command(_command)(_deciding(_command, _says, _change_of))


@app.command(name="run")
def run_command(
    templates: Annotated[
        Path | None, typer.Option(help="YAML file: what a moved challenger starts, by model; absent: nothing")
    ] = None,
    webhook_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="listen for the registry's webhooks; absent: the poll alone")
    ] = None,
    webhook_secret_file: Annotated[Path | None, typer.Option(help="file with the secret that signs them")] = None,
    alias_poll_seconds: Annotated[float, typer.Option(min=0.05, max=3600, help="between two looks at aliases")] = 15.0,
    prometheus: Annotated[
        str | None, typer.Option(help="URL of a Prometheus that scrapes the predictors; absent: the results tell")
    ] = None,
    results_bucket: ResultsBucket = RESULTS,
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    poll_seconds: Annotated[float, typer.Option(min=0.05, max=300, help="between two rounds")] = 2.0,
    in_cluster: Annotated[bool, typer.Option("--in-cluster", help="reach services by their inner addresses")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Carry out the rollouts of a namespace until stopped: the controller.

    With --templates it also starts the rollout of a version that the alias challenger is moved to: found within
    --alias-poll-seconds, or at once where a webhook says so.
    """
    from whimbrel.core import logs
    from whimbrel.mlflow.rollout.controller import RolloutSettings, control

    connection = connect(state)
    given = {
        "rollout-templates": templates,
        "webhook-port": webhook_port,
        "webhook-secret-file": webhook_secret_file,
        "alias-poll-seconds": alias_poll_seconds,
        "prometheus-url": prometheus,
        "results-bucket": results_bucket,
        "dead-letters-bucket": dead_letters_bucket,
        "poll-seconds": poll_seconds,
        "in-cluster": in_cluster,
        "mlflow-tracking-uri": connection.tracking_uri(),
    }
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    settings = load(RolloutSettings, arguments, program="whimbrel rollout run")
    logs.configure("rollouts", settings.log_level)

    async def carry_out() -> None:
        async with cluster(kubeconfig, context, state) as client:
            await control(client, settings.model_copy(update={"namespace": namespace or client.namespace}))

    run(carry_out())


async def _start(
    new: Callable[[str, str, Spec], Object],
    name: str,
    spec: Spec,
    place: tuple[str | None, str | None, str | None, Path],
) -> None:
    namespace, kubeconfig, context, state = place
    async with cluster(kubeconfig, context, state) as client:
        await client.create(new(namespace or client.namespace, name, spec))


async def _read(
    name: str | None, namespace: str | None, kubeconfig: str | None, context: str | None, state: Path
) -> list[ModelRollout]:
    async with cluster(kubeconfig, context, state) as client:
        return await _rollouts(client, name, namespace or client.namespace)


async def _rollouts(client: Client, name: str | None, namespace: str) -> list[ModelRollout]:
    from whimbrel.mlflow.rollout.resource import parse

    if name is not None:
        return [parse(await client.get(MODEL_ROLLOUT, name, namespace))]
    return [parse(each) for each in (await client.list(MODEL_ROLLOUT, namespace)).objects]


async def _watch(name: str, namespace: str | None, kubeconfig: str | None, context: str | None, state: Path) -> None:
    from whimbrel.mlflow.rollout.resource import Phase

    told, message = 0, ""
    async with cluster(kubeconfig, context, state) as client:
        while True:
            (found,) = await _rollouts(client, name, namespace or client.namespace)
            for entry in found.status.history[told:]:
                say(f"{entry.time:%H:%M:%S}  {entry.phase} {entry.percent}%  {entry.message}")
                message = entry.message
            told = len(found.status.history)
            if found.ended:
                if found.status.phase is not Phase.PROMOTED:
                    raise typer.Exit(1)
                return
            if found.status.message != message:
                message = found.status.message
                say(f"          {message}")
            await asyncio.sleep(_POLL_SECONDS)


async def _change(
    name: str,
    change: dict[str, Any],
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> None:
    from whimbrel.mlflow.rollout.resource import parse

    def changed(found: Object) -> Object:
        rollout = parse(found)
        if rollout.ended:
            raise InputRefused(f"expected a rollout that goes on, seen {name!r} {rollout.status.phase}")
        return {**found, "spec": {**found["spec"], **change}}

    async with cluster(kubeconfig, context, state) as client:
        await client.patch(MODEL_ROLLOUT, name, namespace or client.namespace, changed)


def _version(connection: Connection, model: str, selector: str) -> PointedVersion:
    from whimbrel.core.model_pointer import pointed
    from whimbrel.mlflow import registry_view

    _, location = registry_view.show_version(connection.tracking_uri(), model, selector)
    return pointed(location)


def _pointer(policy: Policy, model: str) -> str | None:
    from whimbrel.mlflow.rollout.policy import Movement

    return f"s3://models/{model}/pointer.json" if policy.movement is Movement.IN_PLACE else None


def _policy(path: Path | None, *, truth_known: bool, by_revision: bool) -> Policy:
    from whimbrel.mlflow.rollout.policy import Movement, policy_for

    document = {} if path is None else _yaml(path)
    if by_revision and isinstance(document, dict):
        document = document | {"movement": Movement.BY_REVISION}
    return policy_for(document, str(path or "policy"), truth_known=truth_known)


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InputRefused(f"expected a policy in {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise InputRefused(f"expected YAML in {path}, seen {' '.join(str(error).split())}") from None


def _valid(kind: type[Spec], document: dict[str, Any]) -> Spec:
    from pydantic import ValidationError

    try:
        return kind.model_validate(document)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'rollout'}: {each['msg']}" for each in error.errors())
        raise InputRefused("; ".join(faults)) from None


def _known_objects(
    connection: Connection, model: str, known: str | None, results_bucket: str
) -> tuple[tuple[KnownObject, ...], str | None]:
    """With the address of the list, where it is in the store."""
    from whimbrel.mlflow.rollout.known_objects import NAME, parse_known_objects, read_known_objects

    if known is not None and not known.startswith("s3://"):
        try:
            return parse_known_objects(Path(known).read_bytes(), known), None
        except OSError as error:
            raise InputRefused(f"expected known objects in {known}: {error.strerror}") from None
    uri = known or f"s3://models/{model}/{NAME}"
    try:
        return read_known_objects(connection.s3(), uri), uri
    except NotFound:
        if known is not None:
            raise
        return _latest(connection, results_bucket), None


def _latest(connection: Connection, results_bucket: str) -> tuple[KnownObject, ...]:
    """The objects of the latest results, without a truth: nobody has told it."""
    import heapq

    from whimbrel.cli.options import PHOTOS
    from whimbrel.eventing.results_reader import ResultReader
    from whimbrel.mlflow.rollout.known_objects import KnownObject

    reader = ResultReader(connection.s3(), results_bucket, PHOTOS)
    newest = heapq.nlargest(1000, reader.latest(), key=lambda result: (result.event.time, result.object.key))
    if not newest:
        raise NotFound(
            f"expected results in the bucket {results_bucket!r} to compare by, seen none; name objects with --known"
        )
    return tuple(KnownObject(uri=result.object.ref.uri) for result in newest)


def _share(rollout: ModelRollout) -> str:
    return f"{rollout.status.percent}%"
