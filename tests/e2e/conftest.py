"""One engine for the tests of a module, with the null model: no torch, so it is ready within seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.engine import OneMachine, one_machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    with one_machine(tmp_path_factory.mktemp("machine") / "state") as started:
        yield started
