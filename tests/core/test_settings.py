"""Settings: the environment and the command line say the same names, and a wrong one is named in one line."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import (
    CommaSeparated,
    Repeated,
    S3Settings,
    ServerSettings,
    load,
    split_commas,
    split_lines,
)


class ProbeSettings(S3Settings, ServerSettings):
    """Settings of a probe."""

    bucket: str = Field(pattern="^[a-z]+$", description="bucket to look at")
    top_k: int = Field(default=5, ge=1, le=100, description="labels a picture")
    watched: bool = Field(default=False, description="whether anybody looks")
    hosts: CommaSeparated = Field(default=(), description="hosts that URLs may name")
    _split = field_validator("hosts", mode="before")(split_commas)
    rule: Annotated[tuple[str, ...], NoDecode, Repeated()] = Field(default=(), description="what counts")
    _lines = field_validator("rule", mode="before")(split_lines)


def probe(*arguments: str) -> ProbeSettings:
    return load(ProbeSettings, arguments, program="probe")


def test_the_command_line_wins_over_the_environment_and_both_spellings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_BUCKET", "photos")
    monkeypatch.setenv("WHIMBREL_TOP_K", "3")
    monkeypatch.setenv("WHIMBREL_HOSTS", "a.example, b.example")

    settings = probe("--s3-endpoint", "http://store:9000", "--top_k=7")

    assert (settings.bucket, settings.top_k, settings.hosts) == ("photos", 7, ("a.example", "b.example"))
    assert settings.s3_endpoint == "http://store:9000"


def test_a_setting_that_is_true_or_false_may_stand_alone() -> None:
    assert probe("--bucket", "b").watched is False
    assert probe("--watched", "--bucket", "b").watched is True
    assert probe("--bucket", "b", "--watched", "false").watched is False


def test_a_repeated_setting_is_an_option_for_each_or_a_line_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe("--bucket", "b").rule == ()
    assert probe("--bucket", "b", "--rule", "a,b", "--rule=c").rule == ("a,b", "c")
    monkeypatch.setenv("WHIMBREL_RULE", "a,b\n\n  c\n")
    assert probe("--bucket", "b").rule == ("a,b", "c")
    assert probe("--bucket", "b", "--rule", "d").rule == ("d",)


def test_the_port_is_also_where_knative_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_BUCKET", "photos")
    assert probe().http_port == 8080
    monkeypatch.setenv("PORT", "9001")
    assert probe().http_port == 9001
    monkeypatch.setenv("WHIMBREL_HTTP_PORT", "9002")
    assert probe().http_port == 9002
    assert probe("--http_port", "9003").http_port == 9003


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "setting WHIMBREL_BUCKET (--bucket): missing (bucket to look at); set it"),
        (
            ["--bucket", "b", "--top-k", "0"],
            "setting WHIMBREL_TOP_K (--top-k): input should be greater than or equal to 1, seen '0' (labels a picture)",
        ),
        (["--bucket", "b", "--s3-endpoint", "store:9000"], "WHIMBREL_S3_ENDPOINT"),
        (["--bucket", "b", "--s3-endpoint", "http://user:pass@store"], "WHIMBREL_S3_ENDPOINT"),
        (["--bucket", "b", "--tpo-k", "3"], "expected a setting of probe, seen '--tpo-k'"),
        (["--bucket"], "expected one argument"),
    ],
)
def test_the_wrong_setting_is_named_in_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(SettingsError) as raised:
        probe(*arguments)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_environment_is_shown_as_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_BUCKET", "Not A Bucket")
    with pytest.raises(SettingsError, match="seen 'Not A Bucket'"):
        probe()


def test_only_the_documented_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_BUCKET", "photos")
    monkeypatch.setenv("HTTP_PORT", "tcp://10.0.0.1:80")  # what Kubernetes sets for a Service named http
    monkeypatch.setenv("BUCKET", "other")
    assert (probe().http_port, probe().bucket) == (8080, "photos")


def test_a_wrong_alias_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_BUCKET", "photos")
    monkeypatch.setenv("PORT", "many")
    with pytest.raises(SettingsError, match=r"setting PORT \(--http-port\): .*seen 'many'"):
        probe()


def test_a_credential_in_a_refused_setting_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        probe("--bucket", "b", "--s3-endpoint", "http://user:hunter2@store")
    assert "hunter2" not in str(raised.value)


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        probe("--help")
    assert exited.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("--top-k", "WHIMBREL_TOP_K", "labels a picture", "default: 5", "required"))
