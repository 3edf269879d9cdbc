"""Waiting for what was applied or deleted, and `whimbrel wait`: with progress, and with the reason when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, cluster, parse_resource, resource_name, run
from whimbrel.cli.console import progress_out, say
from whimbrel.cli.options import DEFAULT_STATE, State
from whimbrel.core.errors import DeadlinePassed, InputRefused, WhimbrelError
from whimbrel.kube.client import Client
from whimbrel.kube.diagnosis import pod_troubles
from whimbrel.kube.kinds import INFERENCE_SERVICE, Kind
from whimbrel.kube.waiting import Judge, has_condition, has_new_status, is_gone, is_ready, wait_for

# KServe looks at a change within some seconds, and its Ready is that of before until then.
_STALE_SECONDS = 10.0

Object = dict[str, Any]
Named = tuple[Kind, str, str | None]


def wait(
    resources: Annotated[list[str], typer.Argument(help="KIND/NAME, such as isvc/digits")],
    condition: Annotated[
        str, typer.Option("--for", help="ready, deleted, condition=TYPE or condition=TYPE=STATUS")
    ] = "ready",
    timeout: Annotated[float, typer.Option(min=0.1, max=7200, help="seconds to wait")] = 120,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Wait until resources are Ready, or gone, or have a condition. Says what it waits for.

    Ends with 1, and with the reason, when that does not come in time, or at once when it cannot come.
    """
    named = [parse_resource(each) for each in resources]
    run(_wait(named, *_judge(condition), timeout, namespace, kubeconfig, context, state))


async def _wait(
    named: Sequence[tuple[Kind, str]],
    judge: Judge,
    wanted: str,
    seconds: float,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> None:
    async with cluster(kubeconfig, context, state) as client:
        within = namespace or client.namespace
        places: list[Named] = [(kind, name, within if kind.namespaced else None) for kind, name in named]
        await _all(client, places, judge, wanted, seconds)


async def wait_applied(client: Client, applied: Sequence[tuple[Named, Object | None]], seconds: float) -> None:
    """Until all is Ready. With what was changed goes how it was before, so that its old Ready is not believed."""

    async def settled(place: Named, before: Object | None) -> None:
        kind, name, namespace = place
        if kind is INFERENCE_SERVICE and before is not None:
            try:
                await wait_for(client, kind, name, namespace, has_new_status(before), seconds=_STALE_SECONDS)
            except DeadlinePassed:
                return  # a change that makes no difference to it

    async with asyncio.TaskGroup() as tasks:
        for place, before in applied:
            tasks.create_task(settled(place, before))
    await _all(client, [place for place, _ in applied], is_ready, "Ready", seconds)


async def wait_gone(client: Client, places: Sequence[Named], seconds: float) -> None:
    await _all(client, places, is_gone, "gone", seconds, quiet=True)


async def _all(
    client: Client, places: Sequence[Named], judge: Judge, wanted: str, seconds: float, *, quiet: bool = False
) -> None:
    """All at the same time. Each failure is told, the first one ends the command."""
    outcomes = await asyncio.gather(
        *(_one(client, place, judge, wanted, seconds, quiet=quiet) for place in places), return_exceptions=True
    )
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    for failure in failures[1:]:
        progress_out.print(str(failure), markup=False, soft_wrap=True)
    if failures:
        raise failures[0]


async def _one(client: Client, place: Named, judge: Judge, wanted: str, seconds: float, *, quiet: bool) -> None:
    kind, name, namespace = place
    shown = resource_name(kind, name)

    def tell(why: str) -> None:
        if not quiet:
            progress_out.print(f"{shown}: {why}", markup=False, soft_wrap=True)

    try:
        await wait_for(client, kind, name, namespace, judge, seconds=seconds, wanted=wanted, tell=tell)
    except (DeadlinePassed, InputRefused) as failure:
        if judge is not is_ready:
            raise
        for line in await pod_troubles(client, kind, name, namespace):
            progress_out.print(line, markup=False, soft_wrap=True, style="yellow")
        raise _with_remedy(failure, kind, name, namespace) from None
    if not quiet:
        say(f"{shown} is {wanted}")


def _with_remedy(failure: WhimbrelError, kind: Kind, name: str, namespace: str | None) -> WhimbrelError:
    place = f" -n {namespace}" if namespace else ""
    return type(failure)(f"{failure}; see 'whimbrel describe {kind.title}/{name}{place}'")


def _judge(text: str) -> tuple[Judge, str]:
    if text == "ready":
        return is_ready, "Ready"
    if text == "deleted":
        return is_gone, "gone"
    word, _, condition = text.partition("=")
    type_, _, status = condition.partition("=")
    if word != "condition" or not type_:
        raise InputRefused(f"expected --for ready, deleted, condition=TYPE or condition=TYPE=STATUS, seen {text!r}")
    return has_condition(type_, status or "True"), f"{type_}={status or 'True'}"
