"""What no component can read is a dead letter too, and stays one when it is sent again."""

from __future__ import annotations

import base64
import json
import urllib.parse

import httpx

from testbed.engine import OneMachine
from testbed.processes import wait_for
from whimbrel.eventing.dead_letters import Replayed, Stored, iterate, replay
from whimbrel.eventing.unreadable import UNREADABLE_TYPE


def unreadable(machine: OneMachine, key: str) -> list[Stored]:
    """The dead letters of unreadable records that name `key`, as a notification writes it."""
    named = urllib.parse.quote_plus(key).encode()
    found = iterate(machine.s3(), "dead-letters", UNREADABLE_TYPE)
    return [each for each in found if named in base64.b64decode(each.letter.event["data_base64"])]


def test_a_key_with_a_control_character_ends_as_one_dead_letter(machine: OneMachine) -> None:
    machine.put({"a\tb.png": b"no picture"})
    wait_for(lambda: unreadable(machine, "a\tb.png"), "the dead letter", 60)

    (stored,) = unreadable(machine, "a\tb.png")
    assert stored.letter.error.reason == "InputRefused"
    assert stored.letter.error.code == 400
    record = json.loads(base64.b64decode(stored.letter.event["data_base64"]))
    assert record["s3"]["bucket"]["name"] == "photos"


def test_a_replay_of_it_fails_again(machine: OneMachine) -> None:
    machine.put({"again/a\tb.png": b"no picture"})
    wait_for(lambda: unreadable(machine, "again/a\tb.png"), "the dead letter", 60)
    (stored,) = unreadable(machine, "again/a\tb.png")

    with httpx.Client(timeout=60) as http:
        outcome = replay(machine.s3(), "dead-letters", stored, machine.status()["endpoints"]["broker"], http)

    assert outcome is Replayed.FAILED_AGAIN
    (again,) = unreadable(machine, "again/a\tb.png")
    assert again.letter.replays == 1
    assert again.letter.error == stored.letter.error
