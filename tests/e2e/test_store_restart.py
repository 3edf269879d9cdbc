"""A store that is killed and started again inside a running `up` forgets its queue; nothing of it is lost."""

from __future__ import annotations

import os
import signal

from testbed.engine import OneMachine, pictures
from testbed.processes import wait_for


def test_what_was_in_the_queue_of_a_killed_store_is_announced_again(machine: OneMachine) -> None:
    put = pictures("restart/", 40)
    source = machine.component("objects")["pid"]
    os.kill(source, signal.SIGSTOP)  # so that all of them are in the queue when the store ends
    try:
        machine.put(put)
        machine.kill("s3")
    finally:
        os.kill(source, signal.SIGCONT)
    machine.wait_ready()

    wait_for(lambda: len(machine.outcomes(prefix="restart/")) >= len(put), "an outcome of each", 120)

    outcomes = machine.outcomes(prefix="restart/")
    assert {key: len(outcomes.of(key)) for key in put} == dict.fromkeys(put, 1)
    assert machine.component("objects")["pid"] == source
