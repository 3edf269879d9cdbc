"""What torch computes behind the seam is what plain torchvision computes, and nothing loads that is not the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from testbed.predictors import running_predictor, v2_document, v2_outputs
from testbed.processes import environment
from testbed.stores import Store
from whimbrel.core.errors import ModelFailed, PackageRefused, SettingsError, Unavailable
from whimbrel.core.package import Package, write_manifest
from whimbrel.core.package_transfer import upload
from whimbrel.mlflow.exported import save_classifier

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
CLASSES = 10
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
PRESET = {"height": 64, "width": 64, "mean": MEAN, "std": STD}


def architecture(name: str) -> Any:
    import torchvision

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some constructors warn about how slowly they initialise
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES).eval()


def package_of(folder: Path, name: str, weights: dict[str, Any], **fields: Any) -> Package:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    manifest = {
        "task": "classification",
        "architecture": f"torchvision:{name}",
        "architecture_options": {"num_classes": CLASSES},
        "preset": PRESET,
        "labels": [f"label-{index}" for index in range(CLASSES)],
    }
    return write_manifest(folder, manifest | fields, ["model.safetensors"])


def exported_package(folder: Path, classes: int = CLASSES) -> tuple[Package, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(48, classes)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        save_classifier(module, (64, 64), folder / "model.pt2")
    labels = [f"label-{index}" for index in range(CLASSES)]
    manifest = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": labels}
    return write_manifest(folder, manifest, ["model.pt2"]), module


def images(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def plain_scores(module: Any, pixels: Any) -> Any:
    """Softmax of the module, normalised the way torchvision's own presets do."""
    from torchvision.transforms.functional import normalize

    with torch.inference_mode():
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return module(normalize(scaled, MEAN, STD)).softmax(dim=1).numpy()


def load(package: Package, device: str = "cpu") -> Any:
    from whimbrel.predictors import torch_network

    return torch_network.load(package, torch_network.choose_device(device))


def check_equal(outputs: Any, expected: Any) -> None:
    order = np.argsort(-expected, axis=1)[:, : outputs["scores"].shape[1]]
    assert outputs["indices"].tolist() == order.tolist()
    np.testing.assert_allclose(outputs["scores"], np.take_along_axis(expected, order, axis=1), rtol=1e-4, atol=1e-6)


# regnet computes its widths while it is built, so it cannot be built on the meta device
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "regnet_x_400mf"])
def test_a_built_network_computes_what_torchvision_does(name: str, tmp_path: Path) -> None:
    module = architecture(name)

    outputs = load(package_of(tmp_path, name, module.state_dict())).infer(images(3), 4)

    assert outputs["scores"].shape == (3, 4)
    check_equal(outputs, plain_scores(module, images(3)))


def test_an_exported_network_computes_what_its_module_does(tmp_path: Path) -> None:
    package, module = exported_package(tmp_path)
    network = load(package)

    for count in (1, 5):
        check_equal(network.infer(images(count), 3), plain_scores(module, images(count)))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = architecture("squeezenet1_1").state_dict()
    missing = {name: weight for name, weight in weights.items() if name != "classifier.1.bias"}
    reshaped = weights | {"classifier.1.bias": torch.zeros(3)}
    unknown = weights | {"extra": torch.zeros(1)}

    for number, wrong in enumerate((missing, reshaped, unknown)):
        with pytest.raises(PackageRefused, match=r"classifier\.1\.bias|extra"):
            load(package_of(tmp_path / str(number), "squeezenet1_1", wrong))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"architecture": "torchvision:no_such_network"}, "no_such_network"),
        ({"architecture_options": {"no_such_option": 1}}, "no_such_option"),
        ({"architecture_options": {"weights_backbone": "DEFAULT"}}, "weights"),
        ({"task": "poetry.detection"}, "expected a package for one of the tasks classification, detection, pose, seen"),
    ],
)
def test_what_is_no_classification_network_is_refused(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match=named):
        load(package_of(tmp_path, "squeezenet1_1", {"w": torch.zeros(1)}, **fields))


def test_images_that_may_not_be_written_to_are_computed_without_a_warning(tmp_path: Path) -> None:
    package, module = exported_package(tmp_path)
    pixels = np.frombuffer(images(2).tobytes(), np.uint8).reshape(2, 64, 64, 3)

    check_equal(load(package).infer(pixels, 3), plain_scores(module, images(2)))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    package = package_of(tmp_path, "squeezenet1_1", {"w": torch.zeros(1)})
    package.weights.write_bytes(b"not tensors")

    with pytest.raises(PackageRefused, match="safetensors"):
        load(package)


def test_fewer_outputs_than_labels_are_refused(tmp_path: Path) -> None:
    package, _ = exported_package(tmp_path, classes=CLASSES - 1)

    with pytest.raises(ModelFailed, match=r"output \(2, 10\), seen \(2, 9\)"):
        load(package).infer(images(2), 1)


def test_a_cuda_device_that_is_not_there_is_a_settings_error() -> None:
    from whimbrel.predictors.torch_network import choose_device

    with pytest.raises(SettingsError, match="WHIMBREL_DEVICE"):
        choose_device("cuda:99")


