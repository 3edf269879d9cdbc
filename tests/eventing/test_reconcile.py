"""Every object without an outcome is found and announced, whatever the size of the bucket and whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.processes import environment, wait_for
from testbed.records import result_of
from testbed.sinks import Reply, ScriptedSink, always_accept, scripted_sink
from testbed.stores import Store
from whimbrel.core.cloudevent import Event, json_event, structured
from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.core.records import ObjectEvent, object_event, parse_notification, parse_record
from whimbrel.core.references import ObjectRef
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import (
    PREDICTION_TYPE,
    DeadLetter,
    DeadLetterError,
    Gone,
    Result,
    ResultObject,
    dead_letter_key,
    dump,
    replaces,
)
from whimbrel.eventing.reconcile.announce import BrokerAnnouncer, Pace, QueueAnnouncer
from whimbrel.eventing.reconcile.announcement import record
from whimbrel.eventing.reconcile.compare import Question, Report, reconcile, report_of
from whimbrel.eventing.reconcile.look import Places
from whimbrel.eventing.reconcile.objects import Listed
from whimbrel.eventing.reconcile.survey import Outcome, Survey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

NOW = datetime(2026, 11, 20, 13, 25, 1, 250_000, tzinfo=UTC)
KEYS = ["a.jpg", "a b+c.jpg", "grün/🐦.jpg", "x//y", "%2F.txt", "a.jpg/inside"]
DIGEST = "sha256:" + "2" * 64


@dataclass(frozen=True)
class Place:
    """Three buckets and a queue of one test."""

    s3: S3Client
    sqs: SQSClient
    question: Question
    queue_url: str

    @property
    def places(self) -> Places:
        return self.question.places

    def put(self, key: str, body: bytes = b"x") -> ObjectRef:
        answer = self.s3.put_object(Bucket=self.question.bucket, Key=key, Body=body)
        return ObjectRef(self.question.bucket, key, answer["ETag"].strip('"'), answer.get("VersionId"), len(body))

    def put_many(self, count: int) -> None:
        with ThreadPoolExecutor(4) as putters:
            list(putters.map(lambda number: self.put(f"{number:04}"), range(count)))

    def answer(self, ref: ObjectRef, digest: str = "sha256:" + "1" * 64) -> Result:
        result = replace_object(result_of(ref.key, model_digest=digest), ref)
        ResultStore(self.s3, self.places.results_bucket).write(result)
        return result

    def bury(self, event: Event) -> None:
        document = json.loads(structured(event)[1])
        letter = DeadLetter(event=document, error=DeadLetterError(code=422), attempts=1, received=NOW)
        key = dead_letter_key(self.places.dead_letters_prefix, event)
        self.s3.put_object(Bucket=self.places.dead_letters_bucket or "", Key=key, Body=dump(letter))

    def compare(self, survey: Survey | None = None, **changes: Any) -> Report:
        """One whole comparison, without announcing anything unless `announce` is given."""
        question = replace(self.question, **{k: changes.pop(k) for k in list(changes) if hasattr(self.question, k)})
        if survey is not None:
            return reconcile(self.s3, question, survey, **changes)
        with closing(Survey(None, question.facts())) as own:
            return reconcile(self.s3, question, own, **changes)

    def to_queue(self, **changes: Any) -> QueueAnnouncer:
        return QueueAnnouncer(self.sqs, self.queue_url, "us-east-1", **changes)

    def announced(self) -> list[ObjectEvent]:
        """Everything in the queue, taken out of it."""
        events = []
        while received := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in received:
                events += parse_notification(message["Body"])
                self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return events

    def queued(self) -> int:
        answer = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["All"])
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])


@pytest.fixture
def place(store: Store, s3: S3Client) -> Place:
    def new_bucket() -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        s3.create_bucket(Bucket=name)
        return name

    places = Places(new_bucket(), dead_letters_bucket=new_bucket(), dead_letters_prefix="letters")
    sqs = store.sqs()
    queue = sqs.create_queue(QueueName=f"test-{uuid.uuid4().hex[:12]}")["QueueUrl"]
    return Place(s3, sqs, Question(new_bucket(), places), queue)


def replace_object(result: Result, ref: ObjectRef) -> Result:
    return result.model_copy(update={"object": ResultObject.of(ref)})


def object_cloudevent(ref: ObjectRef) -> Event:
    return parse_record(record(Listed(ref, NOW, NOW), "us-east-1")).cloudevent()


def only_missing(objects: int, missing: int, **others: int) -> Report:
    rest = dict.fromkeys(("results", "gone", "dead_letters", "emitted", "refused", "unusable"), 0) | others
    return Report(objects=objects, missing=missing, **rest)


def test_only_what_nothing_came_of_is_announced(place: Place) -> None:
    refs = [place.put(key) for key in KEYS]
    assert place.compare(announce=place.to_queue()) == only_missing(6, 6, emitted=6)
    events = place.announced()
    assert {event.object for event in events} == set(refs)
    assert all(event.creates for event in events)

    result = place.answer(refs[0])
    gone = Gone(object=ResultObject.of(refs[1]), event=result.event, reason="deleted")
    ResultStore(place.s3, place.places.results_bucket).write_gone(gone)
    place.bury(object_cloudevent(refs[2]))
    place.bury(json_event(id="r", source="t", type=PREDICTION_TYPE, subject="x//y", data=None))
    reply = dump(replace_object(result, refs[3]))
    place.bury(Event(id="r2", source="t", type=PREDICTION_TYPE, subject="x//y", data=reply))
    expected = only_missing(6, 3, results=1, dead_letters=2)
    assert place.compare() == expected
    assert place.compare(announce=place.to_queue()) == replace(expected, emitted=3)
    again = {event.object.key for event in place.announced()}
    assert again == {"a b+c.jpg", "%2F.txt", "a.jpg/inside"}, "what is listed is there, though it was gone once"


def test_a_new_version_of_a_key_is_announced(place: Place) -> None:
    old = place.put("a.jpg")
    place.answer(old)
    place.bury(object_cloudevent(old))
    new = place.put("a.jpg", b"another")
    assert place.compare(announce=place.to_queue()).emitted == 1
    assert [event.object for event in place.announced()] == [new]


def test_in_a_bucket_with_versions_the_current_one_counts(place: Place) -> None:
    enabled: Any = {"Status": "Enabled"}
    before = place.put("kept from before")
    place.s3.put_bucket_versioning(Bucket=place.question.bucket, VersioningConfiguration=enabled)
    old, new, deleted = place.put("a.jpg", b"1"), place.put("a.jpg", b"2"), place.put("b.jpg")
    place.s3.delete_object(Bucket=place.question.bucket, Key="b.jpg")
    for ref in (old, deleted):
        place.answer(ref)
    assert place.compare(announce=place.to_queue()) == only_missing(2, 2, emitted=2)
    assert {event.object for event in place.announced()} == {new, before}
    result = place.answer(new)
    assert place.compare() == only_missing(2, 1, results=1)
    gone = place.put("c.jpg")
    ResultStore(place.s3, place.places.results_bucket).write_gone(
        Gone(object=ResultObject.of(gone), event=result.event, reason="deleted")
    )
    assert place.compare() == only_missing(3, 1, results=1, gone=1)


def test_the_event_is_the_same_however_often_it_is_announced(place: Place) -> None:
    place.put("a.jpg")
    ids = set()
    for _ in range(2):
        place.compare(announce=place.to_queue())
        ids |= {event.id for event in place.announced()}
    assert len(ids) == 1


def test_what_is_listed_is_not_older_than_what_was_put_in_the_same_second() -> None:
    ref = ObjectRef("b", "k", "e", size=1)
    told = [record(Listed(ref, modified, NOW), "")["eventTime"] for modified in (NOW, NOW.replace(microsecond=0))]
    assert told == ["2026-11-20T13:25:01.250Z", "2026-11-20T13:25:01.999Z"]


def test_the_filter_of_the_notification_is_kept(place: Place) -> None:
    for key in ("in/a.jpg", "in/a.txt", "b.jpg"):
        place.put(key)
    assert place.compare(key_prefix="in/", key_suffix=".jpg") == only_missing(1, 1)


@pytest.mark.parametrize("prefix", ["in/", "in/a", "in/ü/", "in/ü", "in/./", "in//", "in/b/"])
def test_results_are_known_under_any_prefix(place: Place, prefix: str) -> None:
    """In folders that results have as they are, and in those that a result's key spells otherwise."""
    for key in ("in/a.jpg", "in/ü/x", "in/ü.jpg", "in/./x", "in//x", "in/b/" + "long/" * 180):
        place.answer(place.put(key))
    report = place.compare(key_prefix=prefix)
    assert report.objects > 0
    assert report == only_missing(report.objects, 0, results=report.objects)


