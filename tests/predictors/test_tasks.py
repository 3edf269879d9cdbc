"""The seam of a task: what every task is held to, and a task of a user's own from its package to its answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.predictors import running_predictor, v2_document, v2_outputs
from whimbrel.core.errors import InputRefused, PackageRefused, SettingsError
from whimbrel.core.package import Package, Preset, write_manifest
from whimbrel.predictors.inference_requests import RequestLimits, read_v1
from whimbrel.predictors.network import Description
from whimbrel.predictors.null_network import NullNetwork
from whimbrel.predictors.tasks.chosen import task_of
from whimbrel.predictors.tasks.task import Wanted, joined

ROOT = Path(__file__).parents[2]
# The README's example is what is tested.
(TAGS,) = re.findall(
    r"^```python\n(.*?class Tags.*?)^```", (ROOT / "predictors" / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


def installed(folder: Path, points: str, **modules: str) -> None:
    """A distribution with these entry points of the group, as pip would leave it in `folder`."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    metadata = folder / "acme-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[whimbrel.tasks]\n{points}\n")


def described(task: str) -> Description:
    return Description(task, Preset(height=8, width=8), ("cat", "dog"), "sha256:" + "0" * 64)


def test_pieces_of_one_request_are_joined_whatever_they_were_batched_with() -> None:
    """A batch that another request wanted more labels of is wider."""
    narrow = {"indices": np.array([[1], [2]]), "scores": np.array([[0.5], [0.25]])}
    wide = {"indices": np.array([[3, 4, 5]]), "scores": np.array([[0.9, 0.05, 0.01]])}
    tensors = NullNetwork(10).task.tensors(joined([narrow, wide]), Wanted(1, 0.5))
    assert tensors["indices"].tolist() == [[1], [2], [3]]
    assert tensors["scores"].tolist() == [[0.5], [0.25], [np.float32(0.9)]]


def test_arrays_of_more_axes_are_joined() -> None:
    one, two = np.ones((2, 0, 4)), np.full((1, 2, 4), 2.0)
    result = joined([{"boxes": one}, {"boxes": two}])["boxes"]
    assert result.tolist() == np.concatenate([np.zeros((2, 2, 4)), two]).tolist()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "half", True, float("nan"), []])
def test_a_threshold_that_is_no_probability_is_refused(threshold: Any) -> None:
    request = {"instances": np.zeros((1, 8, 8, 3), int).tolist(), "parameters": {"score_threshold": threshold}}
    with pytest.raises(InputRefused, match="score_threshold"):
        read_v1(request, NullNetwork(3).task, RequestLimits(1))


def test_what_a_request_wants_comes_from_it_else_the_settings_else_the_task() -> None:
    instances, task = np.zeros((1, 8, 8, 3), int).tolist(), NullNetwork(3).task
    asked = {"instances": instances, "parameters": {"top_k": 3, "score_threshold": "0.0"}}
    assert read_v1(asked, task, RequestLimits(1, 2, 0.25)).wanted == Wanted(3, 0.0)
    assert read_v1({"instances": instances}, task, RequestLimits(1, 2, 0.25)).wanted == Wanted(2, 0.25)
    assert read_v1({"instances": instances}, task, RequestLimits(1)).wanted == Wanted(5, 0.5)


def test_a_package_cannot_choose_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "acme.tags = acme_hostile:Tags", acme_hostile="raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PackageRefused, match=r"seen 'acme\.tags'; WHIMBREL_ALLOWED_TASKS"):
        task_of(described("acme.tags"), ["acme.others"])
    assert "acme_hostile" not in sys.modules


@pytest.mark.parametrize(
    ("points", "seen"),
    [
        ("acme.others = acme_broken:Tags", "seen 0 entry points"),
        ("acme.tags = acme_broken:Missing", "Missing"),
        ("acme.tags = acme_broken:NUMBER", "no class below whimbrel.predictors.tasks.task.Task"),
    ],
)
def test_an_allowed_task_that_is_none_is_a_settings_error(
    points: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, points, acme_broken="NUMBER = 1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=seen):
        task_of(described("acme.tags"), ["acme.tags"])


@pytest.fixture
def tags_package(tmp_path: Path) -> Callable[[], Package]:
    torch = pytest.importorskip("torch")
    from whimbrel.mlflow.exported import save_classifier

    def made() -> Package:
        folder = tmp_path / "package"
        folder.mkdir()
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
        save_classifier(module, (8, 8), folder / "model.pt2")
        fields = {"architecture": "pt2", "preset": {"height": 8, "width": 8}, "labels": ["cat", "dog"]}
        return write_manifest(folder, {"task": "acme.tags", **fields}, ["model.pt2"])

    return made


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_task_of_a_users_own_answers(tags_package: Callable[[], Package], tmp_path: Path) -> None:
    package, site = tags_package(), tmp_path / "site"
    site.mkdir()
    installed(site, "acme.tags = acme_tags:Tags", acme_tags=TAGS)
    pin = ("--model-digest", package.digest, "--model-cache", str(tmp_path / "cache"), "--allowed-tasks", "acme.tags")
    uri, images = package.folder.as_uri(), np.full((2, 8, 8, 3), 200, np.uint8)

    with running_predictor(tmp_path / "log", *pin, uri=uri, PYTHONPATH=str(site)) as predictor:
        outputs = v2_outputs(predictor.infer(v2_document(images)).json())
        (first, _) = predictor.predict({"instances": images.tolist()}).json()["predictions"]

    assert outputs["names"][0] == [each["label"] for each in first]
    weights = _sigmoids(package)
    np.testing.assert_allclose(sorted(outputs["scores"][0]), sorted(weights), rtol=1e-4)
    assert sum(outputs["scores"][0]) != pytest.approx(1)  # as a softmax's would


def _sigmoids(package: Package) -> list[float]:
    import torch

    module = torch.export.load(package.weights).module()
    with torch.no_grad():
        scores: list[float] = module(torch.full((1, 3, 8, 8), 200 / 255)).sigmoid()[0].tolist()
    return scores
