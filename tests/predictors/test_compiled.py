"""Compiled code is loaded only where it fits, is the one that the registry names, and a setting allows it."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from testbed.dripping_store import dripping_store
from testbed.predictors import running_predictor, v2_document, v2_outputs
from testbed.stores import Store
from whimbrel.core.attestations import MAX_CODE_BYTES, Attestations, CompiledCode
from whimbrel.core.errors import InputRefused, NotFound, PackageRefused, Unavailable
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.package import Package, write_manifest
from whimbrel.core.package_transfer import fetch_beside, put_beside, upload
from whimbrel.core.references import ObjectRef

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
CLASSES, SIDE, MAX_BATCH = 4, 16, 8
PRESET = {"height": SIDE, "width": SIDE}


def images(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, CompiledCode]:
    """A package with the code that was compiled for it on this machine beside it, once for all tests."""
    from whimbrel.mlflow.exported import save_classifier
    from whimbrel.predictors.compiling import compile_code

    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler (g++ or clang++), which compiling takes")
    folder = tmp_path_factory.mktemp("compiled")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, CLASSES)
    ).eval()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # the exporter's and the compiler's own
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that outlive this
        save_classifier(module, (SIDE, SIDE), folder / "model.pt2")
        labels = [f"label-{index}" for index in range(CLASSES)]
        fields = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": labels}
        made = write_manifest(folder, fields, ["model.pt2"])
        code = compile_code(made, torch.device("cpu"), "float32", MAX_BATCH, tmp_path_factory.mktemp("code"))
    put_beside(code.path, folder.as_uri(), code.code.path, None)
    return made, code.code


def built(made: Package, code: CompiledCode, cache: Path, **options: Any) -> Any:
    from whimbrel.predictors import sources
    from whimbrel.predictors.settings import PredictorSettings

    given: dict[str, Any] = {"compiled_code": True, "max_batch_size": MAX_BATCH, "dtype": "float32"} | options
    settings = PredictorSettings(model_name="m", model_uri="null:2", model_cache=cache, **given)
    source = sources.Source("1", made.folder.as_uri(), made.digest, Attestations(compiled=(code,)))
    return sources.build(sources.locate(source, settings), settings)


def check_same(seen: Any, expected: Any) -> None:
    assert seen["indices"].tolist() == expected["indices"].tolist()
    np.testing.assert_allclose(seen["scores"], expected["scores"], rtol=1e-4, atol=1e-6)


def test_compiled_code_gives_what_the_network_gives(compiled: tuple[Package, CompiledCode], tmp_path: Path) -> None:
    made, code = compiled
    network, eager = built(made, code, tmp_path), built(made, code, tmp_path, compiled_code=False)
    assert (network.computing.code, eager.computing.code) == ("compiled", "eager")
    for count in (1, 2, 5, MAX_BATCH):
        staged = network.stage([images(count)])
        check_same(network.infer(staged, CLASSES), eager.infer(images(count), CLASSES))


@pytest.mark.parametrize(
    "unfit",
    [
        ({"torch": "1.0.0"}, {}, "it is for torch 1.0.0"),
        ({"machine": "vax"}, {}, "it is for machine vax"),
        ({"instruction_sets": ("an_instruction_of_tomorrow",)}, {}, "lacks an_instruction_of_tomorrow"),
        ({}, {"dtype": "bfloat16"}, "it computes in float32, this version in bfloat16"),
        ({}, {"max_batch_size": MAX_BATCH + 1}, "it takes batches of up to 8, here are up to 9"),
    ],
)
def test_code_that_does_not_fit_is_left_aside(
    unfit: tuple[dict[str, Any], dict[str, Any], str],
    compiled: tuple[Package, CompiledCode],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (made, code), (target, options, reason) = compiled, unfit
    other = code.model_copy(update={"target": code.target.model_copy(update=target)})
    with caplog.at_level(logging.INFO, "whimbrel.predictors"):
        network = built(made, other, tmp_path, **options)
    assert network.computing.code == "eager"
    assert reason in caplog.text
    assert network.infer(images(2), 1)["indices"].shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "seen others"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "seen others"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_code_that_is_not_the_registrys_is_never_opened(
    change: Any, reason: str, compiled: tuple[Package, CompiledCode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, code = compiled
    copy = Package(shutil.copytree(made.folder, tmp_path / "copy"), made.manifest, made.digest)
    change(copy.folder / code.path)
    with caplog.at_level(logging.INFO, "whimbrel.predictors"):
        network = built(copy, code, tmp_path)
    assert network.computing.code == "eager"
    assert reason in caplog.text


def test_code_that_is_named_for_another_network_is_left_aside(
    compiled: tuple[Package, CompiledCode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from whimbrel.mlflow.exported import save_classifier

    _, code = compiled
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, CLASSES)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_classifier(other, (SIDE, SIDE), tmp_path / "model.pt2")
    fields = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": ["a", "b", "c", "d"]}
    made = write_manifest(tmp_path, fields, ["model.pt2"])
    shutil.copytree(compiled[0].folder / "compiled", tmp_path / "compiled")
    with caplog.at_level(logging.INFO, "whimbrel.predictors"):
        network = built(made, code, tmp_path / "cache")
    assert network.computing.code == "eager"
    assert "is left aside" in caplog.text


def test_a_new_process_that_follows_a_pointer_loads_it(
    compiled: tuple[Package, CompiledCode], store: Store, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    made, code = compiled
    uri = f"s3://{bucket}/digits/1"
    upload(made.folder, uri, s3)
    put_beside(made.folder / code.path, uri, code.path, s3)
    attested = Attestations(compiled=(code,))
    pointed = PointedVersion(version="1", uri=uri, digest=made.digest, attestations=attested)
    PointerStore(s3, ObjectRef(bucket, "digits/pointer.json")).write(Pointer(current=pointed), None)
    options = ("--compiled-code", "true", "--max-batch-size", str(MAX_BATCH), "--model-cache", str(tmp_path / "cache"))
    where = f"pointer+s3://{bucket}/digits/pointer.json"
    with running_predictor(tmp_path / "log", *options, uri=where, **store.settings_environment) as predictor:
        (resident,) = httpx.get(f"{predictor.url}/v2/models/digits", timeout=30).json()["residents"]
        outputs = v2_outputs(predictor.infer(v2_document(images(3))).json())
    assert (resident["code"], resident["dtype"]) == ("compiled", "float32")
    expected = built(made, code, tmp_path, compiled_code=False).infer(images(3), CLASSES)
    assert outputs["indices"] == expected["indices"].tolist()


def test_the_end_of_the_process_ends_its_download(store: Store, tmp_path: Path) -> None:
    """Of code that never ends, while the network of a package that is here is built."""
    from whimbrel.core.hardware import cpu_target
    from whimbrel.core.package_transfer import Held
    from whimbrel.mlflow.exported import save_classifier
    from whimbrel.predictors import sources
    from whimbrel.predictors.network import description_of
    from whimbrel.predictors.settings import PredictorSettings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, CLASSES)).eval()
        save_classifier(module, (SIDE, SIDE), tmp_path / "model.pt2")
    fields = {"task": "classification", "architecture": "pt2", "preset": PRESET, "labels": ["a", "b", "c", "d"]}
    made = write_manifest(tmp_path, fields, ["model.pt2"])
    target = cpu_target(str(torch.__version__))
    code = CompiledCode(target=target, dtype="float32", max_batch=2, sha256="0" * 64, size=MAX_CODE_BYTES)
    source = sources.Source("1", "s3://models/endless", made.digest, Attestations(compiled=(code,)))
    with dripping_store(b"") as drips:
        options: dict[str, Any] = {"compiled_code": True, "max_batch_size": 2, "dtype": "float32"}
        settings = PredictorSettings(
            model_name="m", model_uri="null:2", model_cache=tmp_path, s3_endpoint=drips.url, **options
        )

        def ends() -> None:
            if drips.dripping.is_set():
                raise Unavailable("the end of this predictor")

        with pytest.raises(Unavailable, match="the end of this predictor"):
            sources.build(sources.Located("1", source, Held(made, None), description_of(made)), settings, ends)


def test_a_file_beside_the_package_is_read_as_it_was_put(s3: S3Client, bucket: str, tmp_path: Path) -> None:
    from whimbrel.core.hardware import Target

    (tmp_path / "made").write_bytes(b"code")
    digest = "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b"  # sha256 of b"code"
    code = CompiledCode(target=Target(torch="2"), dtype="float32", max_batch=2, sha256=digest, size=4)
    for uri, client in ((f"s3://{bucket}/1", s3), ((tmp_path / "folder").as_uri(), None)):
        with pytest.raises(NotFound):
            fetch_beside(uri, code, tmp_path / f"absent-{client is None}", client)
        put_beside(tmp_path / "made", uri, code.path, client)
        fetch_beside(uri, code, tmp_path / f"got-{client is None}", client)
        assert (tmp_path / f"got-{client is None}").read_bytes() == b"code"
        wrong = code.model_copy(update={"size": 3})
        with pytest.raises(PackageRefused, match="seen others"):
            fetch_beside(uri, wrong, tmp_path / f"wrong-{client is None}", client)


def test_what_cannot_be_compiled_is_refused_at_once(compiled: tuple[Package, CompiledCode], tmp_path: Path) -> None:
    from whimbrel.predictors.compiling import compile_code

    made, _ = compiled
    for size in (1, 1025):
        with pytest.raises(InputRefused, match="2 to 1024"):
            compile_code(made, torch.device("cpu"), "float32", size, tmp_path)
    detection = Package(made.folder, made.manifest.model_copy(update={"task": "detection"}), made.digest)
    with pytest.raises(InputRefused, match="detection"):
        compile_code(detection, torch.device("cpu"), "float32", 8, tmp_path)
