"""A watch: the changes after a resourceVersion as they come, told as what they mean to one selector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from whimbrel.local.api.kinds import Kind
from whimbrel.local.api.selectors import Selector
from whimbrel.local.api.storage import Change, Object, Storage


async def watch(
    storage: Storage, kind: Kind | None, namespace: str | None, after: int
) -> AsyncIterator[tuple[Change, ...]]:
    """Every change after the resourceVersion `after`, in order, some at a time. Raises Gone, at once or later.

    Nothing is queued: a slow reader reads the history later, and one that is too slow for it gets Gone.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    forget = storage.on_change(wake)
    try:
        while True:
            changed.clear()
            found = await asyncio.to_thread(storage.changes, kind, namespace, after)
            if found:
                after = found[-1].version
                yield found
            else:
                await changed.wait()
    finally:
        forget()


def meaning(change: Change, selector: Selector) -> tuple[str, Object] | None:
    """The event that a watcher with this selector gets: an object that leaves the selection is DELETED to it."""
    now = change.type != "DELETED" and selector.matches(change.object)
    before = change.previous is not None and selector.matches(change.previous)
    if now:
        return ("MODIFIED" if before else "ADDED"), change.object
    return ("DELETED", change.object) if before else None
