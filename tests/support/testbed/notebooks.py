"""Executes notebooks with fresh kernels: `make notebooks` writes what came of it into them, the tests look on.

python -m testbed.notebooks [--write] [--folder FOLDER] [NOTEBOOK...]: in FOLDER, where an engine keeps `.whimbrel`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from testbed.engine import one_machine

ROOT = Path(__file__).parents[3]
NOTEBOOKS = ROOT / "notebooks"
LOCAL_OVERLAY = ROOT / "manifests" / "overlays" / "local"
CELL_SECONDS = 400
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def execute(notebook: Path, folder: Path, *, write: bool = False) -> None:
    """Every cell, in `folder`. Raises CellExecutionError of nbclient, with the cell and what it said."""
    import nbformat
    from nbclient import NotebookClient

    document: Any = nbformat.read(notebook, as_version=4)
    for cell in document.cells:
        cell.get("outputs", []).clear()
    NotebookClient(
        document, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    if write:
        _tidy(document)
        nbformat.write(document, notebook)


def _tidy(document: Any) -> None:
    """Only what a reader looks at: text in one piece and plain, no times of execution, no addresses in memory."""
    document.metadata.pop("language_info", None)
    for cell in document.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = _COLOUR.sub("", output.text)
            elif "text/plain" in output.get("data", {}):
                output.data["text/plain"] = _ADDRESS.sub("", output.data["text/plain"])


def _joined(outputs: Sequence[Any]) -> list[Any]:
    """What a process wrote line by line, as one output."""
    joined: list[Any] = []
    for output in outputs:
        if joined and "text" in output and joined[-1].get("name") == output.get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.notebooks")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    parser.add_argument("--folder", type=Path, help="where an engine runs; absent: one is started")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    given = parser.parse_args(arguments)
    # As in an activated environment: the cells call `whimbrel`.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    with ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(one_machine(folder / ".whimbrel", manifests=LOCAL_OVERLAY, ready_seconds=300))
        for notebook in given.notebooks:
            execute(notebook, folder, write=given.write)
            sys.stderr.write(f"{notebook.name}: every cell did as it says\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
