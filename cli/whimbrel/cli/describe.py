"""`whimbrel describe`: one resource with its conditions, revisions, traffic, pods and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, Resource, cluster, parse_resource, run
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.options import DEFAULT_STATE, OutputFormat, State
from whimbrel.kube.client import Object
from whimbrel.kube.conditions import conditions
from whimbrel.kube.diagnosis import pods_of
from whimbrel.kube.events import Said, events
from whimbrel.kube.inference import read_status
from whimbrel.kube.kinds import INFERENCE_SERVICE, KNATIVE_SERVICE, Kind
from whimbrel.kube.pods import readiness, troubles
from whimbrel.kube.services import Revision, revisions
from whimbrel.kube.summary import age, now, shares_line, summarise

_MOST_EVENTS = 20


@dataclass(frozen=True, slots=True)
class Described:
    object: Object
    revisions: tuple[Revision, ...]
    pods: tuple[Object, ...]
    events: tuple[Said, ...]


def describe(
    resource: Resource,
    namespace: Namespace = None,
    output: OutputFormat = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Show one resource: conditions, traffic of each revision, what is wrong with its pods, the last events."""
    kind, name = parse_resource(resource)
    found = run(_describe(kind, name, namespace, kubeconfig, context, state))
    if output is Output.JSON:
        pods = [each["metadata"]["name"] for each in found.pods]
        shown = {"object": found.object, "pods": pods, "troubles": troubles(found.pods)}
        revisions_shown = [asdict(each) for each in found.revisions]
        print_json(shown | {"revisions": revisions_shown, "events": [asdict(each) for each in found.events]})
        return
    _print(found)


async def _describe(
    kind: Kind, name: str, namespace: str | None, kubeconfig: str | None, context: str | None, state: Path
) -> Described:
    async with cluster(kubeconfig, context, state) as client:
        within = namespace or client.namespace
        place = within if kind.namespaced else None
        found = await client.get(kind, name, place)
        listed = [await revisions(client, each, within) for each in _knative_services(kind, name, found)]
        return Described(
            object=found,
            revisions=tuple(revision for each in listed for revision in each),
            pods=await pods_of(client, kind, name, place),
            events=await events(client, within, kind=kind.kind, name=name),
        )


def _knative_services(kind: Kind, name: str, found: Object) -> list[str]:
    if kind is INFERENCE_SERVICE:
        return [f"{name}-{component}" for component in read_status(found).components]
    return [name] if kind is KNATIVE_SERVICE else []


def _print(found: Described) -> None:
    summary, at = summarise(found.object), now()
    say(f"{summary.kind} {summary.name}" + (f" in {summary.namespace}" if summary.namespace else ""))
    say("  " + "  ".join(part for part in (f"age {age(summary.created, at)}", summary.does) if part))
    if summary.why:
        say(f"  not ready: {summary.why}")
    if summary.kind == "InferenceService":
        for name, component in read_status(found.object).components.items():
            say(f"  {name}: {shares_line(component.traffic) or 'no traffic yet'}  {component.url}")
    rows = [(each.type, each.status, each.reason, each.message) for each in conditions(found.object)]
    _section(rows, "CONDITION", "STATUS", "REASON", "MESSAGE")
    _section(
        [
            (each.name, f"{each.percent}%", ",".join(each.tags), age(each.created, at), each.image, each.trouble)
            for each in found.revisions
        ],
        *("REVISION", "TRAFFIC", "TAGS", "AGE", "IMAGE", "NOT READY"),
    )
    pods = [(each["metadata"]["name"], *readiness(each)) for each in found.pods]
    _section([(name, f"{ready}/{of}", restarts) for name, ready, of, restarts in pods], "POD", "READY", "RESTARTS")
    for line in troubles(found.pods):
        say(line)
    shown = found.events[-_MOST_EVENTS:]
    _section(
        [(age(each.time, at), each.type, each.reason, each.count, each.message) for each in shown],
        *("LAST", "EVENT", "REASON", "COUNT", "MESSAGE"),
    )


def _section(rows: Sequence[tuple[object, ...]], *columns: str) -> None:
    if rows:
        out.print()
        out.print(add_rows(table(*columns), rows))
