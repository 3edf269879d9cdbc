"""Nothing is lost and nothing comes twice, whatever is killed with SIGKILL while 300 objects are in flight."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.engine import OneMachine, one_machine, picture, pictures
from testbed.processes import wait_for
from whimbrel.core.s3 import sqs_client
from whimbrel.core.settings import S3Settings

OBJECTS = 300
BROKEN = 6
NO_ANSWER = "store does not answer"


def objects(prefix: str) -> dict[str, bytes]:
    """Pictures, and among them some that have to end as dead letters."""
    made = pictures(prefix, OBJECTS - BROKEN)
    return made | {f"{prefix}broken-{number}.png": b"no picture %d" % number for number in range(BROKEN)}


def assert_all_accounted_for(machine: OneMachine, prefix: str, put: dict[str, bytes]) -> None:
    """Counted when nothing is under way any more: a second outcome of what is delivered again would come late."""
    wait_for(
        lambda: len(machine.outcomes(prefix=prefix)) >= len(put),
        f"an outcome of each of {len(put)} objects, {len(machine.outcomes(prefix=prefix))} so far",
        120,
    )
    wait_for(lambda: sum(queued(machine)) == 0, "an empty queue, of messages in work too", 120)
    outcomes = machine.outcomes(prefix=prefix)
    assert {key: len(outcomes.of(key)) for key in put} == dict.fromkeys(put, 1)
    assert {key for key in put if key in outcomes.letters} == {key for key in put if "broken" in key}


def queued(machine: OneMachine) -> tuple[int, int]:
    """Messages that wait, and messages that somebody holds or held when it was killed."""
    variables = machine.status()["environment"]
    settings = S3Settings(s3_endpoint=variables["WHIMBREL_S3_ENDPOINT"])
    credentials = (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    client = sqs_client(settings, variables["WHIMBREL_SQS_ENDPOINT"], credentials=credentials)
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    url = client.get_queue_url(QueueName="photos")["QueueUrl"]
    answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    waiting, held = (int(answer[name]) for name in names)
    return waiting, held


@pytest.mark.parametrize(
    "component", ["objects", "broker", "digits-transformer", "digits-predictor", "results", "dead-letters"]
)
def test_a_killed_component_loses_nothing(machine: OneMachine, component: str) -> None:
    prefix = f"kill-{component}/"
    put = objects(prefix)
    putting = threading.Thread(target=machine.put, args=(put,))
    putting.start()
    try:
        for reached in (10, 60):
            wait_for(lambda: len(machine.outcomes(prefix=prefix)) >= reached, f"{reached} outcomes", 60)  # noqa: B023
            machine.kill(component)
    finally:
        putting.join(60)

    assert_all_accounted_for(machine, prefix, put)


def test_a_store_that_stands_still_is_waited_out(machine: OneMachine) -> None:
    """An object that the source has taken and nobody has read is then read from it."""
    prefix = "pause/"
    put = objects(prefix)
    store = machine.component("s3")["pid"]
    told_before = logs(machine).count(NO_ANSWER)
    try:
        with standing_still(machine.component("broker")["pid"]):
            machine.put(put)
            wait_for(lambda: queued(machine)[1] > 0, "an object in work", 60)
            os.kill(store, signal.SIGSTOP)
        wait_for(lambda: logs(machine).count(NO_ANSWER) > told_before, "a component that noticed", 120)
    finally:
        os.kill(store, signal.SIGCONT)

    assert_all_accounted_for(machine, prefix, put)


def test_an_engine_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    put = objects("crash/")
    with one_machine(tmp_path / "state") as machine:
        machine.put(put)
        wait_for(lambda: len(machine.outcomes()) >= 30, "30 outcomes", 60)
        pids = [component["pid"] for component in machine.status()["components"]]
        machine.process.signal(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in pids), "the end of all that the killed engine had started", 60)

    with one_machine(tmp_path / "state") as machine:
        assert_all_accounted_for(machine, "", put)


def test_an_object_that_was_overwritten_or_deleted_before_it_was_read_is_no_failure(machine: OneMachine) -> None:
    with standing_still(machine.component("objects")["pid"]):
        machine.put({"early/overwritten.png": picture(1), "early/deleted.png": picture(2)})
        machine.put({"early/overwritten.png": picture(3)})
        machine.s3().delete_object(Bucket="photos", Key="early/deleted.png")

    wait_for(lambda: len(machine.outcomes(prefix="early/").gone) == 2, "both to be recorded as gone", 60)
    wait_for(lambda: "early/overwritten.png" in machine.outcomes(prefix="early/").results, "the new version's result")
    outcomes = machine.outcomes(prefix="early/")
    (result,) = outcomes.results["early/overwritten.png"]
    assert result.predictions[0].label == "class-3"
    assert outcomes.letters == {}


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def logs(machine: OneMachine) -> str:
    return "".join(path.read_text(errors="replace") for path in (machine.state / "logs").iterdir())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False
