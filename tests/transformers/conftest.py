"""A real predictor (the null one: its answer follows from the first pixel) and a transformer before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from testbed.predictors import Predictor, running_predictor
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


@pytest.fixture(scope="session")
def predictor(logs: Path) -> Iterator[Predictor]:
    with running_predictor(logs / "predictor.log") as running:
        yield running


@pytest.fixture(scope="session")
def predictor_host(predictor: Predictor) -> str:
    return predictor.url.removeprefix("http://")


@pytest.fixture(scope="session")
def start_transformer(store: Store, logs: Path) -> Iterator[Callable[..., Transformer]]:
    """`start_transformer(predictor_host, *arguments)`; it is stopped at the end of the run."""
    numbers = count()
    with ExitStack() as started:

        def start(host: str, *arguments: str) -> Transformer:
            log = logs / f"transformer-{next(numbers)}.log"
            return started.enter_context(running_transformer(log, store, host, *arguments))

        yield start


@pytest.fixture(scope="session")
def transformer(start_transformer: Callable[..., Transformer], predictor_host: str) -> Transformer:
    return start_transformer(predictor_host)