def test_a_package_in_the_store_is_served_by_its_digest(
    store: Store, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    module = architecture("squeezenet1_1")
    package = package_of(tmp_path / "made", "squeezenet1_1", module.state_dict())
    uri = f"s3://{bucket}/digits/1"
    upload(package.folder, uri, s3)
    pin = ("--max-batch-size", "2", "--model-digest", package.digest, "--model-cache", str(tmp_path / "cache"))

    with running_predictor(tmp_path / "log", *pin, uri=uri, **store.settings_environment) as predictor:
        answer = predictor.infer(v2_document(images(2), top_k=1)).json()
        metadata = httpx.get(f"{predictor.url}/v2/models/digits").json()

    expected = plain_scores(module, images(2)).argmax(axis=1)
    assert v2_outputs(answer)["names"] == [[f"label-{index}"] for index in expected]
    assert answer["parameters"]["model_digest"] == package.digest
    assert metadata["versions"] == [package.digest.removeprefix("sha256:")[:12]]


def test_another_digest_does_not_start(tmp_path: Path) -> None:
    package = package_of(tmp_path, "squeezenet1_1", {"w": torch.zeros(1)})
    options = ("--model-name", "digits", "--model-uri", package.folder.as_uri(), "--model-digest", "sha256:" + "1" * 64)
    ended = subprocess.run(
        [sys.executable, "-m", "whimbrel.predictors", *options, "--http-port", "0", "--grpc-port", "0"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert f"expected the model package sha256:{'1' * 64}, seen {package.digest}" in ended.stderr.splitlines()[-1]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@asynccontextmanager
async def residents(folder: Path, memory: int) -> AsyncIterator[Any]:
    from whimbrel.predictors.batcher import device_threads
    from whimbrel.predictors.residents import Residents
    from whimbrel.predictors.settings import PredictorSettings

    options: Any = {"model_uri": "null:2", "model_cache": folder, "max_batch_size": 1, "model_memory_bytes": memory}
    with device_threads() as threads:
        found = Residents("m", PredictorSettings(model_name="m", **options), threads)
        yield found
        await found.close()


def source(version: str, package: Package) -> Any:
    from whimbrel.predictors.sources import Source

    return Source(version, package.folder.as_uri(), package.digest)


@pytest.mark.anyio
async def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = architecture("alexnet").state_dict()
    package = package_of(tmp_path, "alexnet", {name: torch.ones(each.shape) for name, each in weights.items()})
    size = package.manifest.files["model.safetensors"].size
    small, _ = exported_package(tmp_path / "small")
    async with residents(tmp_path, 2**40) as found:
        await found.load(source("small", small))
        before = resident_bytes()
        await found.load(source("large", package), percent=0)
        loaded = resident_bytes()
        await found.unload("large")
        after = resident_bytes()

    assert size > 200_000_000
    assert loaded - before > 0.9 * size
    assert after - before < 0.2 * size


@pytest.mark.anyio
async def test_memory_is_compared_before_loading(tmp_path: Path) -> None:
    first, _ = exported_package(tmp_path / "first")
    needed = first.manifest.files["model.pt2"].size + 64 * 64 * 3 * 4
    labels = [f"other-{index}" for index in range(CLASSES)]
    fields = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": labels}
    second = write_manifest(shutil.copytree(first.folder, tmp_path / "second"), fields, ["model.pt2"])
    async with residents(tmp_path, int(1.5 * needed)) as found:
        await found.load(source("1", first))
        with pytest.raises(
            Unavailable, match=rf"expected {needed} bytes .* seen {int(1.5 * needed) - needed} .* drain_and_swap"
        ):
            await found.load(source("2", second))
        assert found.current.version == "1"
        await found.load(source("2", second), drain_and_swap=True)
        assert {role: each.version for role, each in found.roles.items()} == {"current": "2"}

        broken = source("3", second)
        second.weights.write_bytes(b"x" * second.weights.stat().st_size)
        with pytest.raises(PackageRefused):
            await found.load(broken, drain_and_swap=True)
        assert found.current.version == "2"


@pytest.mark.anyio
async def test_what_fails_after_the_current_version_left_brings_it_back(tmp_path: Path) -> None:
    first, _ = exported_package(tmp_path / "first")
    fields = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": ["only one"]}
    wrong = write_manifest(shutil.copytree(first.folder, tmp_path / "wrong"), fields, ["model.pt2"])
    needed = first.manifest.files["model.pt2"].size + 64 * 64 * 3 * 4
    async with residents(tmp_path, int(1.5 * needed)) as found:
        await found.load(source("1", first))
        with pytest.raises(ModelFailed, match=r"output \(1, 1\)"):
            await found.load(source("2", wrong), drain_and_swap=True)

        assert {role: each.version for role, each in found.roles.items()} == {"current": "1"}


@pytest.mark.anyio
async def test_the_heap_is_given_back_before_a_load_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.predictors import memory

    first, _ = exported_package(tmp_path / "first")
    second, _ = exported_package(tmp_path / "second")
    free = [2**40]
    monkeypatch.setattr(memory, "free_bytes", lambda device: free[-1])
    monkeypatch.setattr(memory, "give_back", lambda: free.append(2**40))
    async with residents(tmp_path, 2**40) as found:
        await found.load(source("1", first))
        free.append(0)  # as after a large batch
        await found.load(source("2", second))

        assert {role: each.version for role, each in found.roles.items()} == {"current": "2", "previous": "1"}
