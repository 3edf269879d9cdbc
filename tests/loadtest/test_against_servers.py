"""The real hey against real servers: what it does not say is counted."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from testbed.answering import Answer, answering
from testbed.hey import needs_hey
from testbed.processes import wait_for
from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.loadtest import bodies, hey, measure
from whimbrel.loadtest.bodies import Body
from whimbrel.loadtest.hey import Request
from whimbrel.loadtest.plan import Load
from whimbrel.loadtest.report import Report
from whimbrel.loadtest.settings import LimitSettings
from whimbrel.loadtest.targets import Place, Target, behind_gateway
from whimbrel.local.state import free_port

pytestmark = needs_hey

PIXEL = Body("a.png", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(3000))
LIMITS = LimitSettings()


def send(url: str, load: Load, *, warm_up: int = 0, limits: LimitSettings = LIMITS) -> Report:
    return measure.measure(Request(Target(url), bodies=(PIXEL,)), [load], warm_up=warm_up, limits=limits)


def test_every_request_arrives_as_it_was_planned() -> None:
    with answering() as server:
        (stage,) = send(server.url, Load(3, requests=10)).stages
    assert (stage.sent, stage.answered, stage.errors, len(server.received)) == (12, 12, 0, 12)
    assert {(each.method, each.path, each.headers["content-type"], each.body) for each in server.received} == {
        ("POST", "/predict", "image/png", PIXEL.content)
    }
    assert stage.latency is not None
    assert stage.latency.count == sum(bin_.count for bin_ in stage.histogram) == 12


def test_a_closed_port_is_all_errors() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    (stage,) = send(url, Load(4, requests=20)).stages
    assert (stage.sent, stage.unanswered, stage.errors, stage.latency) == (20, 20, 20, None)
    (timed,) = send(url, Load(4, seconds=30.0)).stages
    assert timed.errors == timed.sent > 0


def test_a_port_that_dies_half_way() -> None:
    with answering(lambda index: Answer(dies=index >= 30)) as server:
        (stage,) = send(server.url, Load(3, requests=60)).stages
    assert (stage.succeeded, stage.unanswered, stage.errors) == (30, 30, 30)


def test_a_server_that_answers_503() -> None:
    with answering(lambda _: Answer(503)) as server:
        (stage,) = send(server.url, Load(2, requests=20)).stages
    assert (stage.answered, stage.unanswered, stage.errors, stage.throughput) == (20, 0, 20, 0.0)


def test_mixed_statuses_and_broken_connections() -> None:
    answers = [Answer(), Answer(302), Answer(404), Answer(500), Answer(hang_up=True)]
    with answering(lambda index: answers[index % 5]) as server:
        (stage,) = send(server.url, Load(4, requests=100)).stages
    counts = {status: found.count for status, found in stage.by_status.items()}
    assert counts == {200: 20, 302: 20, 404: 20, 500: 20}
    assert (stage.unanswered, stage.errors, len(server.received)) == (20, 80, 100)


def test_an_answer_cut_short_is_a_success_to_hey() -> None:
    """docs/loadtest.md says so; should hey change, the page has to."""
    with answering(lambda _: Answer(body=b"x" * 1000, half=True, hang_up=True)) as server:
        (stage,) = send(server.url, Load(2, requests=10)).stages
    assert stage.errors == 0


def test_a_get_on_a_broken_connection_is_sent_again_by_hey() -> None:
    """docs/loadtest.md says so; should hey change, the page has to."""
    with answering(lambda index: Answer(hang_up=index % 10 == 5)) as server:
        report = measure.measure(Request(Target(server.url), "GET"), [Load(2, requests=40)], warm_up=0, limits=LIMITS)
    assert len(server.received) > report.stages[0].sent
    assert report.stages[0].errors == 0


def test_a_rate_is_kept_by_all_workers_together() -> None:
    with answering() as server:
        (stage,) = send(server.url, Load(4, requests=40, rate=80.0)).stages
    # hey's ticker starts each worker one interval late and never early.
    assert (stage.sent, len(server.received)) == (40, 40)
    assert stage.sent / stage.seconds < 2 * 80.0


def test_a_duration_counts_exactly_what_it_sent() -> None:
    with answering(lambda index: Answer(hang_up=index % 7 == 0)) as server:
        (stage,) = send(server.url, Load(2, seconds=1.0)).stages
        received = len(server.received)
    assert (stage.sent, stage.unanswered) == (received, -(-received // 7))


def test_the_warm_up_is_thrown_away() -> None:
    with answering(lambda index: Answer(503 if index < 5 else 200)) as server:
        (stage,) = send(server.url, Load(2, requests=20), warm_up=5).stages
    assert (len(server.received), stage.sent, stage.errors) == (26, 20, 0)  # five are six to two workers


def test_several_bodies_are_sent_at_once_and_in_turn(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([index]))
    images = [bodies.in_json(bodies.V1_TEMPLATE, bodies.read_image(each, 100)) for each in sorted(tmp_path.iterdir())]
    with answering() as server:
        request = Request(Target(server.url), bodies=tuple(images))
        report = measure.measure(request, [Load(2, requests=60)], warm_up=0, limits=LIMITS)
    sent = Counter(base64.b64decode(json.loads(each.body)["instances"][0]["b64"])[-1] for each in server.received)
    assert (sum(sent.values()), set(sent)) == (60, {0, 1, 2, 3, 4})
    assert [body.name for body in report.bodies] == [f"{index}.png" for index in range(5)]


def test_headers_and_host_arrive_literally() -> None:
    odd = 'a:b "c", d; $(touch /tmp/x) `x` \\n'
    with answering() as server:
        target = behind_gateway(
            server.url.removesuffix("/predict"), Place("digits", "shop", "/v1/models/digits:predict")
        )
        request = Request(target, headers={"X-Odd": odd}, bodies=(Body("a", "text/plain", b"x", {"ce-id": "7"}),))
        measure.measure(request, [Load(1, requests=1)], warm_up=0, limits=LIMITS)
    (received,) = server.received
    assert received.path == "/v1/models/digits:predict"
    assert received.headers["host"] == "digits.shop.localhost"
    assert (received.headers["x-odd"], received.headers["ce-id"]) == (odd, "7")


def test_what_takes_too_long_is_stopped_and_said() -> None:
    stuck, limits = threading.Event(), LimitSettings(loadtest_max_seconds=0.5)
    with answering(lambda index: Answer(waits=stuck if index >= 10 else None)) as server:
        (stage,) = send(server.url, Load(2, requests=1000, timeout_seconds=1), limits=limits).stages
        stuck.set()
    assert stage.cut
    assert (stage.answered, stage.unanswered) == (10, 990)
    assert len(server.received) < 20


def test_a_hey_that_ignores_the_interrupt_is_killed_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    script = (
        f'trap "" INT; (trap "" INT; echo $BASHPID > {marker}; while :; do sleep 0.1; done) & wait; while :; do :; done'
    )
    (finished,) = hey.run_together([["bash", "-c", script]], tmp_path, seconds=2, timeout_seconds=-4)
    assert finished == hey.Finished("", cut=True)
    child = int(marker.read_text())
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text(), "its end")


def test_an_interrupt_of_ours_ends_hey() -> None:
    def interrupt(_: int) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        return Answer()

    # A shell that runs the tests in the background has them ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with answering(interrupt) as server, pytest.raises(KeyboardInterrupt):
            send(server.url, Load(1, requests=60, rate=2.0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [command for command in _commands() if server.url in command]


def test_a_hey_that_refuses_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="expected hey to run, seen exit status 1: -n cannot be less than -c"):
        hey.run_together(
            [[hey.find_hey(), "-n", "1", "-c", "2", "http://127.0.0.1:9/"]], tmp_path, seconds=5, timeout_seconds=1
        )


def test_nothing_is_sent_past_a_limit() -> None:
    with answering() as server, pytest.raises(SettingsError, match="--max-requests"):
        send(server.url, Load(1, requests=11), limits=LimitSettings(loadtest_max_requests=10), warm_up=3)
    assert server.received == []


def _commands() -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(each.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
