"""What a rollout does besides moving traffic: its backtest, the shadows of its canary and the look at live traffic,
each in a task of its own.

The backtest's report and the shadows' comparisons are left in the store: a controller that is started anew goes on
from them. What it begins again is a backtest that had not ended, and the counts of live requests.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from whimbrel.core.errors import InputRefused, Unavailable, WhimbrelError
from whimbrel.mlflow.rollout.backtest import MAX_PICTURE_BYTES, Report, make_report, render
from whimbrel.mlflow.rollout.comparing import Comparing, Comparison
from whimbrel.mlflow.rollout.evidence_store import EvidenceStore
from whimbrel.mlflow.rollout.gates import OF_THE_OBJECTS, Measure, paired_harms, slow_above
from whimbrel.mlflow.rollout.known_objects import KnownObject
from whimbrel.mlflow.rollout.live import LiveCounts, LiveLatency, LiveSource, Requests
from whimbrel.mlflow.rollout.reconcile import JUDGED, Backtested, Evidence
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

SHADOWS_A_FILE: Final = 50
MAX_SHADOWS: Final = 20_000  # of one rollout, an hour's at the default rate; then live requests alone go on telling
LIVE_SECONDS: Final = 3.0  # between two looks at the results or at Prometheus
SHADOW_SECONDS: Final = 5.0  # a kill costs the comparisons of this time at most
LONGEST_PAUSE_SECONDS: Final = 60.0
_SETTLED_SHADOWS: Final = 30  # of the champion, before anything counts as slow


@dataclass(frozen=True, slots=True)
class Asking:
    """How both versions are asked, and about what."""

    comparing: Comparing
    known: tuple[KnownObject, ...]


class Work:
    """Of one rollout. Belongs to one event loop; `stop` it.

    `ask` and `see`: how both versions are asked, and where their live traffic is seen, once that is needed.
    """

    def __init__(
        self,
        spec: Spec,
        ask: Callable[[], Awaitable[Asking | None]],
        see: Callable[[ModelRollout], Awaitable[LiveSource | None]],
        store: EvidenceStore,
    ) -> None:
        self._spec, self._ask, self._see, self._store = spec, ask, see, store
        self._watching: asyncio.Task[None] | None = None
        self._requests: Requests = {}  # as the source had them at its last look
        self._latency = LiveLatency(spec.champion.version, spec.candidate.version)
        self._blind: str | None = None  # why live traffic is not seen
        self._task: asyncio.Task[None] | None = None
        self._doing: Phase | None = None
        self._failures, self._not_before = 0, 0.0  # of the task, one after the other; by the loop's clock
        self._shadows: list[Comparison] | None = None
        self._fresh: list[Comparison] = []  # of the shadows, not kept in the store yet
        self._known: frozenset[str] | None = None
        self._live = LiveCounts(spec.champion.version, spec.candidate.version)
        self._step: tuple[Phase, int] | None = None
        self._answers_before = 0
        self.report: Report | None = None
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        return "; ".join(each for each in (self._trouble, self._blind) if each) or None

    def follow(self, rollout: ModelRollout) -> None:
        """Begin what this phase needs, end what it does not. What failed is begun again at a later call, after a pause
        that grows."""
        phase = rollout.status.phase
        if phase in JUDGED and self._watching is None:
            self._watching = asyncio.create_task(self._watch(rollout))
        elif phase not in JUDGED and self._watching is not None:
            self._watching.cancel()
            self._watching = None
        doing = Phase.CANARY if phase in JUDGED else phase
        if self._task is not None and self._task.done():
            self._task = None
        if doing is not self._doing and self._task is not None:
            self._task.cancel()
            self._task = None
        if doing is not self._doing:
            self._failures, self._not_before = 0, 0.0
        self._doing = doing
        if asyncio.get_running_loop().time() < self._not_before:
            return
        if self._task is None and doing is Phase.BACKTEST and self.report is None:
            self._task = asyncio.create_task(self._told(self._backtest()))
        elif self._task is None and doing is Phase.CANARY:
            self._task = asyncio.create_task(self._told(self._shadow()))

    async def stop(self) -> None:
        running = [task for task in (self._task, self._watching) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    @property
    def backtested(self) -> Backtested | None:
        if self.report is None:
            return None
        return Backtested(self.report.verdicts, self._store.uri("backtest.html"))

    def evidence(self, rollout: ModelRollout, requests: Requests) -> Evidence:
        """Of the shadows so far and of the live requests since the first look: `requests` where replicas tell theirs.

        An object says the same when it is asked again: of what it says itself, its first answers count alone.
        """
        status = rollout.status
        if status.phase in JUDGED:
            self._live.look(requests if self._spec.pointer is not None else self._requests)
        if self._step != (status.phase, status.step):
            self._step, self._answers_before = (status.phase, status.step), self._live.answers
        shadows = list(self._shadows or ())  # the task goes on adding to it
        slow = self._slow(shadows)
        harms = _harms(shadows, slow)
        harms[Measure.ERRORS].update(self._live.errors)
        harms[Measure.LATENCY].update(dict(self._latency.slow))
        first = {each.uri: each for each in reversed(shadows)}
        harms |= {measure: seen for measure, seen in _harms(first.values(), slow).items() if measure in OF_THE_OBJECTS}
        since = status.since.timestamp() if status.since else 0.0
        answers = sum(each.time >= since for each in shadows) + self._live.answers - self._answers_before
        return Evidence(harms, answers, all_asked=self._known is not None and self._known <= first.keys())

    def _slow(self, shadows: Sequence[Comparison]) -> float:
        """Once known it stays: a limit that moved with what it judges would be no limit."""
        if self.report is not None and self.report.slow_ms:
            return self.report.slow_ms
        return slow_above(
            [each.champion.milliseconds for each in shadows[:_SETTLED_SHADOWS] if not each.champion.failed]
        )

    async def _told(self, work: Coroutine[None, None, None]) -> None:
        """A store or a service that is away for a while is no end: it is told, and tried again."""
        try:
            await work
        except Exception as error:
            self._trouble = self._told_of(error, self._trouble)
            self._failures += 1
            self._not_before = asyncio.get_running_loop().time() + pause_after(self._failures)
        else:
            self._trouble, self._failures = None, 0

    async def _watch(self, rollout: ModelRollout) -> None:
        """Until cancelled. What cannot be seen is no evidence, and is told."""
        source: LiveSource | None = None
        while True:
            try:
                source = source or await self._see(rollout)
                if source is None:
                    return
                live = await source.look()
            except Exception as error:
                self._blind = self._told_of(error, self._blind)
            else:
                self._blind, self._requests = None, live.requests
                self._latency.look(live.fresh)
            await asyncio.sleep(LIVE_SECONDS)

    def _told_of(self, error: Exception, before: str | None) -> str:
        """What the log and the status say of it; once, where it is the same as `before`."""
        if not isinstance(error, WhimbrelError):
            logger.error("unexpected", exc_info=error)
            return f"unexpected {type(error).__name__}: {error}"
        if before != str(error):
            logger.warning("%s", error, extra={"candidate": self._spec.candidate.version})
        return str(error)

    async def _backtest(self) -> None:
        backtest = self._spec.policy.backtest
        if backtest is None:
            return
        made = await asyncio.to_thread(self._store.read_backtest)
        if made is not None:
            self.report = _parsed(made)
            return
        asking = await self._ask()
        if asking is None:
            return
        chosen = _sample(asking.known, backtest.objects, seed=self._spec.candidate.digest)
        asked = asking.comparing.each(chosen, backtest.requests_per_second)
        comparisons = [each async for each in asked]
        void = _void(comparisons)
        if void is not None:
            raise Unavailable(void)
        report = make_report(self._spec, comparisons, datetime.now(UTC))
        picture = partial(self._store.read_object, most_bytes=MAX_PICTURE_BYTES)
        page = await asyncio.to_thread(render, report, picture)
        document = report.model_dump_json(by_alias=True, indent=1).encode()
        await asyncio.to_thread(self._store.write_backtest, document, page)
        self.report = report

    async def _shadow(self) -> None:
        """Until cancelled. What was seen counts at once, and is kept in files of some dozens."""
        if self._shadows is None:
            made = await asyncio.to_thread(self._store.read_backtest)
            self.report = self.report or (_parsed(made) if made is not None else None)
            self._shadows = await asyncio.to_thread(self._store.read_shadows)
        per_second = self._spec.policy.shadows_per_second
        asking = await self._ask() if per_second else None
        if asking is None:
            await asyncio.Event().wait()
            return
        self._known = frozenset(each.uri for each in asking.known)
        order = _endless(asking.known, {each.uri for each in self._shadows})
        kept = asyncio.get_running_loop().time()
        async for comparison in asking.comparing.each(order, per_second):
            self._fresh.append(comparison)
            self._shadows.append(comparison)
            now, enough = asyncio.get_running_loop().time(), len(self._shadows) >= MAX_SHADOWS
            if len(self._fresh) >= SHADOWS_A_FILE or now - kept >= SHADOW_SECONDS or enough:
                await asyncio.to_thread(self._store.add_shadows, self._fresh)
                self._trouble, self._failures = _void(self._fresh), 0
                self._fresh, kept = [], now
            if enough:
                break
        await asyncio.Event().wait()


def pause_after(failures: int) -> float:
    """Seconds until what failed so often is begun again: it asks the very service that may be in trouble."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)


