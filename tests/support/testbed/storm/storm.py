"""Puts the objects, breaks everything, waits until each object has an outcome, and counts."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from testbed.engine import picture
from testbed.processes import wait_for
from testbed.storm.crew import Crew, crew
from testbed.storm.faults import Fault
from testbed.storm.lanes import Lane
from whimbrel.core.errors import TryAgain
from whimbrel.core.references import ObjectRef, path_of_key
from whimbrel.core.results import BY_VERSION
from whimbrel.eventing.listing import entries
from whimbrel.eventing.reconcile.announce import BrokerAnnouncer
from whimbrel.eventing.reconcile.compare import Announce, Question, Report, reconcile
from whimbrel.eventing.reconcile.look import Places
from whimbrel.eventing.reconcile.survey import Survey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "storm/"
_PUT_PAUSE_SECONDS = 0.2
_REVIVE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """`objects` are shared by the lane's buckets, `broken` of a thousand of them are no pictures.

    One process is killed after each slice of puts, and then one every `kill_seconds`, once all are ready again, until
    `calm` of the objects (a share) have their outcome. The store goes away once, for `outage_seconds`. What has no
    outcome when nothing moved for `quiet_seconds` is announced by `reconcile`. All chances follow from `seed`.
    """

    objects: int
    seed: int = 1
    broken: int = 10
    slices: int = 20
    kill_seconds: tuple[float, float] = (2.0, 5.0)
    calm: float = 0.9
    outage_seconds: float = 20.0
    hang_seconds: float = 15.0
    quiet_seconds: float = 60.0
    settle_seconds: float = 900.0


@dataclass
class Account:
    """What was put, what came of it, and what was done to it. Keys are (bucket, key)."""

    objects: int = 0
    results: int = 0
    dead_letters: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)
    twice: list[tuple[str, str]] = field(default_factory=list)
    unexpected: list[tuple[str, str]] = field(default_factory=list)
    reconciled: dict[str, Report] = field(default_factory=dict)
    announced: int = 0
    put_again: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    outage_seconds: float = 0.0
    crashes: Counter[str] = field(default_factory=Counter)
    posted_again: int = 0
    accepted_again: int = 0
    known: int = 0
    written_again: int = 0
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Results and dead letters are the objects, none twice, and only what is broken is a dead letter."""
        counted = self.results + self.dead_letters == self.objects
        settled = all(report.missing == 0 for report in self.reconciled.values())
        return counted and settled and not (self.missing or self.twice or self.unexpected)

    def table(self) -> Iterator[str]:
        """The lines of the report."""
        yield f"{self.objects} objects = {self.results} results + {self.dead_letters} dead letters"
        yield f"  without outcome {len(self.missing)}, twice {len(self.twice)}, unexpected {len(self.unexpected)}"
        for bucket, report in self.reconciled.items():
            yield f"  reconcile {bucket}: {report.missing} of {report.objects} missing"
        yield f"  announced by reconcile: {self.announced}, of which the store itself told nobody"
        yield f"injected in {self.seconds:.0f} s"
        yield f"  {self.kills.total()} kills -9: " + ", ".join(f"{n} {who}" for who, n in sorted(self.kills.items()))
        yield f"  {self.faults.total()} faults of sinks: " + ", ".join(f"{n} {what}" for what, n in self.faults.items())
        crashes = ", ".join(f"{n} {who}" for who, n in sorted(self.crashes.items())) or "none"
        yield f"  the store away for {self.outage_seconds:.0f} s; {self.put_again} puts tried again"
        yield f"  the store's own crashes, after which it was started again: {crashes}"
        yield f"redelivered: {self.posted_again} posts beyond the first of their event"
        yield f"deduplicated: {self.known} answered from the result without inference, {self.written_again} not written"
        yield f"  again by the results sink; {self.accepted_again} taken twice in all"


