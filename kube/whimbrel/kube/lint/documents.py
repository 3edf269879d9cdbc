"""Renders the kustomizations that are linted, here or by kubectl, each object with its file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from whimbrel.core.errors import SettingsError
from whimbrel.core.kustomize import NotSupported, Rendered, render_files

_KUBECTL_SECONDS = 120
_ORIGIN = "config.kubernetes.io/origin"


def read(kustomizations: Iterable[Path]) -> list[Rendered]:
    """The objects of all of them. Raises SettingsError that names the file at fault."""
    return [each for folder in kustomizations for each in _kustomization(folder)]


def _kustomization(folder: Path) -> list[Rendered]:
    try:
        return render_files(folder)
    except NotSupported as refused:
        if shutil.which("kubectl") is None:
            raise SettingsError(f"{refused}; install kubectl, which renders all of kustomize") from None
    return _by_kubectl(folder)


def _by_kubectl(folder: Path) -> list[Rendered]:
    """Rendered through a kustomization of our own, which asks for the origin of each object."""
    with tempfile.TemporaryDirectory(prefix="whimbrel-lint-") as made:
        outer = Path(made).resolve()
        resources = [os.path.relpath(folder.resolve(), outer)]
        (outer / "kustomization.yaml").write_text(
            yaml.safe_dump({"resources": resources, "buildMetadata": ["originAnnotations"]})
        )
        done = subprocess.run(
            ["kubectl", "kustomize", str(outer)], capture_output=True, text=True, timeout=_KUBECTL_SECONDS, check=False
        )
        if done.returncode != 0:
            raise SettingsError(f"{folder}: kubectl kustomize: {done.stderr.strip()[-2000:]}")
        return [_with_origin(found, outer, folder) for found in yaml.safe_load_all(done.stdout) if found]


def _with_origin(found: dict[str, Any], outer: Path, folder: Path) -> Rendered:
    annotations = found["metadata"].get("annotations") or {}
    origin = yaml.safe_load(annotations.pop(_ORIGIN, "") or "{}")
    if not annotations:
        found["metadata"].pop("annotations", None)
    path = origin.get("path") or origin.get("configuredIn")
    return Rendered(Path(os.path.normpath(outer / path)) if path else folder, found)
