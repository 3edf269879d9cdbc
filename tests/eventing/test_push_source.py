"""The sources that others post to: real posters, a real sink that is slow, fails or is away."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.certificates import certificate_for_loopback
from testbed.processes import Running, answers, running, wait_for
from testbed.sinks import Reply, scripted_sink
from whimbrel.core.cloudevent import Event, batched, binary, structured
from whimbrel.core.errors import SettingsError
from whimbrel.core.records import object_event, parse_record
from whimbrel.core.redelivery import DELIVERIES
from whimbrel.core.settings import load
from whimbrel.eventing.push.authentication import admission
from whimbrel.eventing.push.settings import PushSourceSettings
from whimbrel.eventing.push.upstream import REFUSAL_SECONDS
from whimbrel.local.state import free_port

from .conftest import notification, record

CAPTURED = Path(__file__).parents[1] / "data" / "rgw"
JSON = {"content-type": "application/json"}


class Receiver:
    """A running source, and posts to it."""

    def __init__(self, process: Running, url: str) -> None:
        self.process, self.url = process, url
        self._threads = ThreadPoolExecutor(32)

    def post(
        self, body: bytes | str, headers: dict[str, str] = JSON, path: str = "/", **options: Any
    ) -> httpx.Response:
        return httpx.post(self.url + path, content=body, headers=headers, timeout=30, **options)

    def posting(self, body: str) -> Callable[[], int]:
        """Post in another thread; the result waits for the status."""
        future = self._threads.submit(self.post, body)
        return lambda: future.result(30).status_code

    def count(self, outcome: str) -> int:
        return self._metric(f'whimbrel_push_requests_total{{outcome="{outcome}",source="s3-push"}} ')

    def waiting(self) -> int:
        return self._metric('whimbrel_push_waiting{source="s3-push"} ')

    def _metric(self, name: str) -> int:
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


@pytest.fixture
def receiver(tmp_path: Path) -> Callable[..., Any]:
    """`python -m whimbrel.eventing source s3-push`, which answers within 30 s."""

    @contextmanager
    def run(sink: str, **settings: str) -> Iterator[Receiver]:
        port = free_port()
        with running(
            "whimbrel.eventing",
            *("source", "s3-push", f"--http-port={port}", "--backoff-seconds=0.05", "--backoff-max-seconds=0.1"),
            log=tmp_path / "source.log",
            K_SINK=sink,
            **{f"WHIMBREL_{name.upper()}": value for name, value in ({"push_answer_seconds": "30"} | settings).items()},
        ) as process:
            url = f"http://127.0.0.1:{port}"
            process.wait_until(lambda: answers(f"{url}/healthz"), "readiness")
            yield Receiver(process, url)

    return run


def test_whoever_posts_gets_2xx_when_the_sink_has_every_record(receiver: Callable[..., Any]) -> None:
    stored = parse_record(record("structured", 3)).cloudevent()
    other = Event(id="1", source="/birds", type="dev.birds.seen", subject="dunlin", data=b"\x00",
                  datacontenttype="application/octet-stream", extensions={"x": "y"})  # fmt: skip
    with scripted_sink() as sink, receiver(sink.url) as source:
        minio = json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "photos/minio", **json.loads(
            notification(record("mi+nio", eventSource="minio:s3", eventName="s3:ObjectCreated:Put")))})  # fmt: skip
        assert source.post(minio, path="/any/path?q=1").status_code == 202
        assert source.post(notification(record("one"), record("two", 1))).status_code == 202
        assert source.post(*_swapped(structured(stored))).status_code == 202
        assert source.post(*_swapped(batched([other, stored]))).status_code == 202
        assert source.post(json.dumps({"Event": "s3:TestEvent"})).status_code == 202
        assert sorted(sink.accepted_keys()) == sorted(["mi nio", "one", "two", "structured", "dunlin", "structured"])
        (passed_on,) = [event for event in sink.accepted if event.subject == "dunlin"]
        assert passed_on == other
        assert source.count("empty") == 1


def _swapped(message: tuple[dict[str, str], bytes]) -> tuple[bytes, dict[str, str]]:
    return message[1], message[0]


def test_rgw_is_understood_in_both_of_its_forms_and_gives_one_id(receiver: Callable[..., Any]) -> None:
    _, _, body = (CAPTURED / "http_put_unicode_key.http").read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    event = parse_record(json.loads(body)["Records"][0])
    responses = event.record["responseElements"]
    headers, _ = binary(
        Event(
            id=f"{responses['x-amz-request-id']}.{responses['x-amz-id-2']}",
            source=event.source,
            type=f"com.amazonaws.{event.name}",
            subject=event.object.key,
            datacontenttype="application/json",
        )
    )
    with scripted_sink() as sink, receiver(sink.url) as source:
        assert source.post(json.dumps(event.record), headers).status_code == 202
        assert source.post(body).status_code == 202
        (delivered,) = sink.accepted
        assert delivered.type == "com.amazonaws.s3.ObjectCreated:Put"
        assert object_event(delivered) == event
        assert (source.count("delivered"), source.count("remembered")) == (1, 1)


def test_a_slow_sink_gets_each_event_once_and_its_posters_a_503_in_time(receiver: Callable[..., Any]) -> None:
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink:
        with receiver(sink.url, push_answer_seconds="1") as source:
            body = notification(record("slow"))
            late = [source.posting(body) for _ in range(5)]
            assert [status() for status in late] == [503] * 5
            answer = source.post(body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert (source.count("late"), len(sink.received)) == (6, 1)
            joining = source.posting(body)
            wait_for(lambda: source.waiting() == 1, "a request that waits for the delivery under way")
            hold.set()
            assert joining() in (202, 503), "whichever came first, the limit or the sink's answer"
            wait_for(lambda: source.post(body).status_code == 202, "the outcome")
        assert len(sink.received) == 1


def test_an_event_that_the_sink_does_not_take_is_tried_again_when_it_is_posted_again(
    receiver: Callable[..., Any],
) -> None:
    mended = threading.Event()

    def script(event: Event, attempt: int) -> Reply:
        return Reply() if mended.is_set() else Reply(503)

    with scripted_sink(script) as sink, receiver(sink.url, delivery_attempts="2", push_answer_seconds="1") as source:
        body = notification(record("k"))
        assert source.post(body).status_code == 503
        assert sink.accepted == []
        mended.set()
        wait_for(lambda: source.post(body).status_code == 202, "a 202")
        assert sink.accepted_keys() == ["k"]
    rounds = list(dict.fromkeys(event.extensions.get(DELIVERIES, "1") for event in sink.received))
    assert rounds == [str(number + 1) for number in range(len(rounds))], "each is counted once"


def test_what_cannot_be_read_is_a_dead_letter_and_is_not_posted_for_ever(receiver: Callable[..., Any]) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "com.amazonaws.ObjectCreated:Put"}
    with (
        scripted_sink() as sink,
        scripted_sink() as letters,
        receiver(sink.url, dead_letter_sink=letters.url) as source,
    ):
        for body in (b"{", b"\xff", b"[]", b"", notification(record("a%00b")).encode(), b"[" * 100_000):
            assert source.post(body).status_code == 202
        assert source.post(b"{}", headers).status_code == 202
        assert source.post(b'{"id": "1"}', {"content-type": "application/cloudevents+json"}).status_code == 202
        assert sink.accepted == []
        assert len(letters.accepted) == 8
        assert {letter.type for letter in letters.accepted} == {"dev.whimbrel.unreadable.v1"}


def test_a_killed_receiver_has_acknowledged_nothing(receiver: Callable[..., Any]) -> None:
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink, receiver(sink.url) as source:
        bodies = [notification(record(f"k{n}")) for n in range(8)]
        posts = [source.posting(body) for body in bodies]
        wait_for(lambda: len(sink.received) == 8, "8 events in flight")
        source.process.kill()
        for post in posts:
            with pytest.raises(httpx.HTTPError):
                post()
        hold.set()
        source.process.start()
        source.process.wait_until(lambda: answers(f"{source.url}/healthz"), "readiness")
        assert [source.post(body).status_code for body in bodies] == [202] * 8
        assert len(set(sink.accepted_keys())) == 8


def test_sigterm_answers_everybody(receiver: Callable[..., Any]) -> None:
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink:
        settings = {"max_in_flight": "1", "delivery_attempts": "1"}
        with receiver(sink.url, **settings) as source:
            posts = [source.posting(notification(record(f"k{n}"))) for n in range(4)]
            wait_for(lambda: source.waiting() == 4, "four requests that wait")
            source.process.process.terminate()
            hold.set()
            assert source.process.process.wait(60) == 0
            statuses = [post() for post in posts]
        assert sorted(set(statuses)) in ([202], [202, 503])
        assert statuses.count(202) == len(sink.accepted)


def test_only_who_has_the_secret_may_post(receiver: Callable[..., Any], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    basic = base64.b64encode(b"birds:pa:ss").decode()
    with scripted_sink() as sink:
        with receiver(sink.url, push_user="birds", push_password="pa:ss", push_token_file=str(token)) as source:
            for wrong in ("", "Bearer wrong", "Basic !", "Basic " + base64.b64encode(b"birds:").decode(), "Digest x"):
                answer = source.post(notification(record("k")), {**JSON, "authorization": wrong})
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == 'Basic realm="whimbrel", Bearer realm="whimbrel"'
            for right in (f"Basic {basic}", "bearer s3cret"):
                assert source.post(notification(record(right)), {**JSON, "authorization": right}).status_code == 202
            assert "pa:ss" not in source.process.output()
        assert len(sink.accepted) == 2


def test_bodies_and_requests_are_bounded(receiver: Callable[..., Any]) -> None:
    hold = threading.Event()
    limits = {"push_max_body_bytes": "1024", "push_max_requests": "2"}
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink, receiver(sink.url, **limits) as source:
        assert source.post(b"x" * 1025).status_code == 413
        assert source.post(iter([b"x" * 1000, b"x" * 1000]), JSON).status_code == 413
        posts = [source.posting(notification(record(f"k{n}"))) for n in range(2)]
        wait_for(lambda: len(sink.received) == 2, "two events in flight")
        refused = source.post(notification(record("too many")))
        assert refused.status_code == 503
        assert refused.elapsed.total_seconds() >= REFUSAL_SECONDS, "RGW 16 posts again at once"
        hold.set()
        assert [post() for post in posts] == [202, 202]


def test_https(receiver: Callable[..., Any], tmp_path: Path) -> None:
    certificate, key = certificate_for_loopback(tmp_path)
    port = free_port()
    with scripted_sink() as sink, running(
        "whimbrel.eventing",
        *("source", "rgw-push", f"--http-port={port}"),
        *(f"--http-tls-certificate={certificate}", f"--http-tls-key={key}"),
        log=tmp_path / "source.log",
        K_SINK=sink.url,
    ) as process:  # fmt: skip
        trusted = ssl.create_default_context(cafile=str(certificate))
        process.wait_until(lambda: "listening" in process.output(), "the port")
        with httpx.Client(verify=trusted) as client:
            body = notification(record("k"))
            assert client.post(f"https://127.0.0.1:{port}/", content=body, headers=JSON).status_code == 202
        assert sink.accepted_keys() == ["k"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--push-user=birds"], "expected WHIMBREL_PUSH_USER with its password, or neither"),
        (["--push-token-file=/nowhere"], "setting WHIMBREL_PUSH_TOKEN_FILE: cannot read /nowhere"),
        (["--push-token-file=/dev/null"], "expected a secret in /dev/null, seen an empty file"),
        (["--push-token=a", "--push-token-file=b"], "expected one of WHIMBREL_PUSH_TOKEN and its _FILE, seen both"),
        (["--http-tls-key=/nowhere.pem"], "expected WHIMBREL_HTTP_TLS_CERTIFICATE beside WHIMBREL_HTTP_TLS_KEY"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        admission(load(PushSourceSettings, ["--sink=http://127.0.0.1:9/", *arguments], program="source"))


def test_a_certificate_that_is_none_ends_the_start(tmp_path: Path) -> None:
    arguments = ("source", "s3-push", "--http-port=0", "--sink=http://127.0.0.1:9/")
    with running(
        "whimbrel.eventing", *arguments, "--http-tls-certificate=/nowhere.pem", log=tmp_path / "source.log"
    ) as process:
        assert process.process.wait(60) == 2
        assert "expected a certificate and its key as PEM files, seen /nowhere.pem" in process.output()
        assert "Traceback" not in process.output()
