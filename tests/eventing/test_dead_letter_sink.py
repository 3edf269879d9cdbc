"""The dead-letter sink as a process, and what is read and sent again from its bucket."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.processes import answers, running
from testbed.sinks import Reply, scripted_sink
from testbed.stores import Store
from whimbrel.core.cloudevent import Event, binary, json_event
from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.core.results import dead_letter_key, dump, parse_dead_letter
from whimbrel.eventing.dead_letter_record import dead_letter_of, error_text, replay_event
from whimbrel.eventing.dead_letters import Replayed, Stored, get, iterate, replay
from whimbrel.eventing.unreadable import unreadable_event
from whimbrel.eventing.upstream import Unreadable
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CAPTURED = json.loads((Path(__file__).parents[1] / "data/knative/dead-letters.json").read_text())
DESTINATION = "http://photos-transformer.whimbrel.svc.cluster.local/events"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def captured_message(captured: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """The request as Knative's broker sent it, in the binary mode."""
    attributes = dict(captured["attrs"])
    headers = {"content-type": attributes.pop("datacontenttype"), "kn-namespace": "whimbrel"}
    return headers | {f"ce-{name}": value for name, value in attributes.items()}, json.dumps(captured["data"]).encode()


DIGEST = b"sha256:" + b"7" * 64


def dead_event(answer: bytes = b"", **extensions: str) -> Event:
    return json_event(
        id=uuid.uuid4().hex,
        source="aws:s3.us-east-1.photos",
        type="com.amazonaws.s3.ObjectCreated:Put",
        subject="a/b.png",
        data={"n": 1},
        extensions={
            "knativeerrordest": DESTINATION,
            "knativeerrorcode": "422",
            "knativeerrordata": base64.b64encode(answer).decode(),
            **extensions,
        },
    )


class Sink:
    def __init__(self, url: str, bucket: str, client: S3Client) -> None:
        self.url, self.bucket, self.client = url, bucket, client

    def post(self, headers: dict[str, str], body: bytes) -> None:
        answer = httpx.post(self.url, headers=headers, content=body, timeout=30)
        assert (answer.status_code, answer.content) == (202, b"")

    def keep(self, event: Event) -> Stored:
        self.post(*binary(event))
        return get(self.client, self.bucket, dead_letter_key("", event))


@pytest.fixture(scope="module")
def sink(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    bucket, port = f"letters-{uuid.uuid4().hex[:8]}", free_port()
    client = store.s3()
    log = tmp_path_factory.mktemp("letters") / "sink.log"
    environment = {**store.settings_environment, "WHIMBREL_DEAD_LETTERS_BUCKET": bucket, "PORT": str(port)}
    with running("whimbrel.eventing", "sink", "dead-letters", log=log, **environment) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/healthz", 503), "the sink, waiting for its bucket")
        client.create_bucket(Bucket=bucket)
        process.wait_until(lambda: answers(f"{url}/healthz"), "the sink")
        yield Sink(url, bucket, client)
        assert process.stop() == 0


def test_captured_dead_letters_are_one_record_an_event(sink: Sink) -> None:
    for captured in CAPTURED:
        sink.post(*captured_message(captured))
    stored = [each.letter for each in iterate(sink.client, sink.bucket, "input")]
    last = {each["attrs"]["id"]: each["attrs"].get("knativeerrordest") for each in CAPTURED}
    assert {letter.event["id"]: letter.error.destination for letter in stored} == last
    assert len(stored) == len(last)
    letter = next(letter for letter in stored if letter.event["id"] == "dl503-0")
    assert letter.error.code == 503
    assert letter.error.destination == DESTINATION
    assert letter.error.message == "asked for 503"
    assert letter.event["data"] == {"status": 503, "i": 0}
    assert not [name for name in letter.event if name.startswith("knative")]


def test_a_record_tells_reason_attempts_and_replays(sink: Sink) -> None:
    answer = json.dumps({"error": "expected a PNG", "reason": "UndecodableImage"}).encode()
    event = dead_event(answer, whimbrelattempts="3", whimbrelreplay="2")
    letter = sink.keep(event).letter
    assert (letter.error.reason, letter.error.message) == ("UndecodableImage", "expected a PNG")
    assert (letter.attempts, letter.replays) == (3, 2)
    again = replay_event(letter)
    assert again == event.without_extensions(event.extensions).with_extensions({"whimbrelreplay": "3"})


@pytest.mark.parametrize(
    ("error_data", "expected"),
    [
        (base64.b64encode(b'{"error": "a \\"b\\"", "reason": "Cut').decode(), ("Cut", 'a "b"')),
        (base64.b64encode(b'{"reason": "Cut", "error": "expected a very lo').decode(), ("Cut", "expected a very lo")),
        (base64.b64encode(b"upstream connect error").decode(), (None, "upstream connect error")),
        (base64.b64encode(b"upstream connect error").decode()[:-1], (None, "upstream connect erro")),
        ("not base64!", (None, "not base64!")),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_the_reason_is_found_even_in_a_cut_body(error_data: str | None, expected: tuple[Any, Any]) -> None:
    assert error_text(error_data) == expected


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        (b'{"model_digest": "%b", "error": "no", "reason": "ModelFailed"}' % DIGEST, "500", DIGEST.decode()),
        (b'{"model_digest": "%b", "error": "cut by the bro' % DIGEST, "503", DIGEST.decode()),
        (b'{"error": "another preset", "model_digest": "%b"}' % DIGEST, "409", None),
        (b'{"model_digest": "sha256:cut', "503", None),
        (b'{"error": "no model"}', "503", None),
    ],
)
def test_the_model_at_fault_is_kept_where_an_error_names_it(body: bytes, code: str, expected: str | None) -> None:
    letter = dead_letter_of(dead_event(body, knativeerrorcode=code), NOW)
    assert letter.error.model_digest == expected


@given(st.binary(max_size=1024), st.integers(0, 1024))
def test_any_error_data_makes_a_record(answer: bytes, cut: int) -> None:
    event = dead_event(answer)
    event = event.with_extensions({"knativeerrordata": event.extensions["knativeerrordata"][:cut]})
    letter = dead_letter_of(event, NOW)
    assert parse_dead_letter(dump(letter)) == letter


@given(st.text(), st.text())
def test_our_own_error_body_is_read_whole_and_its_start_when_cut(message: str, reason: str) -> None:
    whole = json.dumps({"error": message, "reason": reason}).encode()
    assert error_text(base64.b64encode(whole).decode()) == (reason, message)
    assert error_text(base64.b64encode(whole[:-1]).decode())[0] == reason or not reason


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/plain"}, b"\xff not an event"),
        ({"content-type": "application/json", "ce-specversion": "1.0", "ce-id": "no-type"}, b"{}"),
        (
            {"ce-specversion": "1.0", "ce-id": "i", "ce-source": "s", "ce-type": "t", "content-type": "text/json+json"},
            b'{"half": "\\ud800"}',
        ),
    ],
)
def test_what_is_no_event_is_kept_as_it_came_and_once(sink: Sink, headers: dict[str, str], body: bytes) -> None:
    for _ in range(2):
        sink.post(headers | {"authorization": "Bearer secret-token"}, body)
    stored = [each for each in iterate(sink.client, sink.bucket) if message_of(each).endswith(b"\r\n\r\n" + body)]
    assert len(stored) == 1
    assert f"content-type: {headers['content-type']}".encode() in message_of(stored[0])
    assert b"secret" not in message_of(stored[0])
    assert stored[0].letter.error.code == 400
    assert (stored[0].letter.error.message or "").startswith("expected")


