"""Moves traffic in place: writes the model pointer, and believes it when every live replica reports it."""

from __future__ import annotations

import asyncio
from typing import Any

from whimbrel.core.errors import NotFound
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore, Read, Replica
from whimbrel.mlflow.rollout.reconcile import Traffic


class InPlace:
    """Of one model pointer."""

    def __init__(self, store: PointerStore, champion: PointedVersion, candidate: PointedVersion) -> None:
        self._store, self._versions = store, {each.version: each for each in (champion, candidate)}

    async def look(self) -> Traffic:
        """No replica at all has arrived by definition: the next one starts from the pointer."""
        return await asyncio.to_thread(self._look)

    async def move(self, target: Traffic, seen: Traffic) -> None:
        """Raises Unavailable when somebody has written the pointer since `seen`: look again, and decide again."""
        await asyncio.to_thread(self._move, target, seen)

    def _look(self) -> Traffic:
        read = self._read()
        pointer, replicas = read.pointer, self._store.live_replicas()
        candidate = pointer.candidate
        return Traffic(
            current=pointer.current.version,
            candidate=candidate.version if candidate else None,
            percent=round(pointer.share),
            arrived=not _lagging(replicas, read.etag),
            lacks=_lacks(_lagging(replicas, read.etag), len(replicas)),
            failed=_refusal(replicas, read.etag, candidate or pointer.current),
            requests={replica.uid: _counts(replica) for replica in replicas},
        )

    def _move(self, target: Traffic, seen: Traffic) -> None:
        read = self._read()
        pointer = read.pointer
        now = (pointer.current.version, pointer.candidate.version if pointer.candidate else None, round(pointer.share))
        if now != (seen.current, seen.candidate, seen.percent):
            return  # another hand was faster; the next look tells
        wanted = Pointer(
            current=self._versions[target.current],
            candidate=self._versions[target.candidate] if target.candidate else None,
            share=float(target.percent if target.candidate else 0),
            drain_and_swap=pointer.drain_and_swap,
        )
        self._store.write(wanted, read.etag)

    def _read(self) -> Read:
        try:
            read = self._store.read()
        except NotFound:
            raise NotFound(
                f"expected a model pointer at {self._store.place.uri}, seen none; "
                "write it with `whimbrel model point`, and start the predictors on pointer+s3://..."
            ) from None
        assert read is not None  # noqa: S101 only a read by a known eTag is
        return read


def _lagging(replicas: list[Replica], etag: str) -> list[Replica]:
    return [each for each in replicas if not (each.synced and each.pointer_etag == etag)]


def _lacks(lagging: list[Replica], all_: int) -> str | None:
    """Whom a step waits for, and the first one's reason."""
    if not lagging:
        return None
    reason = next((f"; {each.uid}: {each.error}" for each in lagging if each.error), "")
    return f"waiting for {len(lagging)} of {all_} replicas to follow the model pointer{reason}"


def _counts(replica: Replica) -> dict[str, tuple[int, int]]:
    return {
        str(row.get("version")): (_count(row.get("answered")), _count(row.get("failed"))) for row in replica.versions
    }


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _refusal(replicas: list[Replica], etag: str, version: PointedVersion) -> str | None:
    """Why the first replica that will not try `version` again does not."""
    for replica in replicas:
        if replica.pointer_etag == etag and version.digest in replica.refused:
            return f"replica {replica.uid}: {replica.error or 'refused'}"
    return None
