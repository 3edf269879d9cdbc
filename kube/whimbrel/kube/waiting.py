"""Waits until an object is as wanted, tells what it waits for meanwhile, and why when it does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from whimbrel.core.errors import DeadlinePassed, InputRefused
from whimbrel.kube.client import Client, Object
from whimbrel.kube.conditions import conditions, has_readiness, why_not_ready
from whimbrel.kube.kinds import Kind
from whimbrel.kube.watching import Change, changes


@dataclass(frozen=True, slots=True)
class Verdict:
    """`failed` is what no waiting mends. `why` says what is waited for, or what is wrong."""

    state: Literal["done", "waiting", "failed"]
    why: str = ""


Judge = Callable[[Object | None], Verdict]
DONE = Verdict("done")


def is_ready(found: Object | None) -> Verdict:
    """Whether its Ready condition is True, of a Deployment Available; another kind is ready when it exists."""
    if found is None:
        return Verdict("waiting", "it does not exist")
    if not has_readiness(found):
        return has_condition("Available")(found) if found.get("kind") == "Deployment" else DONE
    reason = why_not_ready(found)
    if reason is None:
        return DONE
    return Verdict("failed" if reason.is_final else "waiting", str(reason))


def is_gone(found: Object | None) -> Verdict:
    if found is None:
        return DONE
    finalizers = found["metadata"].get("finalizers") or []
    return Verdict("waiting", f"it is held by {', '.join(finalizers)}" if finalizers else "it still exists")


def has_condition(type_: str, status: str = "True") -> Judge:
    """Whether the condition `type_` has this status."""

    def judge(found: Object | None) -> Verdict:
        if found is None:
            return Verdict("waiting", "it does not exist")
        seen = next((each for each in conditions(found) if each.type == type_), None)
        if seen is not None and seen.status == status:
            return DONE
        return Verdict("waiting", f"it has no condition {type_}" if seen is None else str(seen))

    return judge


def has_new_status(before: Object | None) -> Judge:
    """Whether a controller wrote the status since: KServe's Ready is that of before a change for some seconds."""

    def judge(found: Object | None) -> Verdict:
        if found is not None and (before is None or found.get("status") != before.get("status")):
            return DONE
        return Verdict("waiting", "no controller has looked at the change yet")

    return judge


async def wait_for(
    client: Client,
    kind: Kind,
    name: str,
    namespace: str | None,
    judge: Judge,
    *,
    seconds: float,
    wanted: str = "Ready",
    tell: Callable[[str], None] = lambda _: None,
) -> Object | None:
    """The object as it was when `judge` was content. `tell` hears each new reason for waiting.

    Raises DeadlinePassed with the last reason, InputRefused for what does not come right by itself.
    """
    what = f"expected {kind.kind} {name!r} to be {wanted}"
    # Before the time begins: however short it is, the reason is known when it ends.
    found = await client.find(kind, name, namespace)
    last = _told(judge(found), what, "", tell)
    if last is None:
        return found
    changed = changes(client, kind, namespace, name=name, seen=[] if found is None else [found])
    try:
        async with asyncio.timeout(seconds), aclosing(changed):
            async for each in changed:
                found = None if each.change is Change.DELETED else each.object
                now = _told(judge(found), what, last, tell)
                if now is None:
                    return found
                last = now
    except TimeoutError:
        raise DeadlinePassed(f"{what} within {seconds:g} s; {last}") from None
    raise AssertionError("unreachable")


def _told(verdict: Verdict, what: str, last: str, tell: Callable[[str], None]) -> str | None:
    """Why it goes on waiting; None when it is as wanted. Raises InputRefused for what cannot come."""
    if verdict.state == "done":
        return None
    if verdict.state == "failed":
        raise InputRefused(f"{what}; it cannot: {verdict.why}")
    if verdict.why != last:
        tell(verdict.why)
    return verdict.why