def message_of(stored: Stored) -> bytes:
    return base64.b64decode(stored.letter.event.get("data_base64", ""))


def test_a_replay_of_what_cannot_be_read_fails_again_and_keeps_the_reason(sink: Sink) -> None:
    error = InputRefused("expected an object key without control characters")
    stored = sink.keep(unreadable_event(Unreadable(b"{}", error), "/lists/1"))

    def brings_it_back(event: Event, attempt: int) -> Reply:
        sink.post(*binary(event))
        return Reply()

    with scripted_sink(brings_it_back) as broker, httpx.Client() as client:
        assert replay(sink.client, sink.bucket, stored, broker.url, client) == Replayed.FAILED_AGAIN
    now = get(sink.client, sink.bucket, stored.key).letter
    assert now == stored.letter.model_copy(update={"replays": 1, "received": now.received})
    assert (now.error.code, now.error.reason, now.error.message) == (400, "InputRefused", str(error))


def test_replay_delivers_the_event_and_deletes_the_record(sink: Sink) -> None:
    event = dead_event()
    stored = sink.keep(event)
    with scripted_sink() as broker, httpx.Client() as client:
        assert replay(sink.client, sink.bucket, stored, broker.url, client) == Replayed.DELIVERED
        assert replay(sink.client, sink.bucket, stored, broker.url, client) == Replayed.DELIVERED
    assert [(sent.id, sent.data, dict(sent.extensions)) for sent in broker.accepted] == [
        (event.id, event.data, {"whimbrelreplay": "1"})
    ] * 2
    with pytest.raises(NotFound, match="it may have been replayed"):
        get(sink.client, sink.bucket, stored.key)


TIMED_OUT: dict[str, str] = {}
ANSWERED = {"knativeerrordest": DESTINATION, "knativeerrorcode": "503"}


@pytest.mark.parametrize(("first", "second"), [(TIMED_OUT, ANSWERED), (ANSWERED, TIMED_OUT), (ANSWERED, ANSWERED)])
def test_a_replay_that_fails_again_keeps_the_new_record(
    sink: Sink, first: dict[str, str], second: dict[str, str]
) -> None:
    """A broker names the destination of an answer, but none of a timeout."""
    event = dead_event()
    bare = event.without_extensions(event.extensions)
    stored = sink.keep(bare.with_extensions(first))

    def dead_letters_it(sent: Event, attempt: int) -> Reply:
        sink.keep(sent.with_extensions(second))
        return Reply()

    with scripted_sink(dead_letters_it) as broker, httpx.Client() as client:
        assert replay(sink.client, sink.bucket, stored, broker.url, client) == Replayed.FAILED_AGAIN
    now = get(sink.client, sink.bucket, stored.key).letter
    assert (now.replays, now.error.destination) == (1, second.get("knativeerrordest"))
    assert [each.key for each in iterate(sink.client, sink.bucket) if each.letter.event["id"] == event.id] == [
        stored.key
    ]


def test_a_replay_that_the_broker_does_not_take_changes_nothing(sink: Sink) -> None:
    stored = sink.keep(dead_event())
    with scripted_sink(lambda event, attempt: Reply(503, b"no trigger")) as broker, httpx.Client() as client:
        with pytest.raises(Unavailable, match="to take the event, seen 503 no trigger"):
            replay(sink.client, sink.bucket, stored, broker.url, client)
        with pytest.raises(Unavailable, match="to take the event, seen ConnectError"):
            replay(sink.client, sink.bucket, stored, f"http://127.0.0.1:{free_port()}/", client)
    assert get(sink.client, sink.bucket, stored.key) == stored
