"""A watch: the changes after a resourceVersion as they come, and what each means to one selector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from whimbrel.local.api.kinds import Kind
from whimbrel.local.api.selectors import Selector
from whimbrel.local.api.storage import Change, Object, Storage


class Watch:
    """A place in the history. Nothing is queued for it: a slow reader reads later, one that is too slow gets Gone.

    `version` is how far it has read. Within `with` it is woken by changes; it belongs to one event loop.
    """

    def __init__(self, storage: Storage, kind: Kind | None, namespace: str | None, after: int) -> None:
        self._storage, self._kind, self._namespace = storage, kind, namespace
        self.version = after
        self._changed = asyncio.Event()
        self._stopped = False
        self._forget: Callable[[], None] = lambda: None

    def __enter__(self) -> Watch:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._changed.set)

        self._forget = self._storage.on_change(wake)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._forget()

    def stop(self) -> None:
        """No more is waited for: `next` answers None."""
        self._stopped = True
        self._changed.set()

    async def next(self, seconds: float | None = None) -> tuple[Change, ...] | None:
        """The next changes in order; none of them after `seconds`; None once stopped. Raises Gone."""
        try:
            async with asyncio.timeout(seconds):
                while not self._stopped:
                    self._changed.clear()
                    found = await asyncio.to_thread(self._storage.changes, self._kind, self._namespace, self.version)
                    self.version = found.version
                    if found.items:
                        return found.items
                    if not self._stopped:
                        await self._changed.wait()
        except TimeoutError:
            return ()
        return None


async def watch(storage: Storage, kind: Kind | None, namespace: str | None, after: int) -> AsyncIterator[Change]:
    """Every change after the resourceVersion `after`, in order, for ever. Raises Gone, at once or later."""
    with Watch(storage, kind, namespace, after) as place:
        while (changes := await place.next()) is not None:
            for change in changes:
                yield change


def meaning(change: Change, selector: Selector) -> tuple[str, Object] | None:
    """The event that a watcher with this selector gets: an object that leaves the selection is DELETED to it."""
    now = change.type != "DELETED" and selector.matches(change.object)
    before = change.previous is not None and selector.matches(change.previous)
    if now:
        return ("MODIFIED" if before else "ADDED"), change.object
    return ("DELETED", change.object) if before else None
