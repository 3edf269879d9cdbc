"""A queue in the real store, and sources that read it: in a thread, or as the process that they are."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.ceph import Ceph
from testbed.ceph_push import Queued, queued_events
from testbed.processes import Running, running
from testbed.stores import Store
from whimbrel.eventing.source_process import deliver_all
from whimbrel.eventing.sources.sqs import SqsSourceSettings, SqsUpstream

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

QUICK: dict[str, Any] = {"backoff_seconds": 0.05, "backoff_max_seconds": 0.5, "sqs_wait_seconds": 1}


@dataclass(frozen=True)
class Queue:
    name: str
    url: str
    client: SQSClient

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def counts(self) -> tuple[int, int]:
        """Messages that wait, and messages that somebody holds."""
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(answer[names[0]]), int(answer[names[1]])

    @property
    def length(self) -> int:
        return sum(self.counts())

    def empty(self) -> bool:
        return self.length == 0


@pytest.fixture
def queue(store: Store) -> Queue:
    client = store.sqs()
    name = f"queue-{uuid.uuid4().hex[:12]}"
    return Queue(name, client.create_queue(QueueName=name)["QueueUrl"], client)


def record(key: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": key, "eTag": f"etag-{number}", "size": 3}},
        **changes,
    }


def notification(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


SourceInThread = Callable[..., AbstractContextManager[None]]
SourceProcess = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def source(store: Store, queue: Queue) -> SourceInThread:
    """The source of `queue` in a thread, with settings of the test's; the end of the block is its graceful stop."""

    @contextmanager
    def run(sink: str, **settings: Any) -> Iterator[None]:
        given = QUICK | {"sqs_queue": queue.name, "sqs_endpoint": store.endpoint, "sink": sink, **settings}
        upstream_settings = SqsSourceSettings(**given)
        stop: Callable[[], None] = lambda: None  # noqa: E731
        started = threading.Event()
        failures: list[BaseException] = []

        async def main() -> None:
            nonlocal stop
            loop, stopping = asyncio.get_running_loop(), asyncio.Event()
            stop = lambda: loop.call_soon_threadsafe(stopping.set)  # type: ignore[assignment]  # noqa: E731
            upstream = SqsUpstream(upstream_settings)
            await upstream.open()
            started.set()
            await deliver_all(upstream_settings, upstream, stopping)
            await upstream.close()

        def run_main() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                failures.append(error)
                started.set()

        thread = threading.Thread(target=run_main)
        thread.start()
        started.wait(10)
        try:
            yield
        finally:
            stop()
            thread.join(30)
        assert not thread.is_alive()
        assert failures == []

    return run


@pytest.fixture
def source_process(store: Store, queue: Queue, tmp_path: Path) -> SourceProcess:
    """`python -m whimbrel.eventing source sqs` for `queue`; a graceful stop at the end of the block."""

    def run(sink: str, **environment: str) -> AbstractContextManager[Running]:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
        return running(
            "whimbrel.eventing",
            *("source", "sqs", f"--sqs-queue={queue.name}", "--http-port=0", *arguments),
            log=tmp_path / "source.log",
            K_SINK=sink,
            **store.settings_environment,
            **environment,
        )

    return run


@pytest.fixture(scope="session")
def queued(ceph: Ceph) -> Iterator[Queued]:
    """Asked for by whoever uses Ceph first: the gateway's 30 s then pass during other tests."""
    with queued_events(ceph) as waiting:
        yield waiting
