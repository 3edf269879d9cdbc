"""A model package small enough to be made in a test."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from whimbrel.core.model_pointer import PointedVersion
from whimbrel.core.package import write_manifest


def packaged(folder: Path, name: str, labels: int = 10) -> PointedVersion:
    """An exported network of some 60 kB, labelled by its name."""
    torch = pytest.importorskip("torch")
    from whimbrel.mlflow.exported import save_classifier

    folder.mkdir()
    module = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(768, 10)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        save_classifier(module, (64, 64), folder / "model.pt2")
    names = [f"{name}-{index}" for index in range(labels)]
    fields = {"task": "classification", "architecture": "pt2", "preset": {"height": 64, "width": 64}, "labels": names}
    package = write_manifest(folder, fields, ["model.pt2"])
    return PointedVersion(version=name, uri=folder.as_uri(), digest=package.digest)
