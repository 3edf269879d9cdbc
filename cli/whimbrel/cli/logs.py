"""`whimbrel logs`: what the processes behind a service, a revision or a source say."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, Resource, cluster, parse_resource, run
from whimbrel.cli.console import say
from whimbrel.cli.options import DEFAULT_STATE, State
from whimbrel.kube import logs as kube_logs
from whimbrel.kube.kinds import REVISION, Kind
from whimbrel.kube.pods import selector


def logs(
    resource: Resource,
    component: Annotated[
        str | None, typer.Option(help="predictor or transformer of an InferenceService; default: both")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="this revision only")] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="go on until Ctrl-C, with pods that come later")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, max=1_000_000, help="most lines of each pod")] = None,
    prefix: Annotated[bool, typer.Option("--prefix", help="begin each line with its pod")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Print the logs of the pods behind an InferenceService, a Knative Service, a revision or a source."""
    kind, name = parse_resource(resource)
    if revision is not None:
        kind, name = REVISION, revision
    run(_logs(kind, name, component or "", follow, tail, prefix, namespace, kubeconfig, context, state))


async def _logs(
    kind: Kind,
    name: str,
    component: str,
    follow: bool,
    tail: int | None,
    prefix: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> None:
    labels = selector(kind, name, component)
    async with cluster(kubeconfig, context, state) as client:
        within = namespace or client.namespace
        await client.get(kind, name, within)  # a name that is none is an error, not an empty log
        lines = kube_logs.logs(client, within, labels, tail=tail, follow=follow)
        async with aclosing(lines):
            async for line in lines:
                say(f"[{line.pod}] {line.text}" if prefix else line.text)
