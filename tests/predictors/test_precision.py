"""A lower precision is taken where it is told, or where the hardware has it and it was measured to agree."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whimbrel.core import calibration
from whimbrel.core.attestations import Agreement, Attestations
from whimbrel.core.errors import Unavailable
from whimbrel.core.hardware import Target, cuda_target
from whimbrel.core.package import Package, Preset, write_manifest
from whimbrel.core.tensors import INDICES
from whimbrel.predictors import agreement_records
from whimbrel.predictors.agreement import BATCH, compared
from whimbrel.predictors.precision import Asked, Chosen, choose, stored_bytes_in

HERE = Target(torch="2.15.0", machine="x86_64", instruction_sets=("avx512_bf16",))
PLAIN = Target(torch="2.15.0", machine="x86_64", instruction_sets=("avx2",))
IMAGES = np.zeros((calibration.MIN_IMAGES, 4, 4, 3), np.uint8)


def agreement(agreeing: int, images: int = 200) -> Agreement:
    return Agreement(
        hardware_class=HERE.hardware_class, torch=HERE.torch, dtype="bfloat16", images=images, agreeing=agreeing
    )


def package(folder: Path, *, task: str = "classification", with_set: bool = True) -> Package:
    (folder / "model.safetensors").write_bytes(b"weights")
    files = [calibration.write(IMAGES, Preset(height=4, width=4), folder)] if with_set else []
    fields: dict[str, Any] = {"architecture": "torchvision:resnet18", "preset": {"height": 4, "width": 4}}
    return write_manifest(folder, fields | {"task": task, "labels": ["zero"]}, ["model.safetensors", *files])


def unmeasured(dtype: str) -> Agreement | None:
    raise AssertionError(f"{dtype} was measured, which nothing asked for")


@pytest.mark.parametrize(
    ("own", "target", "asked", "expected"),
    [
        ("float32", PLAIN, "bfloat16", ("bfloat16", "as set")),
        ("float32", HERE, "float32", ("float32", "as set")),
        ("float32", PLAIN, "auto", ("float32", "multiplies in no lower")),
        ("bfloat16", HERE, "auto", ("bfloat16", "stored in")),
        ("bfloat16", PLAIN, "auto", ("float32", "stored in bfloat16")),
        ("float16", HERE, "auto", ("float32", "stored in float16")),
        ("float16", cuda_target("2", (7, 0)), "auto", ("float16", "stored in")),
        ("float64", HERE, "auto", ("float64", "only one")),
    ],
)
def test_what_needs_no_measurement(
    own: str, target: Target, asked: Any, expected: tuple[str, str], tmp_path: Path
) -> None:
    check(choose(package(tmp_path), own, target, Asked(asked), unmeasured), *expected)


def test_without_a_set_or_for_another_task_it_is_float32(tmp_path: Path) -> None:
    without = package(tmp_path, with_set=False)
    check(choose(without, "float32", HERE, Asked(), unmeasured), "float32", "no calibration set")
    detection = package(tmp_path, task="detection")
    check(choose(detection, "float32", HERE, Asked(), unmeasured), "float32", "the task detection")


def check(chosen: Chosen, dtype: str, why: str) -> None:
    assert chosen.dtype == dtype
    assert why in chosen.why


@pytest.mark.parametrize(("agreeing", "dtype"), [(200, "bfloat16"), (199, "bfloat16"), (198, "float32")])
def test_what_the_registry_attests_decides_and_is_told_with_its_figures(
    agreeing: int, dtype: str, tmp_path: Path
) -> None:
    asked = Asked(attestations=Attestations(agreements=(agreement(agreeing),)), cache=tmp_path / "cache")
    found = choose(package(tmp_path), "float32", HERE, asked, unmeasured)
    assert found.dtype == dtype
    assert f"{agreeing} of 200 images" in found.why
    assert "99.5% are needed" in found.why


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    made, asked = package(tmp_path), Asked(cache=tmp_path / "cache")
    first = choose(made, "float32", HERE, asked, lambda _: agreement(200))
    assert (first.dtype, "measured now" in first.why) == ("bfloat16", True)
    again = choose(made, "float32", HERE, asked, unmeasured)
    assert (again.dtype, "measured here before" in again.why) == ("bfloat16", True)
    other_torch = choose(made, "float32", HERE.model_copy(update={"torch": "2.16.0"}), asked, lambda _: agreement(1))
    assert other_torch.dtype == "float32"


def test_what_was_not_measured_in_time_is_neither_taken_nor_kept(tmp_path: Path) -> None:
    made, asked = package(tmp_path), Asked(cache=tmp_path / "cache")
    found = choose(made, "float32", HERE, asked, lambda _: None)
    assert (found.dtype, "within 60 s" in found.why) == ("float32", True)
    assert choose(made, "float32", HERE, asked, lambda _: agreement(200)).dtype == "bfloat16"


@pytest.mark.parametrize("who", ["the file", "the folder"])
def test_a_record_that_others_may_write_is_not_believed(who: str, tmp_path: Path) -> None:
    agreement_records.write(tmp_path, "sha256:1", HERE, agreement(200))
    assert agreement_records.read(tmp_path, "sha256:1", HERE, "bfloat16") == agreement(200)
    (record,) = (tmp_path / agreement_records.FOLDER).glob("*.json")
    (record if who == "the file" else record.parent).chmod(0o772)
    assert agreement_records.read(tmp_path, "sha256:1", HERE, "bfloat16") is None


def test_a_record_that_is_a_link_malformed_or_anothers_is_not_believed(tmp_path: Path) -> None:
    agreement_records.write(tmp_path, "sha256:1", HERE, agreement(200))
    (record,) = (tmp_path / agreement_records.FOLDER).glob("*.json")
    agreement_records.write(tmp_path, "sha256:2", HERE, agreement(3))
    (other,) = set((tmp_path / agreement_records.FOLDER).glob("*.json")) - {record}
    other.write_text("{")
    assert agreement_records.read(tmp_path, "sha256:2", HERE, "bfloat16") is None
    other.unlink()
    other.symlink_to(record)
    assert agreement_records.read(tmp_path, "sha256:2", HERE, "bfloat16") is None
    other.unlink()
    other.write_text(record.read_text().replace("avx512_bf16", "amx_bf16"))
    assert agreement_records.read(tmp_path, "sha256:2", HERE, "bfloat16") is None


def test_records_are_bounded_and_a_cache_that_takes_none_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_records, "MAX_RECORDS", 3)
    for number in range(5):
        agreement_records.write(tmp_path, f"sha256:{number}", HERE, agreement(200))
        kept = list((tmp_path / agreement_records.FOLDER).glob("*.json"))
        os.utime(max(kept, key=lambda path: path.stat().st_mtime_ns), (number, number))
    assert len(list((tmp_path / agreement_records.FOLDER).iterdir())) == 3
    (tmp_path / "file").touch()
    agreement_records.write(tmp_path / "file", "sha256:1", HERE, agreement(200))


def labels(*wrong: int) -> Any:
    """An `infer` that answers 0, or 1 for the images at these places of the calibration set."""
    seen = 0

    def infer(images: Any, _: int) -> Any:
        nonlocal seen
        places = np.arange(seen, seen + len(images))
        seen += len(images)
        return {INDICES: np.isin(places, wrong).astype(np.int64)[:, np.newaxis]}

    return infer


@pytest.mark.parametrize(("wrong", "figures"), [((), (200, 200)), ((199,), (199, 200)), ((0, 1), (BATCH - 2, BATCH))])
def test_comparing_ends_as_soon_as_too_many_differ(wrong: tuple[int, ...], figures: tuple[int, int]) -> None:
    found = compared(labels(), labels(*wrong), IMAGES, target=HERE, dtype="bfloat16", asked=Asked())
    assert found is not None
    assert (found.agreeing, found.images) == figures
    assert found.suffices == (len(wrong) < 2)


def test_a_network_that_does_not_compute_lower_agrees_nowhere() -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("not implemented for 'BFloat16'")

    found = compared(labels(), fails, IMAGES, target=HERE, dtype="bfloat16", asked=Asked())
    assert found is not None
    assert (found.agreeing, found.images) == (0, BATCH)


def test_a_lack_of_memory_is_no_disagreement() -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(RuntimeError, match="allocate"):
        compared(labels(), fails, IMAGES, target=HERE, dtype="bfloat16", asked=Asked())


def test_comparing_is_bounded_and_ends_with_the_process() -> None:
    never = Asked(longest_seconds=-1)
    assert compared(labels(), labels(), IMAGES, target=HERE, dtype="bfloat16", asked=never) is None

    def ends() -> None:
        raise Unavailable("the end")

    with pytest.raises(Unavailable):
        compared(labels(), labels(), IMAGES, target=HERE, dtype="bfloat16", asked=replace(Asked(), check=ends))


def test_memory_follows_the_dtype() -> None:
    assert stored_bytes_in(100, "float32", "bfloat16") == 50
    assert stored_bytes_in(100, "bfloat16", "float32") == 200
    assert stored_bytes_in(100, "float64", "float64") == 100
