"""Pictures to try with: held-out digits as PNG files."""

from __future__ import annotations

from pathlib import Path

_SAMPLES = 10


def write_samples(folder: Path) -> None:
    """One held-out picture of each digit, named by its label, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.png"))) == _SAMPLES:
        return
    from whimbrel.mlflow.recipes.digits import held_out

    by_name = {picture.name: picture for picture in held_out()}
    for name, picture in by_name.items():
        (folder / f"{name}.png").write_bytes(picture.png)
