"""`whimbrel loadtest`: what it prints, writes and ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from testbed.answering import Answer, answering
from testbed.hey import needs_hey
from whimbrel.cli.loadtest import loadtest
from whimbrel.core.errors import SettingsError

app = typer.Typer()
app.command()(loadtest)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr; an error of ours is raised, as `whimbrel.cli.main` gets it."""
    result = CliRunner().invoke(app, [*arguments, "--state", "/nonexistent"], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@needs_hey
def test_a_sweep_is_shown_written_drawn_and_compared(tmp_path: Path) -> None:
    first, second, picture = tmp_path / "first.json", tmp_path / "second.json", tmp_path / "plot.png"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with answering() as server:
        load = [server.url, "-c", "1,2", "--requests", "20", "--image", str(tmp_path / "a.png")]
        assert run(*load, "--json", str(first))[0] == 0
        status, printed, said = run(*load, "--compare", str(first), "--json", str(second), "--plot", str(picture))
    assert status == 0
    assert f"POST {server.url}" in said
    assert "20 requests unthrottled, 2 at once, 1 body" in said
    assert [line.split()[:5] for line in printed.splitlines()[1:3]] == [
        ["1", "20", "20", "0", "0"],
        ["2", "20", "20", "0", "0"],
    ]
    assert "now / " in printed
    assert [stage["sent"] for stage in json.loads(second.read_text())["stages"]] == [20, 20]
    assert picture.read_bytes().startswith(b"\x89PNG")


@needs_hey
def test_a_condition_that_holds_ends_with_1() -> None:
    with answering(lambda _: Answer(503)) as server:
        status, _, said = run(server.url, "--requests", "10", "--fail-on", "p99>60s,errors>0")
    assert status == 1
    assert "failed: errors>0: seen 10 at concurrency 1" in said
    assert "p99" not in said.split("failed:")[1]


@needs_hey
def test_json_is_all_that_stdout_holds() -> None:
    with answering() as server:
        status, printed, _ = run(server.url, "--requests", "5", "-o", "json")
    assert (status, json.loads(printed)["stages"][0]["succeeded"]) == (0, 5)


@needs_hey
def test_a_service_behind_a_gateway_takes_events() -> None:
    with answering() as server:
        gateway = server.url.removesuffix("/predict")
        status, _, _ = run(
            "--inference-service", "digits", "--gateway", gateway, "--event", "s3://photos/a%20b.png",
            "--requests", "4", "--warm-up", "0",
        )  # fmt: skip
    assert status == 0
    assert {(each.path, each.headers["host"]) for each in server.received} == {("/events", "digits.default.localhost")}
    assert {each.headers["ce-type"] for each in server.received} == {"com.amazonaws.s3.ObjectCreated:Put"}
    assert {each.headers["ce-subject"] for each in server.received} == {"a%20b.png"}


def test_a_dry_run_sends_nothing() -> None:
    with answering() as server:
        status, _, said = run(server.url, "--duration", "5", "--rate", "10", "-c", "2", "--dry-run")
    assert (status, server.received) == (0, [])
    assert "as many requests as fit into 5 s at 10/s, 2 at once" in said


def test_the_environment_sets_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_LOADTEST_MAX_REQUESTS", "10")
    with pytest.raises(SettingsError, match="--requests above 0 and up to 10"):
        run("http://127.0.0.1:9/", "--requests", "11", "--dry-run")
    assert run("http://127.0.0.1:9/", "--requests", "11", "--max-requests", "11", "--warm-up", "0", "--dry-run")[0] == 0


def test_without_hey_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SettingsError, match="expected the load generator hey in PATH, seen none; get it with 'apt in"):
        run("http://127.0.0.1:9/", "--requests", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1:9/"], "expected a number of requests or a duration"),
        (["--requests", "1"], "expected a URL or --inference-service, one of the two"),
        (["http://127.0.0.1:9/", "--inference-service", "x", "--gateway", "http://127.0.0.1:9"], "one of the two"),
        (["http://127.0.0.1:9/", "--requests", "1", "-c", "1,x"], "expected --concurrency as a number or several"),
        (["http://127.0.0.1:9/", "--requests", "1", "--fail-on", "p99"], "expected a condition such as"),
        (["http://127.0.0.1:9/", "--requests", "1", "--v1"], "expected --image with --v1"),
        (["http://127.0.0.1:9/", "--requests", "1", "--header", "oops"], "expected a header 'Name: value'"),
        (["http://127.0.0.1:9/", "--requests", "1", "--compare", "/nonexistent"], "expected an earlier load test's"),
        (["--inference-service", "x", "--kubeconfig", "/nonexistent", "--requests", "1"], "expected a kubeconfig"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(*arguments)