def test_what_came_after_the_start_is_left_to_the_store(place: Place) -> None:
    place.put("a.jpg")
    (listed,) = place.s3.list_objects_v2(Bucket=place.question.bucket)["Contents"]
    modified = listed["LastModified"]
    assert place.compare(not_after=modified - timedelta(seconds=1)) == only_missing(0, 0)
    assert place.compare(not_after=modified) == only_missing(1, 1)


def test_it_waits_for_room_in_the_queue_and_can_be_stopped(place: Place) -> None:
    place.put_many(45)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as background:
        announce = place.to_queue(max_queued=20, stop=stop)
        report = background.submit(place.compare, announce=announce, stop=stop)
        seen: set[str] = set()

        def all_announced() -> bool:
            seen.update(event.object.key for event in place.announced())
            return len(seen) == 45

        wait_for(all_announced, "all of them")
        assert report.result(10) == only_missing(45, 45, emitted=45)
        report = background.submit(place.compare, announce=announce, stop=stop)
        wait_for(lambda: place.queued() == 20, "a full queue")
        stop.set()
        assert report.result(10) == only_missing(45, 45, emitted=20)


def test_a_missing_bucket_is_named(place: Place) -> None:
    with pytest.raises(NotFound, match="comparing bucket 'missing-bucket'"):
        place.compare(bucket="missing-bucket")


