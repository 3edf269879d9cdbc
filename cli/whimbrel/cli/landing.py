"""Pictures that land in a bucket one after another for as long as a story takes, and the count of what came of them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress import Progress

from whimbrel.cli.accounting import Upload
from whimbrel.cli.broken_pictures import broken_pictures
from whimbrel.cli.options import DEAD_LETTERS, PHOTOS, RESULTS
from whimbrel.cli.outcomes import count_outcomes
from whimbrel.cli.put import put_object

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

A_SECOND = 5  # two cores carry four times as many
_A_SECOND_AT_THE_END = 2 * A_SECOND  # with no rollout beside them
_STALLED_SECONDS = 90  # without any new outcome, the rest is given up as missing
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Picture:
    """`truth` is its label, None for one that is broken on purpose."""

    key: str
    content: bytes
    truth: str | None


def held_out_and_broken() -> list[Picture]:
    """Pictures that no network has seen, and here and there among them what is no picture."""
    from whimbrel.mlflow.recipes.digits import held_out

    found = [Picture(f"digits/{each.index:04d}.png", each.png, each.name) for each in held_out()]
    broken = [Picture(f"broken/{name}", content, None) for name, content in broken_pictures().items()]
    apart = len(found) // len(broken)
    for number, picture in enumerate(broken):
        found.insert(number * (apart + 1) + apart // 2, picture)
    return found


class Landing:
    """Puts pictures into the bucket, A_SECOND of them, and counts what comes of them. `put` and `count` block.

    Whole pictures come again under other keys for as long as nobody calls `finish`.
    """

    def __init__(self, client: S3Client, pictures: Sequence[Picture], bar: Progress) -> None:
        self._client, self._pictures, self._bar = client, pictures, bar
        self._tasks = [bar.add_task(what, total=len(pictures)) for what in ("put in the bucket", "answered or refused")]
        self._finishing, self._ended, self._cancelled = threading.Event(), threading.Event(), threading.Event()
        self.uploads: list[Upload] = []
        self.outcomes = 0

    def finish(self) -> None:
        """Put what is left of the pictures, twice as many a second, and end."""
        self._finishing.set()

    def cancel(self) -> None:
        """End at once."""
        self._cancelled.set()

    def put(self) -> None:
        """Until the end. Raises NotFound and Unavailable as the store fails."""
        due = time.monotonic()
        try:
            for picture in self._endless():
                if self._cancelled.wait(max(0.0, due - time.monotonic())):
                    return
                if self._finishing.is_set() and len(self.uploads) >= len(self._pictures):
                    return
                pace = _A_SECOND_AT_THE_END if self._finishing.is_set() else A_SECOND
                due = max(due, time.monotonic() - 1) + 1 / pace  # what is late is made up for, within a second
                put = put_object(self._client, PHOTOS, picture.key, picture.content)
                self.uploads.append(Upload(picture.key, picture.truth, put.started))
                self._show(0, len(self.uploads))
        finally:
            self._ended.set()

    def count(self) -> None:
        """Until every picture that was put has an outcome, or none came for a long time."""
        changed = time.monotonic()
        while not (self._ended.is_set() and self.outcomes >= len(self.uploads)):
            asked = time.monotonic()
            now = count_outcomes(self._client, PHOTOS, RESULTS, DEAD_LETTERS)
            if now != self.outcomes or not self._ended.is_set():
                self.outcomes, changed = now, time.monotonic()
                self._show(1, now)
            if time.monotonic() - changed > _STALLED_SECONDS:
                return
            # Listing is work for the store that everything else waits for: a tenth of the time at most.
            if self._cancelled.wait(max(_POLL_SECONDS, 9 * (time.monotonic() - asked))):
                return

    def _show(self, task: int, completed: int) -> None:
        self._bar.update(self._tasks[task], completed=completed, total=max(len(self.uploads), len(self._pictures)))

    def _endless(self) -> Iterator[Picture]:
        yield from self._pictures
        whole = [picture for picture in self._pictures if picture.truth is not None]
        for number in itertools.count(1):
            yield from (Picture(f"again-{number}/{each.key}", each.content, each.truth) for each in whole)
