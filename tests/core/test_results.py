"""Where results lie, which one is the latest, and what is refused as a record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.records import result_of
from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.core.references import MAX_KEY_BYTES, ObjectRef, path_of_key
from whimbrel.core.results import (
    DeadLetter,
    DeadLetterError,
    Gone,
    dead_letter_key,
    dump,
    gone_key,
    latest_key,
    parse_dead_letter,
    parse_gone,
    parse_result,
    replaces,
    result_key,
)

keys = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_records_survive_their_json() -> None:
    result = result_of("in/a.png")
    gone = Gone(object=result.object, event=result.event, reason="deleted")
    letter = DeadLetter(event={"id": "1"}, error=DeadLetterError(code=422, message="broken"), received=NOON)

    assert parse_result(dump(result)) == result
    assert parse_gone(dump(gone)) == gone
    assert parse_dead_letter(dump(letter)) == letter


def test_a_record_of_another_schema_is_refused_by_name() -> None:
    with pytest.raises(InputRefused, match="predictions: Field required"):
        parse_result(b'{"schema": "whimbrel.dev/result/v1"}')
    with pytest.raises(InputRefused, match="schema"):
        parse_result(dump(result_of("a")).replace(b"result/v1", b"result/v9"))


def test_where_a_result_lies() -> None:
    ref = ObjectRef("photos", "in/a b.png", etag="e1")
    assert result_key("photos", ref, "sha256:" + "0" * 64) == f"photos/by-version/in/a b.png/e1/{'0' * 64}.json"
    assert gone_key("photos", ref) == "photos/by-version/in/a b.png/e1/gone.json"
    assert latest_key("photos", "in/a b.png") == "photos/in/a b.png.json"
    assert latest_key("", "a") == "a.json"


@given(keys, keys)
def test_two_keys_never_share_a_place(one: str, other: str) -> None:
    assert (latest_key("p", one) == latest_key("p", other)) == (one == other)


@given(keys)
def test_the_latest_never_lies_among_the_versions(key: str) -> None:
    assert not latest_key("p", "by-version/" + key).startswith("p/by-version/")


@given(keys)
def test_no_place_leaves_the_prefix(key: str) -> None:
    segments = latest_key("p", key).split("/")
    assert segments[0] == "p" and not {"", ".", ".."} & set(segments)


def test_the_longest_key_still_has_a_place() -> None:
    longest = "ü" * (MAX_KEY_BYTES // 2)
    ref = ObjectRef("b", longest, version_id="v" * 100)
    assert len(result_key("prefix", ref, "sha256:" + "0" * 64).encode()) <= MAX_KEY_BYTES
    assert path_of_key(longest) != path_of_key(longest[:-1])


def test_a_newer_event_replaces_and_an_older_never_does() -> None:
    old, new = result_of("a", time=NOON), result_of("a", event_id="2", time=NOON + timedelta(seconds=1))
    assert replaces(new, old)
    assert not replaces(old, new)
    assert not replaces(old, old)


def test_the_sequencer_decides_before_the_clock() -> None:
    first = result_of("a", event_id="1", time=NOON + timedelta(seconds=5), sequencer=1)
    second = result_of("a", event_id="2", time=NOON, sequencer=2)
    assert replaces(second, first) and not replaces(first, second)


def test_sequencers_of_different_sources_say_nothing() -> None:
    one = result_of("a", event_id="1", time=NOON, sequencer=9, source="aws:s3.r.b")
    two = result_of("a", event_id="2", time=NOON + timedelta(seconds=1), sequencer=1, source="ceph:s3..b")
    assert replaces(two, one) and not replaces(one, two)


def test_the_same_event_under_another_model_replaces() -> None:
    assert replaces(
        result_of("a", model_digest="sha256:" + "2" * 64), result_of("a", model_digest="sha256:" + "1" * 64)
    )


def test_a_dead_letter_has_one_place_for_one_event() -> None:
    event = Event(id="1", source="s", type="t", subject="in/a.png")
    failed = event.with_extensions({"knativeerrordest": "http://x", "knativeerrorcode": "503"})
    other = Event(id="2", source="s", type="t", subject="in/a.png")
    assert dead_letter_key("", event) == dead_letter_key("", failed)
    assert dead_letter_key("", event) != dead_letter_key("", other)
    assert dead_letter_key("p", event).startswith("p/in/a.png/")


@pytest.mark.parametrize("uri", ["http://b/k", "s3://", "s3://b", "s3://b/", "b/k", ""])
def test_what_is_no_object_reference(uri: str) -> None:
    with pytest.raises(InputRefused, match="s3://BUCKET/KEY"):
        ObjectRef.from_uri(uri)


@given(keys)
def test_a_reference_survives_its_uri(key: str) -> None:
    assert ObjectRef.from_uri(ObjectRef("bucket", key).uri) == ObjectRef("bucket", key)
