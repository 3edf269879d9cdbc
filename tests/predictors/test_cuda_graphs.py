"""Which batch sizes get a CUDA graph, and that a network that cannot be recorded computes without. No GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.packages import packaged

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def test_sizes_that_come_often_are_recorded_once_and_no_more_than_allowed() -> None:
    from whimbrel.predictors.cuda_graphs import Sizes

    sizes = Sizes(most=2, often=3)
    due = [(size, sizes.is_due(size)) for size in (8, 8, 1, 8, 8, 1, 1, 4, 4, 4)]
    assert [size for size, is_due in due if is_due] == [8, 1]
    ended = Sizes(most=2, often=1)
    ended.end()
    assert not ended.is_due(8)


def test_the_setting_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.predictors import sources, torch_network
    from whimbrel.predictors.settings import PredictorSettings

    made = packaged(tmp_path / "1", "1")
    settings = PredictorSettings(model_name="m", model_uri="null:2", cuda_graphs=True)
    located = sources.locate(sources.Source("1", made.uri, made.digest), settings)
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch_network, "load", lambda *_, **named: given.update(named))
    sources.build(located, settings)
    assert given["cuda_graphs"] is True


def test_what_cannot_be_recorded_computes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.predictors.cuda_graphs import GraphedModule, Sizes

    def refuses(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(GraphedModule, "_recorded", refuses)
    module = GraphedModule(lambda images: images + 1, torch.device("cpu"), Sizes(often=1))
    for _ in range(3):
        assert module(torch.zeros(2)).tolist() == [1, 1]
    assert not module._sizes.is_due(3)


def test_a_size_that_was_recorded_is_replayed_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.predictors.cuda_graphs import GraphedModule, Sizes

    class Graph:
        def __init__(self, given: Any, output: Any) -> None:
            self.given, self.output = given, output

        def replay(self) -> None:
            self.output.copy_(self.given * 10)

    def recorded(_: Any, images: Any) -> Any:
        given, output = images.clone(), images.clone()
        return Graph(given, output), given, output

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(GraphedModule, "_recorded", recorded)
    module = GraphedModule(lambda images: images + 1, torch.device("cpu"), Sizes(most=1, often=2))
    assert module(torch.full((2,), 1)).tolist() == [2, 2]
    assert module(torch.full((2,), 1)).tolist() == [10, 10]
    assert module(torch.full((2,), 3)).tolist() == [30, 30]
    assert module(torch.full((3,), 3)).tolist() == [4, 4, 4]
