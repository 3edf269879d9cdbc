"""What is written as model.pt2 needs no unpickling; what is refused as one is really harmful."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import pt2_archives
from whimbrel.core import pt2
from whimbrel.core.errors import PackageRefused
from whimbrel.mlflow.exported import MAX_BATCH, rewrite, save_classifier

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def network() -> Any:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU("tanh"), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 10)).eval()


def close_every_way_into_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "loads"), (pickle, "load"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch._C, "_pickle_load_obj", refuse)


def test_an_exported_network_loads_without_unpickling_and_answers_the_same(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    path = tmp_path / "model.pt2"
    save_classifier(network, (8, 8), path)
    pt2.check(path)
    close_every_way_into_pickle(monkeypatch)
    loaded = torch.export.load(path).module()
    for batch in (1, 5, MAX_BATCH):
        images = torch.rand(batch, 3, 8, 8)
        assert torch.equal(loaded(images), network(images))


def test_the_same_network_gives_the_same_bytes(network: Any, tmp_path: Path) -> None:
    for name in ("one.pt2", "two.pt2"):
        save_classifier(network, (8, 8), tmp_path / name)
    assert (tmp_path / "one.pt2").read_bytes() == (tmp_path / "two.pt2").read_bytes()


def test_torchs_own_file_is_refused_until_it_is_rewritten(network: Any, tmp_path: Path) -> None:
    import torch

    saved, rewritten = tmp_path / "saved.pt2", tmp_path / "rewritten.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 8, 8),)), saved, extra_files={"a.txt": "b"})
    with pytest.raises(PackageRefused, match="sample inputs"):
        pt2.check(saved)
    rewrite(saved, rewritten)
    pt2.check(rewritten)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(torch.export.load(rewritten).module()(images), network(images))


def test_what_cannot_be_rewritten_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source.pt2", tmp_path / "target.pt2"
    for content in (b"no archive", pickle.dumps(1)):
        source.write_bytes(content)
        with pytest.raises(PackageRefused, match=r"torch\.export\.save"):
            rewrite(source, target)
    pt2_archives.write(source, pt2_archives.entries() | {"data/constants/opaque_obj_0": pickle.dumps(1)})
    with pytest.raises(PackageRefused, match="only a pickle can carry"):
        rewrite(source, target)
    assert not target.exists()


def test_an_archive_by_hand_is_one_that_torch_takes(tmp_path: Path) -> None:
    import torch

    path = pt2_archives.write(tmp_path / "model.pt2", pt2_archives.entries())
    loaded: Any = torch.export.load(path)
    assert loaded.module()(torch.ones(4, 3, 1, 1)).sum().item() == 4 * 3 * 2.0


def sample_inputs(marker: Path) -> dict[str, bytes]:
    return pt2_archives.entries() | {"data/sample_inputs/model.pt": saved_by_torch(marker)}


def pickled_weight(marker: Path) -> dict[str, bytes]:
    parts = pt2_archives.entries(weights=pt2_archives.weights_config(use_pickle=True))
    return parts | {"data/weights/weight_0": saved_by_torch(marker)}


def opaque_object(marker: Path) -> dict[str, bytes]:
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    parts = pt2_archives.entries(constants={"config": {"c": payload}})
    return parts | {"data/constants/opaque_obj_0": pt2_archives.pickle_that_touches(marker)}


def older_weights(marker: Path) -> dict[str, bytes]:
    return pt2_archives.entries() | {"data/weights/model.pt": saved_by_torch(marker)}


def expression(marker: Path) -> dict[str, bytes]:
    """No pickle at all: torch evaluates the size of a tensor."""
    program = pt2_archives.program()
    size = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
    size["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(marker)!r}) or Integer(2)"
    return pt2_archives.entries(program=program)


def saved_by_torch(marker: Path) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(pt2_archives.Touch(marker), content)
    return content.getvalue()


@pytest.mark.parametrize("hostile", [sample_inputs, pickled_weight, opaque_object, older_weights, expression])
def test_a_refused_archive_runs_its_code_in_torchs_loader(
    hostile: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    import torch

    marker = tmp_path / "was-here"
    path = pt2_archives.write(tmp_path / "model.pt2", hostile(marker))
    with pytest.raises(PackageRefused):
        pt2.check(path)
    assert not marker.exists()
    try:
        torch.export.load(path)
    except Exception as error:  # after the code ran, the loader may well fail
        assert error is not None
    assert marker.exists()
