"""`kubectl logs`: the end of a file, and what is written to it while it is followed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from whimbrel.local.api.faults import BadRequest, NotFound
from whimbrel.local.log_parts import LogPart

_CHUNK = 64 * 1024
_POLL_SECONDS = 0.2
_NOT_KEPT = ("sinceSeconds", "sinceTime", "timestamps")


class PodLogs(Protocol):
    """Where what a container writes is kept."""

    def __call__(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogPart | None:
        """What its process has written, or the one before; None where there is nothing (yet)."""


def logs_in(folder: Path | None) -> PodLogs:
    """Files named NAMESPACE/POD/CONTAINER.log, the previous one with `.1` at the end; without a folder, none."""

    def place(namespace: str, pod: str, container: str, *, previous: bool) -> LogPart | None:
        end = ".log.1" if previous else ".log"
        return LogPart(folder / namespace / pod / f"{container}{end}") if folder is not None else None

    return place


@dataclass(frozen=True, slots=True)
class LogOptions:
    container: str | None
    follow: bool
    previous: bool
    tail_lines: int | None
    limit_bytes: int | None


def log_options(query: Mapping[str, str]) -> LogOptions:
    """Raises BadRequest; for what needs a time for each line, too: the files have none of their own."""
    asked = [name for name in _NOT_KEPT if query.get(name) not in (None, "", "false")]
    if asked:
        raise BadRequest(
            f"{asked[0]}: not kept on one machine, lines have only the time that they carry; use tailLines"
        )
    flags = {name: query.get(name, "") in ("true", "1") for name in ("follow", "previous")}
    numbers = {name: _number(query, name) for name in ("tailLines", "limitBytes")}
    return LogOptions(
        query.get("container") or None, flags["follow"], flags["previous"], numbers["tailLines"], numbers["limitBytes"]
    )


def container_of(pod: Mapping[str, object], wanted: str | None) -> str:
    """The container that is meant; where none is named, the only one. Raises BadRequest."""
    spec = pod.get("spec")
    containers = spec.get("containers", []) if isinstance(spec, dict) else []
    names = [str(each.get("name")) for each in containers if isinstance(each, dict)]
    if wanted in names:
        return str(wanted)
    if wanted is None and len(names) == 1:
        return names[0]
    expected = ", ".join(names) or "none"
    raise BadRequest(f"container: expected one of {expected}, seen {wanted or 'none named'}")


def opened(part: LogPart | None, name: str, options: LogOptions) -> tuple[BinaryIO, int | None]:
    """The file, at the first line that is wanted, and how many bytes are; None: all. Raises NotFound."""
    try:
        if part is None:
            raise FileNotFoundError
        file = part.path.open("rb")
    except OSError:
        which = "previous log" if options.previous else "log"
        raise NotFound(f"pod {name}: no {which} is kept (yet)") from None
    start = part.start if options.tail_lines is None else _tail(file, part, options.tail_lines)
    file.seek(start)
    bounds = [options.limit_bytes, None if part.end is None else part.end - start]
    return file, min((each for each in bounds if each is not None), default=None)


async def lines(file: BinaryIO, left: int | None, *, follow: bool, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What is there, then, followed, what comes, until `goes_on` says that nobody writes any more, or `left` came."""
    try:
        while left is None or left > 0:
            last = not (follow and await asyncio.to_thread(goes_on))
            newer = await asyncio.to_thread(_newer, file)
            while part := await asyncio.to_thread(file.read, _CHUNK if left is None else min(_CHUNK, left)):
                left = None if left is None else left - len(part)
                yield part
            if newer is not None:
                file.close()
                file = newer
            elif last:
                return
            else:
                await asyncio.sleep(_POLL_SECONDS)  # a file tells nobody that it grew
    finally:
        file.close()


def _newer(file: BinaryIO) -> BinaryIO | None:
    """The file that has this one's name now, where this one was put aside; asked before the rest of it is read."""
    try:
        if os.fstat(file.fileno()).st_ino == Path(file.name).stat().st_ino:
            return None
        return Path(file.name).open("rb")
    except OSError:
        return None


def _tail(file: BinaryIO, part: LogPart, count: int) -> int:
    """Where the last `count` lines start, read from the end."""
    position = end = file.seek(0, 2) if part.end is None else part.end
    seen = 0
    while position > part.start and count > 0:
        start = max(part.start, position - _CHUNK)
        file.seek(start)
        block = file.read(position - start)
        for index in range(len(block) - 1, -1, -1):
            if block[index] == 0x0A and start + index != end - 1:
                seen += 1
                if seen == count:
                    return start + index + 1
        position = start
    return end if count == 0 else part.start


def _number(query: Mapping[str, str], name: str) -> int | None:
    value = query.get(name)
    if value in (None, ""):
        return None
    if not str(value).isascii() or not str(value).isdigit() or len(str(value)) > 18:
        raise BadRequest(f"{name}: expected a number, seen {value!r:.40}")
    return int(str(value))
