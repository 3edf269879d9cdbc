"""Dead letters are chosen by reason, time and key, and a replay of many can be repeated and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from testbed.processes import environment, wait_for
from testbed.sinks import Reply, always_accept, scripted_sink
from testbed.stores import Store
from whimbrel.cli.moments import moment
from whimbrel.core.cloudevent import Event, json_event
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.results import DeadLetter, DeadLetterError
from whimbrel.eventing.dead_letter_sink import DeadLetterStore
from whimbrel.eventing.dead_letters import Replayed, Selection, iterate, purge, replay_each
from whimbrel.eventing.unreadable import error_extensions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def letter(key: str, code: int = 415, reason: str = "UnsupportedImage", hours: int = 0) -> DeadLetter:
    return DeadLetter(
        event={"id": key, "subject": key},
        error=DeadLetterError(code=code, reason=reason, message=f"expected an image at {key}"),
        received=NOON + hours * HOUR,
    )


def bury(s3: S3Client, bucket: str, count: int) -> list[str]:
    """The subjects of so many dead letters."""
    store = DeadLetterStore(s3, bucket)

    def keep(number: int) -> str:
        error = error_extensions(503, {"error": "the predictor is away", "reason": "Unavailable"})
        event = json_event(
            id=uuid.uuid4().hex, source="s", type="com.amazonaws.s3.ObjectCreated:Put", subject=f"{number:03}", data={}
        )
        store.keep(event.with_extensions(error), NOON)
        return f"{number:03}"

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(keep, range(count)))


def command(
    store: Store, bucket: str, *arguments: str, sink: str = "http://127.0.0.1:9/"
) -> tuple[list[str], dict[str, str]]:
    settings = environment(**store.settings_environment, WHIMBREL_BROKER=sink, WHIMBREL_DEAD_LETTERS_BUCKET=bucket)
    return [sys.executable, "-m", "whimbrel.cli", "dead-letters", *arguments], settings


def run(store: Store, bucket: str, *arguments: str, sink: str = "http://127.0.0.1:9/") -> tuple[int, str, str]:
    argv, settings = command(store, bucket, *arguments, sink=sink)
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), {"a/1", "a/2", "b/1"}),
        (Selection(reason="unsupportedimage"), {"a/1", "b/1"}),
        (Selection(reason="image at a/"), {"a/1", "a/2"}),
        (Selection(reason="Unsupported"), set()),
        (Selection(status=503), {"a/2"}),
        (Selection(since=NOON + HOUR), {"a/2", "b/1"}),
        (Selection(until=NOON + 2 * HOUR), {"a/1", "a/2"}),
        (Selection(key="a/"), {"a/1", "a/2"}),
        (Selection(key="a/", since=NOON + HOUR, until=NOON + 2 * HOUR), {"a/2"}),
    ],
)
def test_a_selection_takes_what_fits_every_part(selection: Selection, chosen: set[str]) -> None:
    letters = [letter("a/1"), letter("a/2", 503, "Unavailable", hours=1), letter("b/1", hours=2)]
    assert {each.event["subject"] for each in letters if selection.takes(each)} == chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOON - timedelta(seconds=90)),
        ("2h", NOON - 2 * HOUR),
        ("7d", NOON - timedelta(days=7)),
        ("2026-01-01T11:00:00Z", NOON - HOUR),
        ("2026-01-01T13:00+02:00", NOON - HOUR),
    ],
)
def test_a_moment_is_a_time_or_how_long_ago(text: str, expected: datetime) -> None:
    assert moment(text, NOON) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2 h", "5y", "2026-13-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InputRefused, match="expected a time such as"):
        moment(text, NOON)


def test_one_that_is_tried_again_for_long_holds_up_no_other(s3: S3Client, bucket: str) -> None:
    bury(s3, bucket, 12)
    held = threading.Event()
    with scripted_sink(lambda event, _: Reply(hold=held if event.subject == "000" else None)) as broker:
        replayed = replay_each(s3, bucket, iterate(s3, bucket), broker.url, in_flight=2)
        first = [next(replayed)[0].letter.event["subject"] for _ in range(11)]
        held.set()
        assert sorted(first) == [f"{number:03}" for number in range(1, 12)]
        assert [stored.letter.event["subject"] for stored, _ in replayed] == ["000"]
    assert list(iterate(s3, bucket)) == []


def test_a_broker_that_takes_nothing_is_not_asked_for_all(s3: S3Client, bucket: str) -> None:
    bury(s3, bucket, 20)
    with scripted_sink(lambda event, _: Reply(503)) as broker:
        outcomes = [outcome for _, outcome in replay_each(s3, bucket, iterate(s3, bucket), broker.url, in_flight=2)]
    assert 5 <= len(outcomes) <= 7
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len(list(iterate(s3, bucket))) == 20


def test_one_that_is_refused_is_told_and_the_others_go_on(s3: S3Client, bucket: str) -> None:
    bury(s3, bucket, 9)
    with scripted_sink(lambda event, _: Reply(400 if event.subject == "003" else 202)) as broker:
        outcomes = {
            str(stored.letter.event["subject"]): outcome
            for stored, outcome in replay_each(s3, bucket, iterate(s3, bucket), broker.url, in_flight=3)
        }
    assert isinstance(outcomes.pop("003"), InputRefused)
    assert set(outcomes.values()) == {Replayed.DELIVERED}
    assert [stored.letter.event["subject"] for stored in iterate(s3, bucket)] == ["003"]


def test_one_that_was_written_anew_is_not_purged(s3: S3Client, bucket: str) -> None:
    bury(s3, bucket, 1)
    (stored,) = iterate(s3, bucket)
    s3.put_object(
        Bucket=bucket, Key=stored.key, Body=s3.get_object(Bucket=bucket, Key=stored.key)["Body"].read() + b" "
    )
    assert not purge(s3, bucket, stored)
    (again,) = iterate(s3, bucket)
    assert purge(s3, bucket, again)
    assert list(iterate(s3, bucket)) == []


def test_purge_deletes_what_is_chosen_and_only_when_told_to(store: Store, s3: S3Client, bucket: str) -> None:
    bury(s3, bucket, 12)
    status, said, _ = run(store, bucket, "purge", "--key", "00")
    assert (status, said.count("would be deleted")) == (0, 10)
    status, said, _ = run(store, bucket, "purge", "--key", "00", "--reason", "unavailable", "--yes")
    assert (status, said.count("  deleted")) == (0, 10)
    assert [stored.letter.event["subject"] for stored in iterate(s3, bucket)] == ["010", "011"]


def test_a_replay_that_is_killed_is_repeated_and_loses_none(store: Store, s3: S3Client, bucket: str) -> None:
    subjects = bury(s3, bucket, 60)
    keys = [stored.key for stored in iterate(s3, bucket)]
    killed: Callable[[], object] = lambda: process.poll() is not None  # noqa: E731

    def kill_after_20(event: Event, attempt: int) -> Reply:
        if len(broker.accepted) >= 20 and not killed():
            os.kill(process.pid, signal.SIGKILL)
        return Reply()

    with scripted_sink() as broker:
        argv, settings = command(store, bucket, "replay", "--all", "--in-flight", "4", sink=broker.url)
        broker.script = kill_after_20
        process = subprocess.Popen(argv, env=settings, stdout=subprocess.DEVNULL)
        wait_for(killed, "the kill", 60)
        left = {str(stored.letter.event["subject"]) for stored in iterate(s3, bucket)}
        assert left | set(broker.accepted_keys()) == set(subjects)
        assert left and process.returncode == -signal.SIGKILL
        broker.script = always_accept
        status, _, said = run(store, bucket, "replay", *keys, sink=broker.url)
        assert status == 1, "some keys are not there any more"
        assert said.count("it may have been replayed") == 60 - len(left)
        assert set(broker.accepted_keys()) == set(subjects)
        assert len(broker.accepted) <= 60 + 2 * 4
    assert list(iterate(s3, bucket)) == []