def test_a_dead_letter_of_rgws_pull_mode_is_known_by_the_objects_time(place: Place) -> None:
    place.put("a.jpg")
    (listed,) = place.s3.list_objects_v2(Bucket=place.question.bucket)["Contents"]
    pulled = {
        "id": "1",
        "event": "OBJECT_CREATE",
        "timestamp": "2026-01-01T00:00:00Z",
        "info": {
            "attrs": {"mtime": listed["LastModified"].replace(microsecond=250_000).isoformat()},
            "bucket": {"name": place.question.bucket},
            "key": {"name": "a.jpg"},
        },
    }
    place.bury(parse_record(pulled).cloudevent())
    assert place.compare() == only_missing(1, 0, dead_letters=1)


class TestNewModel:
    """Old objects under a new model."""

    def test_only_its_own_results_count(self, place: Place) -> None:
        refs = [place.put(key) for key in ("a", "b")]
        for ref in refs:
            place.answer(ref)
        place.answer(refs[0], DIGEST)
        places = replace(place.places, model_digest=DIGEST)
        assert place.compare(places=places) == only_missing(2, 1, results=1)
        assert place.compare() == only_missing(2, 0, results=2)

    def test_its_answer_becomes_the_latest_and_a_later_put_stays_it(self) -> None:
        ref = ObjectRef("photos", "a", etag="e", size=1)
        listed = Listed(ref, modified=NOW - timedelta(days=9), seen_at=NOW.replace(microsecond=0))
        first = parse_record(record(listed, "us-east-1"))
        again = parse_record(record(listed, "us-east-1", DIGEST))
        old = result_of("a", event_id=first.id, time=first.time + timedelta(milliseconds=250))
        new = result_of("a", event_id=again.id, time=again.time, model_digest=DIGEST)
        later = result_of("a", event_id="3", time=NOW)
        assert replaces(new, old)
        assert not replaces(new, later)
        assert len({first.id, again.id}) == 2

    def test_its_event_is_the_same_in_every_listing_and_another_for_other_bytes(self) -> None:
        def identity(etag: str, seen: datetime, digest: str) -> str:
            listed = Listed(ObjectRef("photos", "a", etag=etag, size=1), NOW, seen)
            return parse_record(record(listed, "us-east-1", digest)).id

        later = NOW + timedelta(hours=1)
        assert identity("e", NOW, DIGEST) == identity("e", later, DIGEST)
        others = {identity("f", NOW, DIGEST), identity("e", NOW, "sha256:" + "3" * 64)}
        assert len(others | {identity("e", NOW, DIGEST)}) == 3