class Putting:
    """Puts objects until the store has them, whatever it does meanwhile, or raises where it never takes one."""

    def __init__(self, lane: Lane, patience_seconds: float) -> None:
        self._lane, self._patience_seconds = lane, patience_seconds
        self.again = 0
        self.put: dict[tuple[str, str], str] = {}  # the eTag
        self._lock = threading.Lock()

    def __call__(self, objects: Sequence[tuple[str, str, bytes]]) -> None:
        client = self._lane.s3()
        with ThreadPoolExecutor(8, "put") as threads:
            list(threads.map(lambda each: self._put(client, *each), objects))

    def _put(self, client: S3Client, bucket: str, key: str, body: bytes) -> None:
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                etag = client.put_object(Bucket=bucket, Key=key, Body=body)["ETag"].strip('"')
            except (BotoCoreError, ClientError):
                if time.monotonic() > until:
                    raise
                with self._lock:
                    self.again += 1
                time.sleep(_PUT_PAUSE_SECONDS)
                continue
            with self._lock:
                self.put[bucket, key] = etag
            return


def run(folder: Path, lane: Lane, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Account:
    """One storm, from the start of our processes to the count."""
    began, chance = time.monotonic(), random.Random(plan.seed)  # noqa: S311
    putting, account = Putting(lane, plan.settle_seconds), Account()
    objects = list(_objects(lane, plan))
    with (
        crew(folder, lane, seed=plan.seed, hang_seconds=plan.hang_seconds) as ours,
        _revived(lane, account.crashes, say),
    ):
        _Rage(ours, lane, plan, chance, account, say).run(putting, objects)
        say(f"calm: {_settled(lane)} of {len(objects)} have an outcome")
        ours.wait_ready()
        _wait_settled(ours, lane, plan, len(objects))
        if _settled(lane) < len(objects):
            account.announced = _announce(ours, lane)
            say(f"announced by reconcile: {account.announced}, of which the store itself told nobody")
            _wait_settled(ours, lane, plan, len(objects))
        wait_for(lambda: lane.waiting() == 0, "empty queues, of events in work too", plan.settle_seconds)
        _count(ours, account)
    account.put_again = putting.again
    account.seconds = time.monotonic() - began
    _settle(lane, putting.put, {key for bucket, key, body in objects if _is_broken(body)}, account)
    return account


@contextmanager
def _revived(lane: Lane, crashes: Counter[str], say: Callable[[str], None]) -> Iterator[None]:
    """What of the store ends by itself is started again, as its operator's init system would."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_REVIVE_PAUSE_SECONDS):
            for name in lane.revive():
                say(f"{name} crashed")
                crashes[name] += 1

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _objects(lane: Lane, plan: Plan) -> Iterator[tuple[str, str, bytes]]:
    """Bucket, key and body; the broken ones are spread evenly."""
    every = max(1, 1000 // plan.broken)
    for number in range(plan.objects):
        bucket = lane.buckets[number % len(lane.buckets)]
        is_broken = number // len(lane.buckets) % every == every // 2
        body = b"no picture %d" % number if is_broken else picture(number)
        yield bucket, f"{PREFIX}{number:06}.png", body


def _is_broken(body: bytes) -> bool:
    return body.startswith(b"no picture")


@dataclass
class _Rage:
    """What is done to everything, in the order that `chance` gives."""

    ours: Crew
    lane: Lane
    plan: Plan
    chance: random.Random
    account: Account
    say: Callable[[str], None]

    def run(self, putting: Putting, objects: Sequence[tuple[str, str, bytes]]) -> None:
        victims = _victims(self.ours, self.chance)
        size = -(-len(objects) // self.plan.slices)
        for number in range(self.plan.slices):
            outage = self._outage() if number == self.plan.slices // 2 else None
            putting(objects[number * size : (number + 1) * size])
            self._kill(next(victims))
            if outage is not None:
                outage.join()
        while _settled(self.lane) < self.plan.calm * len(objects):
            self.ours.wait_ready()  # else nothing ever passes where a start takes longer than the next kill
            time.sleep(self.chance.uniform(*self.plan.kill_seconds))
            self._kill(next(victims))

    def _outage(self) -> threading.Thread:
        seconds = self.plan.outage_seconds
        self.say(f"the store is away for {seconds:g} s")
        self.account.outage_seconds += seconds
        outage = threading.Thread(target=self.lane.outage, args=(seconds,))
        outage.start()
        return outage

    def _kill(self, name: str) -> None:
        self.say(f"killed {name}")
        self.ours.kill_and_restart(name)
        self.account.kills[name] += 1


def _victims(ours: Crew, chance: random.Random) -> Iterator[str]:
    """Each once in some order, then any."""
    names = sorted(ours.members)
    yield from chance.sample(names, len(names))
    while True:
        yield chance.choice(names)


def _wait_settled(ours: Crew, lane: Lane, plan: Plan, objects: int) -> None:
    """Until each object has an outcome, or nothing moves any more."""
    moved = time.monotonic()

    def settled_or_quiet() -> bool:
        nonlocal moved
        if lane.waiting() or ours.doors["broker"].in_flight:
            moved = time.monotonic()
        return _settled(lane) >= objects or time.monotonic() - moved > plan.quiet_seconds

    wait_for(settled_or_quiet, f"an outcome of {objects} objects, or quiet", plan.settle_seconds)


def _announce(ours: Crew, lane: Lane) -> int:
    """What the store lost of its notifications when it was killed, `reconcile` finds."""
    emitted = 0
    for bucket in lane.buckets:
        stop = threading.Event()
        with BrokerAnnouncer(f"{ours.doors['broker'].url}/default/default", "us-east-1", stop=stop) as announcer:
            emitted += _reconciled(lane, bucket, announcer).emitted
    return emitted


def _reconciled(lane: Lane, bucket: str, announce: Announce | None = None) -> Report:
    places = Places(lane.results_bucket, dead_letters_bucket=lane.dead_letters_bucket)
    question = Question(bucket, places, key_prefix=PREFIX)
    with closing(Survey(None, question.facts())) as survey:
        return reconcile(lane.s3(), question, survey, announce=announce)


def _settled(lane: Lane) -> int:
    """How many object versions have an outcome, by listing alone; 0 while the store does not tell."""
    try:
        return len(_results(lane)) + len(_letters(lane))
    except TryAgain:
        return 0


def _results(lane: Lane) -> Counter[str]:
    """Records (results, and objects said to be gone) of each object version, by its folder."""
    client = lane.s3()
    roots = (f"{bucket}/{BY_VERSION}/{PREFIX}" for bucket in lane.buckets)
    found = (entry for root in roots for entry in entries(client, lane.results_bucket, root))
    return Counter(entry.key.rpartition("/")[0] for entry in found)


def _letters(lane: Lane) -> Counter[str]:
    """Dead letters of each key: two puts of one broken object, where the first was not answered, are two events."""
    found = entries(lane.s3(), lane.dead_letters_bucket, PREFIX)
    return Counter(entry.key.rpartition("/")[0] for entry in found)


def _count(ours: Crew, account: Account) -> None:
    for door in ours.doors.values():
        account.faults.update(door.injected)
        account.posted_again += door.again
    account.accepted_again = ours.doors["results"].accepted_again + ours.doors["dead-letters"].accepted_again
    account.known = ours.said("digits-transformer", '"answered before"')
    account.written_again = ours.said("results", "prediction.v1: duplicate")


def _settle(lane: Lane, put: Mapping[tuple[str, str], str], broken: set[str], account: Account) -> None:
    """Compare what was put with what came of it; then have `reconcile` say the same."""
    results, letters = _results(lane), _letters(lane)
    account.objects = len(put)
    for (bucket, key), etag in put.items():
        ref = ObjectRef(bucket, key, etag=etag)
        of_version = results[Places(lane.results_bucket).folder_of(ref)]
        is_dead = letters[path_of_key(key)] > 0
        account.results += of_version
        account.dead_letters += is_dead
        if of_version + is_dead == 0:
            account.missing.append((bucket, key))
        if of_version + is_dead > 1:
            account.twice.append((bucket, key))
        if is_dead != (key in broken):
            account.unexpected.append((bucket, key))
    account.reconciled = {bucket: _reconciled(lane, bucket) for bucket in lane.buckets}
