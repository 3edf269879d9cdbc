"""The results sink as a process, before a real store."""

from __future__ import annotations

import random
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.processes import Running, answers, running, wait_for
from testbed.stores import Store
from whimbrel.core.cloudevent import Event, batched, binary, structured
from whimbrel.core.errors import NotFound, SettingsError
from whimbrel.core.results import Gone, Result, ResultEvent, ResultModel, ResultObject, dump
from whimbrel.core.settings import load
from whimbrel.eventing.results_reader import ResultReader
from whimbrel.eventing.settings import ResultsSinkSettings
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DIGEST = "sha256:" + "a" * 64
START = datetime(2026, 1, 1, tzinfo=UTC)


def result(key: str, number: int = 0) -> Result:
    """The result of the version of `key` that the event `number` is about."""
    return Result(
        object=ResultObject(bucket="photos", key=key, etag=f"etag-{number}", size=3),
        event=ResultEvent(id=f"{key}-{number}", source="aws:s3.r.photos", time=START + timedelta(seconds=number)),
        model=ResultModel(name="digits", version="1", digest=DIGEST),
        predictions=(),
    )


def unrecorded(written: Result | Gone) -> Result | Gone:
    """What was written, without the time of writing that the sink adds."""
    assert written.recorded is not None
    return written.model_copy(update={"recorded": None})


def event(record: Result | Gone, type_: str = "dev.whimbrel.prediction.v1") -> Event:
    return Event(
        id=record.event.id,
        source="/transformer",
        type=type_,
        subject=record.object.key,
        datacontenttype="application/json",
        data=dump(record),
    )


def post(url: str, message: tuple[dict[str, str], bytes], client: httpx.Client | None = None) -> httpx.Response:
    return (client or httpx).post(url, headers=message[0], content=message[1], timeout=30)


def sink_environment(store: Store, bucket: str, port: int) -> dict[str, str]:
    return {
        **store.settings_environment,
        "WHIMBREL_RESULTS_BUCKET": bucket,
        "PORT": str(port),
        "WHIMBREL_CONCURRENT_WRITES": "8",
    }


class Sink:
    def __init__(self, url: str, bucket: str, client: S3Client, process: Running) -> None:
        self.url, self.bucket, self.client, self.process = url, bucket, client, process

    def reader(self, objects: str = "photos") -> ResultReader:
        return ResultReader(self.client, self.bucket, objects)


@pytest.fixture(scope="module")
def sink(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    bucket, port = f"results-{uuid.uuid4().hex[:8]}", free_port()
    client = store.s3()
    client.create_bucket(Bucket=bucket)
    log = tmp_path_factory.mktemp("sink") / "sink.log"
    environment = sink_environment(store, bucket, port)
    with running("whimbrel.eventing", "sink", "results", log=log, **environment) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/healthz"), "the sink")
        yield Sink(url, bucket, client, process)


@pytest.mark.parametrize("mode", [binary, structured, lambda event: batched([event])])
def test_a_result_is_written_once_in_every_mode(sink: Sink, mode: Any) -> None:
    record = result(f"modes/{uuid.uuid4().hex} é.png")
    for _ in range(3):
        answer = post(sink.url, mode(event(record)))
        assert (answer.status_code, answer.content) == (202, b"")
    assert unrecorded(sink.reader().get(record.object.key)) == record
    assert [unrecorded(each) for each in sink.reader().versions(record.object.key)] == [record]


def test_concurrent_writers_and_late_events_leave_the_newest_as_the_latest(sink: Sink) -> None:
    key = f"race-{uuid.uuid4().hex}"
    records = [result(key, number) for number in range(8)] * 3
    random.Random(7).shuffle(records)  # noqa: S311
    with httpx.Client() as client, ThreadPoolExecutor(8) as threads:
        statuses = [threads.submit(post, sink.url, binary(event(record)), client) for record in records]
    assert {status.result().status_code for status in statuses} == {202}
    assert post(sink.url, binary(event(result(key, 2)))).status_code == 202
    assert unrecorded(sink.reader().get(key)) == result(key, 7)
    written = sorted(record.event.id for record in sink.reader().versions(key))
    assert written == [f"{key}-{number}" for number in range(8)]


def test_a_gone_object_is_recorded(sink: Sink) -> None:
    seen = result(f"gone-{uuid.uuid4().hex}")
    gone = Gone(object=seen.object, event=seen.event, reason="deleted before it was read")
    assert post(sink.url, binary(event(gone, "dev.whimbrel.gone.v1"))).status_code == 202
    assert [unrecorded(each) for each in sink.reader().versions(gone.object.key)] == [gone]
    with pytest.raises(NotFound, match="expected a result of s3://photos/gone-"):
        sink.reader().get(gone.object.key)


@pytest.mark.parametrize(
    ("message", "status", "reason"),
    [
        (binary(event(result("k"), "com.example.other")), 400, "InputRefused"),
        (binary(Event(id="i", source="s", type="dev.whimbrel.prediction.v1", data=b"{}")), 400, "InputRefused"),
        (({"content-type": "text/plain"}, b"hello"), 400, "InputRefused"),
        (({"content-type": "text/plain"}, b"x" * (5 << 20)), 413, "PayloadTooLarge"),
    ],
)
def test_what_is_no_result_is_refused(
    sink: Sink, message: tuple[dict[str, str], bytes], status: int, reason: str
) -> None:
    answer = post(sink.url, message)
    assert answer.status_code == status
    assert answer.json()["reason"] == reason


def test_only_an_answer_about_what_was_written_here_is_refused(sink: Sink) -> None:
    def in_results(key: str) -> Event:
        seen = result(key)
        of = seen.object.model_copy(update={"bucket": sink.bucket})
        return event(seen.model_copy(update={"object": of}))

    assert post(sink.url, binary(in_results(f"{sink.bucket}/a.jpg"))).status_code == 202
    assert "none of ours" in post(sink.url, binary(in_results(f"{sink.bucket}/a.jpg.json"))).text


def test_a_batch_keeps_what_is_good_and_names_what_is_not(sink: Sink) -> None:
    good = result(f"good-{uuid.uuid4().hex}")
    answer = post(sink.url, batched([event(result("k"), "com.example.other"), event(good)]))
    assert answer.status_code == 400
    assert unrecorded(sink.reader().get(good.object.key)) == good


def test_metrics_tell_new_from_duplicate(sink: Sink) -> None:
    message = binary(event(result(f"metric-{uuid.uuid4().hex}")))
    assert [post(sink.url, message).status_code for _ in range(2)] == [202, 202]
    metrics = httpx.get(f"{sink.url}/metrics").text
    assert 'whimbrel_sink_records_total{outcome="new",sink="results"}' in metrics
    assert 'whimbrel_sink_records_total{outcome="duplicate",sink="results"}' in metrics


def test_watch_yields_what_is_written_meanwhile_and_once(sink: Sink) -> None:
    bucket = f"watched-{uuid.uuid4().hex[:8]}"
    reader, stop, seen = sink.reader(bucket), threading.Event(), list[str]()

    def put(key: str, number: int = 0) -> None:
        record = result(key, number)
        moved = record.model_copy(update={"object": record.object.model_copy(update={"bucket": bucket})})
        assert post(sink.url, binary(event(moved))).status_code == 202

    put("before")
    watching = threading.Thread(
        target=lambda: seen.extend(f"{r.object.key} {r.object.etag}" for r in reader.watch(stop, 0.02, since=START))
    )
    watched = iter(reader.watch(stop, 0.02))
    first = ThreadPoolExecutor(1).submit(next, watched)
    watching.start()
    put("new")
    put("new", 1)
    assert first.result(30).object.key in ("new",)
    assert [r.object.key for r in reader.latest()] == ["before", "new"]
    stop.set()
    watching.join(30)
    assert {"before etag-0", "new etag-1"} <= set(seen) <= {"before etag-0", "new etag-0", "new etag-1"}
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("prefix", "refusal"),
    [
        ("{key}", r"expected no other places than \{bucket\}, seen \{key\}"),
        ("a/../b", "expected a key without empty segments"),
        ("{bucket", "expected places .* and plain characters"),
    ],
)
def test_a_prefix_that_no_key_should_have_ends_the_start(prefix: str, refusal: str) -> None:
    with pytest.raises(SettingsError, match=refusal):
        load(ResultsSinkSettings, ["--results-bucket=results", f"--results-prefix={prefix}"], program="test")
    assert load(ResultsSinkSettings, ["--results-bucket=results"], program="test").results_prefix == "{bucket}"


