"""The broker as a process: its start, a new configuration, SIGTERM."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from testbed.processes import Running, answers, running, wait_for
from testbed.subscribers import Answer, Subscriber, subscriber
from whimbrel.core.cloudevent import binary, json_event
from whimbrel.local.state import free_port

MODULE = "whimbrel.local.broker"
EVENT = json_event(id="1", source="test", type="put", data=None)


def write_config(path: Path, taker: Subscriber, *brokers: str) -> None:
    named = [{"namespace": "n", "name": name} for name in brokers]
    triggers = [{**each, "broker": each["name"], "subscriber": {"uri": taker.url}} for each in named]
    path.write_text(json.dumps({"brokers": named, "triggers": triggers}))


def post(port: int, name: str) -> int:
    headers, body = binary(EVENT)
    return httpx.post(f"http://127.0.0.1:{port}/n/{name}", content=body, headers=headers, timeout=30).status_code


def wait_ready(broker: Running, port: int) -> None:
    broker.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the start")


def test_sigterm_finishes_what_was_accepted_and_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    config, port, release = tmp_path / "broker.json", free_port(), threading.Event()
    arguments = ("--http-port", str(port), "--config", str(config))
    with (
        subscriber(lambda event, number: Answer(after=release)) as taker,
        ThreadPoolExecutor(1) as producer,
    ):
        write_config(config, taker, "a")
        with running(MODULE, *arguments, log=tmp_path / "log") as broker:
            wait_ready(broker, port)
            assert post(port, "b") == 404
            config.write_text("{")
            broker.signal(signal.SIGHUP)
            wait_for(lambda: "configuration not reloaded" in broker.output(), "the refusal")
            write_config(config, taker, "a", "b")
            broker.signal(signal.SIGHUP)
            wait_for(lambda: "configuration reloaded" in broker.output(), "the new configuration")
            answer = producer.submit(post, port, "b")
            wait_for(lambda: taker.events, "the delivery")
            broker.signal(signal.SIGTERM)
            wait_for(lambda: not answers(f"http://127.0.0.1:{port}/healthz"), "the end of listening")
            release.set()
            assert answer.result(10) == 202
            assert broker.process.wait(60) == 0


def test_a_start_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "broker.json"
    config.write_text('{"brokers": [{"name": "b"}], "triggers": []}')
    with running(MODULE, "--config", str(config), log=tmp_path / "log") as broker:
        assert broker.process.wait(60) == 2
        assert broker.output() == f"{config}: brokers[0].namespace: Field required\n"
