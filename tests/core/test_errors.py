"""The table of statuses against Knative's delivery contract."""

from __future__ import annotations

import inspect
import re

import pytest

from whimbrel.core import errors
from whimbrel.core.errors import (
    InputRefused,
    ModelFailed,
    PackageRefused,
    PresetMismatch,
    TryAgain,
    Unavailable,
    WhimbrelError,
    is_retried,
)


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 502, 503, 504, 302, 599])
def test_what_knative_tries_again(status: int) -> None:
    assert is_retried(status)


@pytest.mark.parametrize("status", [200, 202, 204, 400, 401, 403, 405, 410, 413, 415, 422])
def test_what_knative_does_not_try_again(status: int) -> None:
    assert not is_retried(status)


def test_every_error_is_on_the_side_of_its_class() -> None:
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, WhimbrelError)]
    assert len(classes) >= 10
    for member in classes:
        if issubclass(member, InputRefused):
            assert not is_retried(member.status), member
        if issubclass(member, TryAgain):
            assert is_retried(member.status), member


def test_a_model_that_fails_blames_no_input() -> None:
    assert (ModelFailed("nonsense").status, PackageRefused("another digest").status) == (500, 422)
    assert is_retried(ModelFailed.status)
    assert not issubclass(ModelFailed, InputRefused)


def test_every_error_stands_in_the_tree_with_its_status() -> None:
    rows = dict(re.findall(r"── (\w+)\s+(\d{3})\s", errors.__doc__ or ""))
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, WhimbrelError)]
    without = {"WhimbrelError", "SettingsError"}
    assert rows == {member.__name__: str(member.status) for member in classes if member.__name__ not in without}


def test_the_body_says_why_in_one_line() -> None:
    error = Unavailable("the store\n  does not answer", retry_after_seconds=0.2)
    assert error.body() == {"error": "the store does not answer", "reason": "Unavailable"}
    assert error.headers() == {"retry-after": "1"}


def test_a_preset_mismatch_carries_the_preset_to_use() -> None:
    error = PresetMismatch("another preset", preset={"height": 8}, model_digest="sha256:1")
    assert error.body()["preset"] == {"height": 8}
    assert error.body()["model_digest"] == "sha256:1"
