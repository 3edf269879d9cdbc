"""`whimbrel ls`: the resources of the way of an image, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, cluster, gather, run
from whimbrel.cli.console import Output, add_rows, out, print_json, progress_out, table
from whimbrel.cli.options import DEFAULT_STATE, OutputFormat, State
from whimbrel.core.errors import NotFound
from whimbrel.kube.answers import Forbidden
from whimbrel.kube.client import Client, Object
from whimbrel.kube.kinds import OURS, Kind, kind_named
from whimbrel.kube.summary import Summary, age, now, summarise


def ls(
    kinds: Annotated[list[str] | None, typer.Argument(help="isvc, ksvc, broker, trigger ...; default: all")] = None,
    namespace: Namespace = None,
    every_namespace: Annotated[bool, typer.Option("-A", "--all-namespaces", help="of all namespaces")] = False,
    output: OutputFormat = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """List InferenceServices, Knative Services, Brokers, Triggers, sources and rollouts, and why one is not ready."""
    wanted = [kind_named(each) for each in kinds] if kinds else list(OURS)
    found = run(_ls(wanted, namespace, every_namespace, kubeconfig, context, state))
    if output is Output.JSON:
        print_json([asdict(each) for each in found])
        return
    if not found:
        progress_out.print("none; make some with 'whimbrel apply'", markup=False)
    at = now()
    columns = ("NAMESPACE",) if every_namespace else ()
    rows = ((*((each.namespace,) if every_namespace else ()), *_row(each), age(each.created, at)) for each in found)
    out.print(add_rows(table(*columns, "KIND", "NAME", "READY", "", "AGE"), rows))


def _row(found: Summary) -> tuple[str, str, str, str]:
    return found.kind, found.name, found.ready, found.why or found.does


async def _ls(
    kinds: Sequence[Kind],
    namespace: str | None,
    every_namespace: bool,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> list[Summary]:
    async with cluster(kubeconfig, context, state) as client:
        within = None if every_namespace else namespace or client.namespace
        listed = await gather(len(kinds), lambda index: _listed(client, kinds[index], within))
    return [summarise(each) for objects in listed for each in objects]


async def _listed(client: Client, kind: Kind, namespace: str | None) -> tuple[Object, ...]:
    """A kind that is not installed has no objects; one that may not be listed is told."""
    try:
        return (await client.list(kind, namespace)).objects
    except NotFound:
        return ()
    except Forbidden as error:
        progress_out.print(str(error), markup=False, soft_wrap=True, style="yellow")
        return ()