class TestBroker:
    """Announcing to a broker."""

    def announce(self, place: Place, sink: ScriptedSink, survey: Survey, **settings: Any) -> Report:
        stop = threading.Event()
        with BrokerAnnouncer(sink.url, "us-east-1", stop=stop, **settings) as announcer:
            return place.compare(survey, announce=announcer, stop=stop)

    @pytest.fixture
    def survey(self, place: Place) -> Iterator[Survey]:
        with closing(Survey(None, place.question.facts())) as made:
            yield made

    def test_each_event_names_its_object_and_is_sent_once(self, place: Place, survey: Survey) -> None:
        refs = {place.put(key) for key in KEYS}
        with scripted_sink() as sink:
            report = self.announce(place, sink, survey, in_flight=2)
        assert report == only_missing(6, 6, emitted=6)
        assert report.complete
        assert {object_event(event).object for event in sink.accepted} == refs
        assert len(sink.received) == 6

    def test_a_refusal_is_kept_with_its_reason_and_an_overload_is_waited_out(
        self, place: Place, survey: Survey
    ) -> None:
        def script(event: Event, attempt: int) -> Reply:
            if event.subject == "a":
                return Reply(400, b"not this one")
            return Reply(503 if attempt < 3 else 202)

        for key in ("a", "b"):
            place.put(key)
        with scripted_sink(script) as sink:
            report = self.announce(place, sink, survey)
        assert report == only_missing(2, 2, emitted=1, refused=1)
        assert not report.complete
        ((key, outcome, why),) = survey.told([Outcome.REFUSED])
        assert (key, outcome) == ("a", Outcome.REFUSED)
        assert "400 not this one" in why

    def test_a_broker_that_takes_some_and_then_nothing_ends_the_run_which_goes_on_later(
        self, place: Place, survey: Survey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("whimbrel.eventing.reconcile.announce._BACKOFF", (0.001, 0.001))
        place.put_many(20)
        with scripted_sink(lambda event, _: Reply(202 if (event.subject or "") < "0012" else 503)) as sink:
            with pytest.raises(Unavailable, match="to take the event, seen 503"):
                self.announce(place, sink, survey)
            assert report_of(survey) == only_missing(20, 20, emitted=12)
            sink.script = always_accept
            assert self.announce(place, sink, survey) == only_missing(20, 20, emitted=20)
            assert sorted(sink.accepted_keys()) == [f"{number:04}" for number in range(20)]

    def test_no_more_than_the_rate_are_let_through(self) -> None:
        stop = threading.Event()
        pace = Pace(1e9, stop)
        assert all(pace.wait() for _ in range(100))
        slow = Pace(0.001, stop)  # the second would be let through after 1000 s
        assert slow.wait()
        with ThreadPoolExecutor(1) as thread:
            second = thread.submit(slow.wait)
            stop.set()
            assert second.result(10) is False


class TestCursor:
    """The file that a comparison goes on from."""

    def test_a_file_of_another_comparison_or_of_no_comparison_is_refused(self, place: Place, tmp_path: Path) -> None:
        file, other = tmp_path / "cursor", tmp_path / "other"
        Survey(file, place.question.facts()).close()
        with pytest.raises(InputRefused, match=f"seen one of: .*bucket={place.question.bucket}.*; name another"):
            Survey(file, replace(place.question, key_prefix="in/").facts())
        other.write_bytes(b"no database at all, but longer than a header of one would be" * 9)
        with pytest.raises(InputRefused, match=f"expected the cursor of a comparison in {other}"):
            Survey(other, place.question.facts())

    def test_what_was_listed_is_not_listed_again_and_what_came_since_is_seen(
        self, place: Place, tmp_path: Path
    ) -> None:
        file = tmp_path / "cursor"
        refs = [place.put(key) for key in ("a", "b")]
        with closing(Survey(file, place.question.facts())) as survey:
            assert place.compare(survey) == only_missing(2, 2)
        place.answer(refs[0])
        place.put("c")
        with closing(Survey(file, place.question.facts())) as survey:
            assert survey.resumed
            expected = only_missing(2, 1, results=1, emitted=1)
            assert place.compare(survey, announce=place.to_queue()) == expected
            survey.remove()
        assert not file.exists()

    def test_killed_while_it_announces_it_goes_on_and_leaves_none_out(
        self, place: Place, store: Store, tmp_path: Path
    ) -> None:
        place.put_many(220)
        arguments = [place.question.bucket, "--results-bucket", place.places.results_bucket]
        arguments += ["--dead-letters-bucket", place.places.dead_letters_bucket or ""]
        arguments += ["--dead-letters-prefix", "letters", "--emit", "--cursor", str(tmp_path / "cursor")]
        kill_after = 110

        def script(event: Event, _: int) -> Reply:
            if len(sink.accepted) >= kill_after and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            return Reply()

        with scripted_sink() as sink:
            command = [sys.executable, "-m", "whimbrel.cli", "reconcile", *arguments, "--sink", sink.url, "-o", "json"]
            settings = environment(**store.settings_environment)
            sink.script = script
            process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            assert kill_after <= len(sink.accepted) < 220
            sink.script = always_accept
            again = subprocess.run(command, env=settings, capture_output=True, timeout=60, check=False)
            assert again.returncode == 0, again.stderr.decode()
            assert set(sink.accepted_keys()) == {f"{number:04}" for number in range(220)}
            assert len({event.id for event in sink.accepted}) == 220
            assert len(sink.received) <= 220 + 100 + 16, "at most one batch comes again"
        report = json.loads(again.stdout.splitlines()[-1])["report"]
        assert (report["objects"], report["emitted"]) == (220, 220)
        assert not (tmp_path / "cursor").exists()

    def test_memory_holds_a_part_of_what_it_found_however_much_that_is(self, tmp_path: Path) -> None:
        """The cache of sqlite is all of the survey that is in memory, and it is bounded."""
        question = {"bucket": "b"}
        with closing(Survey(tmp_path / "cursor", question)) as survey:
            for start in range(0, 60_000, 1000):
                folders = ((f"by-version/{'x' * 200}/{n}/e", Outcome.RESULT) for n in range(start, start + 1000))
                survey.add_settled(folders, "results", {"StartAfter": str(start)})
            (pages,) = survey._sql.execute("PRAGMA cache_size").fetchone()
        assert -pages * 1024 < (tmp_path / "cursor").stat().st_size / 1.5
        with closing(sqlite3.connect(tmp_path / "cursor")) as raw:
            assert raw.execute("SELECT count(*) FROM settled").fetchone() == (60_000,)
