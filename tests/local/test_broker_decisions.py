"""The broker's pure half: configuration, filters, outcomes, waits, dead letters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from whimbrel.core.cloudevent import Event, binary, structured
from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.local.broker.config import KNATIVE_DEFAULT, Delivery, parse_config
from whimbrel.local.broker.delivery import Accepted, Failed, arrived, as_reply, dead_letter, judge, wait_seconds
from whimbrel.local.broker.durations import parse_duration
from whimbrel.local.broker.filters import matches, parse_dialects

NOW = datetime(2026, 11, 20, 13, 25, tzinfo=UTC)
EVENT = Event(id="1", source="aws:s3.us-east-1.photos", type="t", subject="a/0.jpg", extensions={"color": "red"})
CAPTURED = json.loads((Path(__file__).parents[1] / "data/knative/dead-letters.json").read_text())


def config_of(*, broker: dict[str, Any] | None = None, trigger: dict[str, Any] | None = None) -> str:
    named = {"namespace": "n", "name": "x"}
    return json.dumps(
        {
            "brokers": [named | (broker or {})],
            "triggers": [named | {"broker": "x", "subscriber": {"uri": "http://127.0.0.1:1/"}} | (trigger or {})],
        }
    )


def delivery_of(broker: dict[str, Any] | None, trigger: dict[str, Any] | None) -> Delivery:
    text = config_of(
        broker=None if broker is None else {"delivery": broker},
        trigger=None if trigger is None else {"delivery": trigger},
    )
    return parse_config(text, origin="test").brokers["n", "x"].triggers[0].delivery


def test_delivery_is_the_triggers_then_the_brokers_then_knatives() -> None:
    brokers = {
        "retry": 5,
        "backoffPolicy": "linear",
        "backoffDelay": "PT1S",
        "timeout": "PT5S",
        "deadLetterSink": {"uri": "http://127.0.0.1:2/"},
    }
    assert delivery_of(None, None) == KNATIVE_DEFAULT
    assert delivery_of(brokers, None) == Delivery(5, "linear", 1.0, 5.0, None, "http://127.0.0.1:2/")
    assert delivery_of(brokers, {"retry": 2, "retryAfterMax": "PT1M"}) == Delivery(
        retry=2, retry_after_max_seconds=60.0, dead_letter_sink="http://127.0.0.1:2/"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "Invalid JSON"),
        (config_of(broker={"spec": {}}), "brokers[0].spec"),
        (config_of(trigger={"broker": "other"}), "triggers[0].broker: namespace 'n' has no broker 'other'"),
        (config_of(trigger={"delivery": {"backoffDelay": "1s"}}), "triggers[0].delivery.backoffDelay"),
        (config_of(trigger={"delivery": {"timeout": "PT601S"}}), "triggers[0].delivery.timeout"),
        (config_of(trigger={"subscriber": {"ref": {}}}), "triggers[0].subscriber.uri"),
        (config_of(trigger={"filters": [{"cesql": "type = 'x'"}]}), "triggers[0].filters[0].cesql"),
        (config_of(trigger={"filters": [{"not": {"exact": {}}}]}), "triggers[0].filters[0].not.exact"),
    ],
)
def test_a_wrong_configuration_is_named_by_its_path(text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace("[", r"\[").replace("]", r"\]")):
        parse_config(text, origin="test")


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT0.2S", 0.2), ("PT5M", 300), ("PT1H1M1S", 3661), ("P1DT1S", 86401), ("PT0S", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "P", "PT", "5s", "P1M", "P1Y", "-PT1S", "PT1", "P1DT"])
def test_what_is_no_fixed_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO-8601"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("documents", "passes"),
    [
        ([], True),
        ([{"exact": {"type": "t"}}], True),
        ([{"exact": {"type": "T"}}], False),
        ([{"prefix": {"subject": "a/"}}, {"suffix": {"subject": ".jpg"}}], True),
        ([{"prefix": {"subject": "a/"}}, {"suffix": {"subject": ".png"}}], False),
        ([{"any": [{"exact": {"type": "no"}}, {"exact": {"color": "red"}}]}], True),
        ([{"all": [{"exact": {"type": "t"}}, {"not": {"exact": {"color": "red"}}}]}], False),
        ([{"not": {"prefix": {"absent": "x"}}}], True),
        ([{"exact": {"specversion": "1.0", "color": "red"}}], True),
    ],
)
def test_filter_dialects(documents: list[Any], passes: bool) -> None:
    assert matches(parse_dialects(documents, "filters"), EVENT.attributes()) is passes


@pytest.mark.parametrize(
    ("attributes", "passes"),
    [({}, True), ({"type": "t"}, True), ({"type": ""}, True), ({"absent": ""}, False), ({"type": "u"}, False)],
)
def test_attribute_filters(attributes: dict[str, str], passes: bool) -> None:
    text = config_of(trigger={"filter": {"attributes": attributes}})
    wanted = parse_config(text, origin="test").brokers["n", "x"].triggers[0].filter
    assert matches(wanted, EVENT.attributes()) is passes


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 502, 503, 504])
def test_statuses_that_are_tried_again(status: int) -> None:
    assert judge(status, {}, b"why") == Failed(f"status {status}", True, status, b"why")


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 415, 422])
def test_statuses_that_are_final(status: int) -> None:
    assert judge(status, {}, b"why") == Failed(f"status {status}", False, status, b"why")


def test_answers_with_a_reply_and_without() -> None:
    assert judge(202, {"content-type": "text/plain"}, b"ignored") == Accepted()
    assert judge(202, *binary(EVENT)) == Accepted()
    assert judge(204, {}, b"") == Accepted()
    assert judge(200, {}, b"") == Accepted()
    assert judge(200, *binary(EVENT)) == Accepted(EVENT)
    assert judge(200, *structured(EVENT)) == Accepted(EVENT)
    for headers, body in (({"content-type": "application/json"}, b"{}"), ({"ce-specversion": "1.0"}, b"{}")):
        outcome = judge(200, headers, body)
        assert isinstance(outcome, Failed) and outcome.retried and outcome.status is None


def test_waits() -> None:
    failure = Failed("status 503", status=503, retry_after="7")
    exponential = Delivery(retry=5, backoff_delay_seconds=0.5)
    linear = Delivery(retry=5, backoff_policy="linear", backoff_delay_seconds=0.5)
    assert [wait_seconds(exponential, n, failure, NOW) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert [wait_seconds(linear, n, failure, NOW) for n in range(4)] == [0.0, 0.5, 1.0, 1.5]
    assert wait_seconds(exponential, 5000, failure, NOW) == 3600.0


@pytest.mark.parametrize(
    ("status", "retry_after", "longest", "seconds"),
    [
        (503, "7", None, 0.5),  # ignored unless retryAfterMax is set
        (503, "7", 60.0, 7.0),
        (429, "7", 3.0, 3.0),
        (500, "7", 60.0, 0.5),
        (503, "0", 60.0, 0.5),
        (503, "soon", 60.0, 0.5),
        (503, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 60.0, 0.5),
        (503, format_datetime(NOW + timedelta(seconds=9), usegmt=True), 60.0, 9.0),
    ],
)
def test_retry_after(status: int, retry_after: str, longest: float | None, seconds: float) -> None:
    delivery = Delivery(retry=1, backoff_delay_seconds=0.5, retry_after_max_seconds=longest)
    assert wait_seconds(delivery, 0, Failed("", status=status, retry_after=retry_after), NOW) == seconds


def test_an_event_has_255_hops_and_a_reply_those_of_its_cause() -> None:
    first = arrived(EVENT, NOW)
    assert first.extensions["knativebrokerttl"] == "255"
    claiming = Event(id="2", source="s", type="r", extensions={"knativebrokerttl": "9000"})
    assert arrived(as_reply(claiming, first), NOW).extensions["knativebrokerttl"] == "254"
    with pytest.raises(InputRefused, match="filter the triggers by type"):
        arrived(EVENT.with_extensions({"knativebrokerttl": "1"}), NOW)


ANSWERED = [
    each
    for each in CAPTURED
    if each["attrs"]["id"] in ("dl400-0", "dl422-0", "dl429-0", "dl503-0") and "knativeerrorcode" in each["attrs"]
]


@pytest.mark.parametrize("captured", ANSWERED)
def test_dead_letters_are_those_of_a_real_broker(captured: dict[str, Any]) -> None:
    attributes = captured["attrs"]
    status = int(attributes["knativeerrorcode"])
    failure = Failed("", status=status, body=json.dumps({"error": f"asked for {status}"}).encode())
    letter = dead_letter(arrived(EVENT, NOW), attributes["knativeerrordest"], failure, 1)
    ours = {name: value for name, value in letter.attributes().items() if name.startswith("knativeerror")}
    assert ours == {name: value for name, value in attributes.items() if name.startswith("knativeerror")}
    assert letter.attributes().keys() - attributes.keys() == {"color", "whimbrelattempts"}


def test_a_timeout_tells_no_error_as_a_real_broker_does() -> None:
    letter = dead_letter(arrived(EVENT, NOW), "http://subscriber/", Failed("no answer within 5 s"), 6)
    (captured,) = (each["attrs"] for each in CAPTURED if each["attrs"]["id"] == "to1-0")
    assert not any(name.startswith("knativeerror") for name in [*captured, *letter.extensions])
    assert letter.extensions["whimbrelattempts"] == "6"


def test_error_data_is_at_most_1024_bytes_and_that_of_this_delivery() -> None:
    again = EVENT.with_extensions({"knativeerrordata": "old", "knativeerrorcode": "500", "whimbrelattempts": "3"})
    letter = dead_letter(again, "http://subscriber/", Failed("", status=500, body=b"x" * 5000), 2)
    assert len(letter.extensions["knativeerrordata"]) == 1024
    assert dead_letter(again, "http://subscriber/", Failed(""), 2).extensions == {
        "color": "red",
        "whimbrelattempts": "2",
    }
