"""One member of a Kafka consumer group, on a thread that always polls: bounded buffers, and no loss at a rebalance.

A partition that leaves is waited for, within a bound: what its sink has accepted by then is committed, the rest is
the next member's. A full buffer pauses the partitions, so that the member stays in the group however slow its sink.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from whimbrel.core.errors import Unavailable
from whimbrel.eventing.offsets import Offsets
from whimbrel.eventing.upstream import Message

_POLL_SECONDS: Final = 0.1
_ROOM_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 15.0
_AWAY: Final = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT)

_log = logging.getLogger(__name__)
# The group is moving on: the next round commits again, or the partitions have left by then.
_PASSING: Final = (
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._WAIT_COORD,
)

Place = tuple[str, int]  # topic and partition


class Receipt(NamedTuple):
    """`assignment` tells one stay of the partition with this member from the next."""

    place: Place
    offset: int
    assignment: int


@dataclass(slots=True)
class _Partition:
    assignment: int
    offsets: Offsets = field(default_factory=Offsets)
    held: set[int] = field(default_factory=set)  # handed out, neither accepted nor given back
    leaving: bool = False


class Member:
    """`config` is librdkafka's; `most_buffered` and `most_uncommitted` (a partition) bound the memory."""

    def __init__(
        self, config: Mapping[str, Any], *, most_buffered: int, most_uncommitted: int, leave_seconds: float
    ) -> None:
        self._most_buffered, self._most_uncommitted = most_buffered, most_uncommitted
        self._leave_seconds = leave_seconds
        self._loop = asyncio.get_running_loop()
        self._arrival = asyncio.Event()
        self._changed = threading.Condition()  # guards all below
        self._partitions: dict[Place, _Partition] = {}
        self._buffer: deque[Message] = deque()
        self._paused: set[Place] = set()
        self._assignments = 0
        self._failure: KafkaError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="kafka-poll", daemon=True)
        self._consumer = Consumer({**config, "error_cb": self._failed}, logger=_log)

    def start(self, topics: Sequence[str]) -> None:
        """Look the topics up, and join the group. Blocks; raises Unavailable."""
        try:
            self._look_up(topics)
            self._consumer.subscribe(
                list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
        except BaseException:
            self._consumer.close()
            raise
        self._thread.start()

    async def receive(self, most: int, seconds: float) -> list[Message]:
        """Up to so many messages; waits so long for the first."""
        if not (messages := self._take(most)):
            self._arrival.clear()
            if not (messages := self._take(most)):
                await self._arrive_within(seconds)
                messages = self._take(most)
        if not messages:
            self._tell_failure()
        return messages

    def _tell_failure(self) -> None:
        if not self._thread.is_alive():
            raise RuntimeError("the thread that polls Kafka has ended")
        failure = self._failure
        if failure is None:
            return
        if failure.code() in _AWAY:
            raise Unavailable(f"no broker answers ({failure.str()})")
        self._failure = None
        raise Unavailable(f"the brokers refuse ({failure.str()})")

    def holds(self, receipt: Receipt) -> bool:
        partition = self._partition(receipt)
        return partition is not None and not partition.leaving

    def accept(self, receipts: Iterable[Receipt]) -> None:
        """The next round of the polling thread commits them."""
        with self._changed:
            for receipt in receipts:
                if (partition := self._partition(receipt)) is not None:
                    partition.held.discard(receipt.offset)
                    partition.offsets.accept(receipt.offset)
            self._changed.notify_all()

    def let_go(self, receipt: Receipt) -> None:
        """It is not in work any more, and not accepted."""
        with self._changed:
            if (partition := self._partition(receipt)) is not None:
                partition.held.discard(receipt.offset)
            self._changed.notify_all()

    def bring_again(self, message: Message, receipt: Receipt) -> None:
        """After it was let go: there is no other way back to one message of a partition."""
        with self._changed:
            if self.holds(receipt):
                self._buffer.append(message)
        self._arrival.set()

    def close(self) -> None:
        """Leave the group, after the commit of what is accepted. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)

    def _look_up(self, topics: Sequence[str]) -> None:
        try:
            known = self._consumer.list_topics(timeout=_LOOK_SECONDS).topics
        except KafkaException as error:
            self._consumer.poll(0)  # tells why, where the connections know: a certificate, a password
            why = self._failure if self._failure is not None else error.args[0]
            raise Unavailable(f"no broker answers ({why.str()})") from error
        for topic in topics:
            fault = known[topic].error if topic in known else "no such topic"
            if fault is not None:
                raise Unavailable(f"topic {topic!r} cannot be read ({fault}); create it, or permit reading it")

    def _take(self, most: int) -> list[Message]:
        with self._changed:
            messages = [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
            for message in messages:
                receipt = message.receipt
                if isinstance(receipt, Receipt) and (partition := self._partition(receipt)) is not None:
                    partition.held.add(receipt.offset)
            if messages:
                self._changed.notify_all()
            return messages

    async def _arrive_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._arrival.wait()
        except TimeoutError:
            return

    def _partition(self, receipt: Receipt) -> _Partition | None:
        partition = self._partitions.get(receipt.place)
        return partition if partition is not None and partition.assignment == receipt.assignment else None

    # The client answers one thread at a time, and a waiting one late: whatever asks it does so here.

    def _run(self) -> None:
        try:
            while not self._closing:
                room = self._room()
                try:
                    self._pause_and_resume(room)
                    self._poll(room)
                    self._commit(list(self._partitions))
                    self._look_again()
                except KafkaException as error:
                    if error.args[0].code() not in _PASSING:
                        self._failed(error.args[0])
        except Exception:
            _log.exception("polling ended")
        finally:
            self._consumer.close()

    def _room(self) -> int:
        """How many messages the buffer may take, after a while when that is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._buffer) < self._most_buffered, _ROOM_SECONDS)
            return max(0, self._most_buffered - len(self._buffer))

    def _pause_and_resume(self, room: int) -> None:
        with self._changed:
            full = {
                place
                for place, partition in self._partitions.items()
                if not room or len(partition.offsets) >= self._most_uncommitted
            }
            pause, resume = full - self._paused, self._paused - full
            self._paused = full
        if pause:
            self._consumer.pause([TopicPartition(*place) for place in pause])
        if resume:
            self._consumer.resume([TopicPartition(*place) for place in resume])

    def _poll(self, room: int) -> None:
        first = self._consumer.poll(_POLL_SECONDS if room else 0.0)
        if first is None:
            return
        records = [first, *(self._consumer.consume(room - 1, 0.0) if room > 1 else [])]
        with self._changed:
            for record in records:
                self._arrive(record)
        self._loop.call_soon_threadsafe(self._arrival.set)

    def _arrive(self, record: Record) -> None:
        error, topic, number, offset = record.error(), record.topic(), record.partition(), record.offset()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                self._failed(error)
            return
        partition = self._partitions.get((topic or "", number if number is not None else -1))
        if partition is None or topic is None or number is None or offset is None:
            return  # of a partition that has left meanwhile
        partition.offsets.deliver(offset)
        self._buffer.append(Message(record.value() or b"", Receipt((topic, number), offset, partition.assignment)))

    def _commit(self, places: Iterable[Place]) -> None:
        """What is accepted; blocks until the group's coordinator has it."""
        with self._changed:
            mine = [(place, self._partitions[place].offsets) for place in places if place in self._partitions]
            moved = [(place, offsets, offsets.position) for place, offsets in mine if offsets.moved]
        if not moved:
            return
        self._consumer.commit(offsets=[TopicPartition(*place, to) for place, _, to in moved], asynchronous=False)
        with self._changed:
            for _, offsets, to in moved:
                offsets.committed = to

    def _look_again(self) -> None:
        """After a failure: the brokers that were away may answer again."""
        if self._failure is not None and self._failure.code() in _AWAY:
            self._consumer.list_topics(timeout=_LOOK_SECONDS)
            self._failure = None

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._changed:
            for place in places:
                self._assignments += 1
                self._partitions[place.topic, place.partition] = _Partition(self._assignments)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Wait for what is in work, commit what is accepted, forget the rest: the next member gets it."""
        leaving = {(place.topic, place.partition) for place in places}
        deadline = time.monotonic() + self._leave_seconds
        with self._changed:
            mine = [self._partitions[place] for place in leaving if place in self._partitions]
            for partition in mine:
                partition.leaving = True
            self._drop_buffered(leaving)
            if in_work := sum(len(partition.held) for partition in mine):
                _log.info("partitions leave: waiting for %d messages in work", in_work)
            while any(partition.held for partition in mine) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        try:
            self._commit(leaving)
        except KafkaException as error:
            _log.warning("what was accepted of a partition that leaves will come again: %s", error)
        self._forget(leaving)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        _log.warning("lost %d partitions: what was in work comes again elsewhere", len(places))
        self._forget({(place.topic, place.partition) for place in places})

    def _forget(self, places: set[Place]) -> None:
        with self._changed:
            self._drop_buffered(places)
            self._paused -= places
            for place in places:
                self._partitions.pop(place, None)

    def _drop_buffered(self, places: set[Place]) -> None:
        kept = [message for message in self._buffer if _place(message) not in places]
        self._buffer.clear()
        self._buffer.extend(kept)

    def _failed(self, error: KafkaError) -> None:
        """Also called by the client, which tells of its connections: first why one failed, then that all have."""
        if self._failure is None or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._failure = error


def _place(message: Message) -> Place | None:
    return message.receipt.place if isinstance(message.receipt, Receipt) else None