def test_a_sink_waits_for_its_bucket(store: Store, s3: S3Client, tmp_path: Path) -> None:
    bucket, port = f"late-{uuid.uuid4().hex[:8]}", free_port()
    environment = sink_environment(store, bucket, port)
    with running("whimbrel.eventing", "sink", "results", log=tmp_path / "log", **environment) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/healthz", 503), "the sink, not ready")
        answer = post(url, binary(event(result("k"))))
        assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")
        s3.create_bucket(Bucket=bucket)
        process.wait_until(lambda: answers(f"{url}/healthz"), "the sink, ready")
        assert post(url, binary(event(result("k")))).status_code == 202
        assert process.stop() == 0


def test_a_store_that_is_away_is_a_503(tmp_path: Path, store: Store) -> None:
    port = free_port()
    environment = sink_environment(store, "results", port) | {
        "WHIMBREL_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "WHIMBREL_S3_MAX_ATTEMPTS": "1",
    }
    with running("whimbrel.eventing", "sink", "results", log=tmp_path / "log", **environment) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/healthz", 503), "the sink, not ready")
        answer = post(url, binary(event(result("k"))))
        assert (answer.status_code, answer.json()["reason"]) == (503, "Unavailable")
        assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_accepted_is_written_whatever_ends_the_sink(
    store: Store, s3: S3Client, bucket: str, tmp_path: Path, end: signal.Signals
) -> None:
    port = free_port()
    environment = sink_environment(store, bucket, port)
    records = [result(f"k{n}") for n in range(60)]
    accepted: list[str] = []

    def send(record: Result) -> None:
        try:
            answer = post(f"http://127.0.0.1:{port}", binary(event(record)), client)
        except httpx.HTTPError:
            return
        if answer.status_code == 202:
            accepted.append(record.object.key)

    with (
        running("whimbrel.eventing", "sink", "results", log=tmp_path / "log", **environment) as process,
        httpx.Client() as client,
        ThreadPoolExecutor(6) as threads,
    ):
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the sink")
        sent = [threads.submit(send, record) for record in records]
        wait_for(lambda: len(accepted) >= 10, "10 results accepted")
        process.signal(end)
        assert process.process.wait(60) == (0 if end == signal.SIGTERM else -9)
        for each in sent:
            each.result(30)
    written = {record.object.key for record in ResultReader(s3, bucket, "photos").latest()}
    assert set(accepted) <= written
    assert len(accepted) < len(records)
