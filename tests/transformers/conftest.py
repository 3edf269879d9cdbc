"""A real predictor (the null one: its answer follows from the first pixel) and a transformer before it."""

from __future__ import annotations

from collections.abc import Iterator
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
def transformer(store: Store, logs: Path, predictor: Predictor) -> Iterator[Transformer]:
    """With the settings' defaults."""
    with running_transformer(logs / "transformer.log", store, predictor.url.removeprefix("http://")) as running:
        yield running


@pytest.fixture(scope="session")
def strict_transformer(store: Store, logs: Path, predictor: Predictor) -> Iterator[Transformer]:
    """Over gRPC, with small limits and one label an answer."""
    limits = ("--image-max-pixels", "1000000", "--image-max-bytes", "100000", "--top-k", "1")
    target, log = predictor.grpc_target, logs / "strict.log"
    with running_transformer(log, store, target, "--predictor_protocol", "grpc-v2", *limits) as running:
        yield running
