"""A wrong or missing setting ends the start with one line and status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.processes import environment


def start(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whimbrel.eventing", *arguments]
    return subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["source", "kafka9"], "sink results; sink dead-letters, seen source kafka9"),
        (["source", "kafka", "--sink=http://x", "--kafka-brokers=b"], "setting WHIMBREL_KAFKA_TOPICS (--kafka-topics)"),
        (
            ["source", "amqp", "--sink=http://x", "--amqp-queue=q", "--amqp-url=http://u:pw@h/"],
            "setting WHIMBREL_AMQP_URL (--amqp-url): string should match pattern '^amqps?://\\S+$', seen 'http://u:***@h/'",
        ),
        (["sink", "results"], "setting WHIMBREL_RESULTS_BUCKET (--results-bucket): missing"),
        (["source", "sqs", "--sink=ftp://x", "--sqs-queue=q"], "setting WHIMBREL_SINK (--sink): string should match"),
        (
            [
                "source",
                "sqs",
                "--sink=http://x",
                "--sqs-queue=q",
                "--ce-overrides",
                '{"extensions": {"Bad-Name": "1"}}',
            ],
            "setting WHIMBREL_CE_OVERRIDES (--ce-overrides): expected a CloudEvent 1.0; extension 'Bad-Name'",
        ),
        (
            [
                "source",
                "sqs",
                "--sink=http://x",
                "--sqs-queue=q",
                "--sqs-wait-seconds=9",
                "--s3-read-timeout-seconds=5",
            ],
            "expected WHIMBREL_SQS_WAIT_SECONDS below WHIMBREL_S3_READ_TIMEOUT_SECONDS, seen 9 and 5",
        ),
    ],
)
def test_a_wrong_start_names_the_setting(arguments: list[str], line: str) -> None:
    ended = start(*arguments)
    assert ended.returncode == 2
    assert line in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start("sink", "results", "--results-bucket=results", PORT=str(port), AWS_DEFAULT_REGION="us-east-1")
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_help_names_every_component_and_setting() -> None:
    assert "source sqs" in start("--help").stdout
    assert "K_SINK" in start("source", "sqs", "--help").stdout
    for name in ("amqp", "kafka"):
        assert f"source {name}" in start("--help").stdout


def test_the_command_line_runs_the_same_sources() -> None:
    def whimbrel(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "whimbrel.cli", "source", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)

    assert {"amqp", "kafka", "sqs"} <= set(whimbrel("--help").stdout.split())
    assert "WHIMBREL_KAFKA_GROUP" in whimbrel("kafka", "--help").stdout
    refused = whimbrel("pigeon")
    assert (refused.returncode, "seen pigeon" in refused.stderr) == (2, True)
    missing = whimbrel("sqs", "--sqs-queue=q")
    assert (missing.returncode, "WHIMBREL_SINK (--sink): missing" in missing.stderr) == (2, True)