def _void(comparisons: Sequence[Comparison]) -> str | None:
    """Why nothing is compared, where the champion itself hardly answers."""
    reasons = [each.champion.reason for each in comparisons if each.champion.failed]
    if 2 * len(reasons) <= len(comparisons):
        return None
    return (
        f"expected the champion to answer the known objects, seen {len(reasons)} of {len(comparisons)} fail; "
        f"the last: {reasons[-1]}"
    )


def _sample(known: Sequence[KnownObject], count: int, seed: str) -> list[KnownObject]:
    """The same ones for the same candidate, whoever makes the backtest."""
    drawn = random.Random(seed)  # noqa: S311
    return drawn.sample(list(known), min(count, len(known)))


def _endless(known: Sequence[KnownObject], asked: AbstractSet[str]) -> Iterator[KnownObject]:
    """In a random order, those that were not asked yet before all others; then all again in another."""
    shuffled = random.sample(list(known), len(known))
    yield from (each for each in shuffled if each.uri not in asked)
    for _ in itertools.count():
        yield from random.sample(list(known), len(known))


def _harms(comparisons: Iterable[Comparison], slow: float) -> dict[Measure, Counter[float]]:
    each = list(comparisons)
    truth = [one.truth for one in each]
    return paired_harms([one.champion for one in each], [one.candidate for one in each], truth, slow)


def _parsed(content: bytes) -> Report:
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        raise InputRefused(f"expected the report of the backtest, seen {error.errors()[0]['msg']}") from None
