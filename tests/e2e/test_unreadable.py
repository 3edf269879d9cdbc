"""What no component can read is a dead letter too, and stays one when it is sent again."""

from __future__ import annotations

import base64
import json
import urllib.parse

from testbed.engine import OneMachine
from testbed.processes import wait_for
from whimbrel.eventing.dead_letters import Stored, iterate
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
