"""The broker against real subscribers on loopback: attempts, replies, dead letters and what the producer is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from testbed.processes import wait_for
from testbed.subscribers import Answer, Script, Subscriber, reply, subscriber
from whimbrel.core.cloudevent import Event, batched, binary, json_event, structured
from whimbrel.local.broker.app import Ingress
from whimbrel.local.broker.config import parse_config
from whimbrel.local.broker.settings import BrokerSettings
from whimbrel.local.state import free_port

EVENT = json_event(id="1", source="test", type="put", subject="a.jpg", data={"key": "a.jpg"})
FAST: dict[str, Any] = {"retry": 5, "backoffPolicy": "exponential", "backoffDelay": "PT0.001S", "timeout": "PT5S"}


@contextmanager
def broker(triggers: list[dict[str, Any]], **settings: Any) -> Iterator[str]:
    """A broker `n/b` with these triggers, in a thread; its address."""
    document = {
        "brokers": [{"namespace": "n", "name": "b"}],
        "triggers": [
            {"namespace": "n", "name": f"t{index}", "broker": "b"} | trigger for index, trigger in enumerate(triggers)
        ],
    }
    ingress = Ingress(BrokerSettings(config=Path(), **settings), parse_config(json.dumps(document), origin="test"))
    port = free_port()
    config = uvicorn.Config(ingress.application(), port=port, log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, "the broker")
        yield f"http://127.0.0.1:{port}/n/b"
    finally:
        server.should_exit = True
        thread.join(10)


def to(taker: Subscriber, dead_letters: Subscriber | None = None, **fields: Any) -> dict[str, Any]:
    delivery = FAST | fields.pop("delivery", {})
    if dead_letters is not None:
        delivery["deadLetterSink"] = {"uri": dead_letters.url}
    return {"subscriber": {"uri": taker.url}, "delivery": delivery, **fields}


def only(event_type: str) -> dict[str, Any]:
    return {"attributes": {"type": event_type}}


def post(address: str, event: Event = EVENT, client: httpx.Client | None = None) -> httpx.Response:
    headers, body = binary(event)
    return (client.post if client else httpx.post)(address, content=body, headers=headers, timeout=30)


Subscribers = Callable[..., Subscriber]


@pytest.fixture
def subscribers() -> Iterator[Subscribers]:
    with ExitStack() as running:

        def start(script: Script = lambda event, number: Answer()) -> Subscriber:
            started: AbstractContextManager[Subscriber] = subscriber(script)
            return running.enter_context(started)

        yield start


def always(status: int, body: bytes = b"") -> Script:
    return lambda event, number: Answer(status, body=body)


def test_an_accepted_event_arrives_as_it_was_sent(subscribers: Subscribers) -> None:
    taker = subscribers()
    with broker([to(taker)]) as address:
        assert post(address).status_code == 202
    (event,) = taker.events
    assert event.without_extensions(["knativearrivaltime"]) == EVENT
    assert "knativearrivaltime" in event.extensions
    assert taker.headers[0]["prefer"] == "reply"


def test_all_three_modes_are_accepted(subscribers: Subscribers) -> None:
    taker = subscribers()
    more = [json_event(id=str(number), source="test", type="put", data=number) for number in range(5)]
    with broker([to(taker)]) as address:
        for headers, body in (binary(EVENT), structured(EVENT), batched(more)):
            assert httpx.post(address, content=body, headers=headers).status_code == 202
    assert sorted(event.id for event in taker.events) == sorted(["1", "1", *(event.id for event in more)])


def test_a_request_to_another_name_than_this_machines_is_refused(subscribers: Subscribers) -> None:
    taker = subscribers()
    headers, body = binary(EVENT)
    with broker([to(taker)]) as address:
        answer = httpx.post(address, content=body, headers=headers | {"host": "page.example"})
    assert answer.status_code == 403
    assert "expected a loopback name as Host" in answer.json()["error"]
    assert taker.events == []


def test_a_request_id_that_no_header_can_carry_is_left_out(subscribers: Subscribers) -> None:
    taker = subscribers()
    headers, body = binary(EVENT)
    with broker([to(taker)]) as address:
        odd = [*((name.encode(), value.encode()) for name, value in headers.items()), (b"x-request-id", b"caf\xe9")]
        assert httpx.post(address, content=body, headers=odd).status_code == 202
    assert "x-request-id" not in taker.headers[0]


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 503])
def test_a_passing_failure_is_tried_until_it_passes(subscribers: Subscribers, status: int) -> None:
    taker = subscribers(lambda event, number: Answer(status if number < 4 else 204))
    dead_letters = subscribers()
    with broker([to(taker, dead_letters)]) as address:
        assert post(address).status_code == 202
    assert len(taker.events) == 4
    assert dead_letters.events == []


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (413, 1), (422, 1), (404, 6), (429, 6), (503, 6)])
def test_what_does_not_pass_becomes_one_dead_letter(subscribers: Subscribers, status: int, attempts: int) -> None:
    body = json.dumps({"error": f"asked for {status}"}).encode()
    taker, dead_letters = subscribers(always(status, body)), subscribers()
    with broker([to(taker, dead_letters)]) as address:
        assert post(address).status_code == 202
    assert len(taker.events) == attempts
    (letter,) = dead_letters.events
    assert (letter.id, letter.source, letter.type, letter.subject, letter.data) == (
        EVENT.id,
        EVENT.source,
        EVENT.type,
        EVENT.subject,
        EVENT.data,
    )
    extensions = dict(letter.extensions)
    del extensions["knativearrivaltime"]
    assert extensions == {
        "knativebrokerttl": "255",
        "knativeerrorcode": str(status),
        "knativeerrordata": base64.b64encode(body).decode(),
        "knativeerrordest": taker.url,
        "whimbrelattempts": str(attempts),
    }


def test_a_timeout_is_tried_again_and_its_dead_letter_names_no_error(subscribers: Subscribers) -> None:
    never = threading.Event()
    taker, dead_letters = subscribers(lambda event, number: Answer(after=never)), subscribers()
    with broker([to(taker, dead_letters, delivery={"retry": 1, "timeout": "PT0.1S"})]) as address:
        assert post(address).status_code == 202
    never.set()
    assert len(taker.events) == 2
    assert set(dead_letters.events[0].extensions) == {"knativearrivaltime", "knativebrokerttl", "whimbrelattempts"}


def test_a_subscriber_that_is_not_there_is_tried_again(subscribers: Subscribers) -> None:
    taker, dead_letters = subscribers(), subscribers()
    gone = f"http://127.0.0.1:{free_port()}/"
    with broker([to(taker, dead_letters) | {"subscriber": {"uri": gone}}]) as address:
        assert post(address).status_code == 202
    assert dead_letters.events[0].extensions["whimbrelattempts"] == "6"


def test_a_body_that_is_no_cloudevent_is_an_error_on_200_and_ignored_on_202(subscribers: Subscribers) -> None:
    wrong, fine, dead_letters = subscribers(always(200, b"ok")), subscribers(always(202, b"ok")), subscribers()
    with broker([to(wrong, dead_letters), to(fine, dead_letters)]) as address:
        assert post(address).status_code == 202
    assert (len(wrong.events), len(fine.events), len(dead_letters.events)) == (6, 1, 1)


def test_a_reply_is_delivered_before_the_producer_is_answered(subscribers: Subscribers) -> None:
    result = json_event(id="r", source="transformer", type="prediction", subject="a.jpg", data={"label": "7"})
    transformer, sink = subscribers(lambda event, number: reply(result)), subscribers()
    with broker([to(transformer, filter=only("put")), to(sink, filter=only("prediction"))]) as address:
        assert post(address).status_code == 202
        assert [event.data for event in sink.events] == [result.data]
    assert len(transformer.events) == 1


def test_a_reply_that_no_one_takes_makes_the_cause_a_dead_letter(subscribers: Subscribers) -> None:
    result = json_event(id="r", source="transformer", type="prediction", data=None)
    transformer, sink = subscribers(lambda event, number: reply(result)), subscribers(always(422))
    dead_letters = subscribers()
    triggers = [to(transformer, dead_letters, filter=only("put")), to(sink, filter=only("prediction"))]
    with broker(triggers) as address:
        assert post(address).status_code == 202
    (letter,) = dead_letters.events
    assert (letter.id, letter.extensions["knativeerrorcode"]) == ("1", "503")
    assert letter.extensions["knativeerrordest"] == address


def test_a_reply_that_goes_round_ends_as_a_dead_letter(subscribers: Subscribers) -> None:
    echo = subscribers(lambda event, number: reply(json_event(id=str(number), source="echo", type="put", data=None)))
    dead_letters = subscribers()
    with broker([to(echo, dead_letters)]) as address:
        assert post(address).status_code == 202
    assert len(echo.events) == 255
    (letter,) = dead_letters.events
    assert (letter.id, letter.extensions["knativeerrorcode"]) == ("254", "400")


def test_a_dead_letter_that_is_not_taken_leaves_the_event_with_the_producer(subscribers: Subscribers) -> None:
    taker, dead_letters = subscribers(always(422)), subscribers(always(500))
    with broker([to(taker, dead_letters)]) as address:
        answer = post(address)
        assert (answer.status_code, answer.json()["reason"]) == (503, "Unavailable")
        assert len(dead_letters.events) == 6
        dead_letters.script = always(202)
        assert post(address).status_code == 202


def test_without_a_dead_letter_sink_the_producer_keeps_the_event(subscribers: Subscribers) -> None:
    with broker([to(subscribers(always(400)))]) as address:
        assert post(address).status_code == 503


def test_one_failing_trigger_does_not_keep_the_other_from_its_event(subscribers: Subscribers) -> None:
    failing, fine = subscribers(always(503)), subscribers()
    with broker([to(failing), to(fine)]) as address:
        assert post(address).status_code == 503
    assert len(fine.events) == 1


def test_the_answer_waits_for_the_slowest_trigger(subscribers: Subscribers) -> None:
    release = threading.Event()
    slow, fast = subscribers(lambda event, number: Answer(after=release)), subscribers()
    with broker([to(slow), to(fast)]) as address, ThreadPoolExecutor(1) as producer:
        answer = producer.submit(post, address)
        wait_for(lambda: slow.events and fast.events, "both deliveries")
        assert not answer.done()
        release.set()
        assert answer.result(10).status_code == 202


def test_a_producer_that_hangs_up_does_not_lose_its_event(subscribers: Subscribers) -> None:
    release = threading.Event()
    slow, dead_letters = subscribers(lambda event, number: Answer(422, after=release)), subscribers()
    with broker([to(slow, dead_letters)]) as address:
        headers, body = binary(EVENT)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address, content=body, headers=headers, timeout=httpx.Timeout(5, read=0.2))
        assert len(slow.events) == 1
        release.set()
        wait_for(lambda: dead_letters.events, "the dead letter")


def test_events_beyond_the_limit_are_asked_to_come_again(subscribers: Subscribers) -> None:
    release = threading.Event()
    slow = subscribers(lambda event, number: Answer(after=release))
    with broker([to(slow)], max_in_flight=4) as address, ThreadPoolExecutor(4) as producers:
        accepted = [producers.submit(post, address) for _ in range(4)]
        wait_for(lambda: len(slow.events) == 4, "four deliveries")
        refused = post(address)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        release.set()
        assert [answer.result(10).status_code for answer in accepted] == [202] * 4
        headers, body = batched([EVENT] * 5)
        assert httpx.post(address, content=body, headers=headers).status_code == 413
        assert post(address).status_code == 202


def test_two_hundred_events_at_once(subscribers: Subscribers) -> None:
    came_before = set[str]()

    def refused_once(event: Event, number: int) -> Answer:
        status = 202 if event.id in came_before or int(event.id) % 3 else 503
        came_before.add(event.id)
        return Answer(status)

    taker = subscribers(refused_once)
    events = [json_event(id=str(number), source="test", type="put", data=None) for number in range(200)]
    with broker([to(taker)]) as address, ThreadPoolExecutor(16) as producers, httpx.Client() as client:
        answers = list(producers.map(lambda event: post(address, event, client), events))
    assert {answer.status_code for answer in answers} == {202}
    assert {event.id for event in taker.events} == {event.id for event in events}
    assert len(taker.events) == len(events) + len(range(0, 200, 3))


def test_what_no_trigger_wants_is_accepted_and_what_is_wrong_refused(subscribers: Subscribers) -> None:
    taker = subscribers()
    with broker([to(taker, filter=only("other"))], max_event_bytes=2048) as address:
        headers, _ = binary(EVENT)
        assert post(address).status_code == 202
        assert post(address.replace("/n/b", "/n/c")).status_code == 404
        assert httpx.post(address, content=b"{}").status_code == 400
        assert httpx.post(address, content=b"x" * 4096, headers=headers).status_code == 413
        assert httpx.get(address).status_code == 405
        assert httpx.get(address.replace("/n/b", "/healthz")).json()["in_flight"] == 0
        assert "whimbrel_broker_events_total" in httpx.get(address.replace("/n/b", "/metrics")).text
    assert taker.events == []
