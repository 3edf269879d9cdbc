"""An event that its queue hands out again says so, and the first delivery carries nothing."""

from __future__ import annotations

from testbed.processes import wait_for
from testbed.sinks import Reply, scripted_sink
from whimbrel.core.redelivery import DELIVERIES

from .conftest import Queue, SourceInThread, notification, record


def test_a_second_delivery_carries_how_many_there_were(queue: Queue, source: SourceInThread) -> None:
    queue.send(notification(record("a.png")))
    with scripted_sink(lambda event, attempt: Reply(503 if attempt == 1 else 202)) as sink:
        with source(sink.url, delivery_attempts=1):
            wait_for(lambda: sink.accepted, "the event, delivered again", 60)
        counts = [event.extensions.get(DELIVERIES) for event in sink.received]
    assert counts == [None, "2"]
