"""Writes `model.pt2` as `whimbrel.core.pt2` takes it: graph and raw tensors, no pickle, no trace of the exporter.

torch.export.save has no setting for that: it always adds the sample inputs as a pickle, and the graph carries stack
traces with the paths of the machine that exported it, so that one network gives another digest on each. Neither is
needed to load or to call the network.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.core import pt2
from whimbrel.core.errors import PackageRefused

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

ROOT = "model"
MAX_BATCH = 1024
MAX_BYTES = 16 * 1024**3


def save_classifier(network: Module, size: tuple[int, int], path: Path) -> None:
    """Export a network of normalised float images (N, 3, height, width), N from 1 to 1024, and save it at `path`."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # Two images: torch would take a batch of one for a constant.
    program = torch.export.export(network.eval(), (torch.zeros(2, 3, *size),), dynamic_shapes=({0: batch},))
    save_exported(program, path)


def save_exported(program: ExportedProgram, path: Path) -> None:
    """Save `program` at `path`; the same program gives the same bytes. Raises PackageRefused as `pt2.check` does."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved.pt2"
        torch.export.save(program, saved)
        rewrite(saved, path)


def rewrite(source: Path, target: Path) -> None:
    """Copy an archive of torch.export.save, less its sample inputs, source code and metadata; nothing is unpickled.

    Raises PackageRefused when what remains is not a plain network, or when `source` is no such archive.
    """
    if not source.is_file():
        raise PackageRefused(f"expected an exported network at {source}, seen no such file")
    try:
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as rewritten:
            _copy(archive, rewritten)
        pt2.check(target)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, TypeError) as error:
        target.unlink(missing_ok=True)
        raise PackageRefused(
            f"expected an archive of torch.export.save in {source}, seen none that can be read ({error})"
        ) from None
    except PackageRefused:
        target.unlink(missing_ok=True)
        raise


def _copy(archive: zipfile.ZipFile, rewritten: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    for info in sorted(infos, key=lambda info: info.filename):
        name = info.filename.partition("/")[2]
        if name.startswith("extra/") or name == ".data/serialization_id":  # a hash of the archive before
            continue
        content = b"" if name == pt2.SAMPLE_INPUTS else archive.read(info)
        if name == pt2.PROGRAM:
            content = _plain_program(content)
        rewritten.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), content)


def _plain_program(content: bytes) -> bytes:
    document = json.loads(content)
    module = document["graph_module"]
    module["module_call_graph"] = [entry for entry in module["module_call_graph"] if entry["fqn"] == ""]
    document["guards_code"] = []
    _clear_metadata(document)
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _clear_metadata(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "metadata" and isinstance(inner, dict):
                inner.clear()
            else:
                _clear_metadata(inner)
    elif isinstance(value, list):
        for element in value:
            _clear_metadata(element)
