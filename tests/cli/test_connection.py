"""Which store a command talks to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whimbrel.cli.connection import connect
from whimbrel.core.errors import SettingsError
from whimbrel.local.state import write_status

ENVIRONMENT = {"WHIMBREL_S3_ENDPOINT": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "ours", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of an engine that runs (this process), and a shell without any store's variables."""
    for name in (*ENVIRONMENT, "AWS_PROFILE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    write_status(
        tmp_path, {"endpoints": {"broker": "http://127.0.0.1:2"}, "environment": ENVIRONMENT, "components": []}
    )
    return tmp_path


def test_the_engines_store_comes_before_aws(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    assert connect(state).broker() == "http://127.0.0.1:2"
    assert (os.environ["WHIMBREL_S3_ENDPOINT"], os.environ["AWS_ACCESS_KEY_ID"]) == ("http://127.0.0.1:1", "ours")
    assert "AWS_PROFILE" not in os.environ


def test_a_store_that_is_named_comes_before_the_engines(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_S3_ENDPOINT", "http://store:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    connect(state)
    assert (os.environ["WHIMBREL_S3_ENDPOINT"], os.environ["AWS_ACCESS_KEY_ID"]) == ("http://store:9000", "theirs")


def test_with_neither_the_remedy_is_named(state: Path) -> None:
    with pytest.raises(SettingsError, match="start it with 'whimbrel up'"):
        connect(state / "nowhere")
