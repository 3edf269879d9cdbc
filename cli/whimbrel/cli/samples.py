"""Pictures to try with: held-out digits as PNG files."""

from __future__ import annotations

from pathlib import Path

_SAMPLES = 10


def write_samples(folder: Path) -> list[Path]:
    """One held-out picture of each digit, named by its label, where they are not there yet. The paths."""
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(folder.glob("*.png"))
    if len(present) == _SAMPLES:
        return present
    from whimbrel.mlflow.recipes.digits import held_out

    by_name = {picture.name: picture for picture in held_out()}
    for name, picture in by_name.items():
        (folder / f"{name}.png").write_bytes(picture.png)
    return sorted(folder.glob("*.png"))
