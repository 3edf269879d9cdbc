"""What to try with: held-out digits as PNG files, and a policy by which a rollout takes seconds."""

from __future__ import annotations

from pathlib import Path

QUICK = "quick.yaml"
QUICK_POLICY = """\
# A rollout in half a minute, to look at. Of a policy for work the dwells are minutes or hours, the gates are closer,
# and there is one on latency; here all processes share the cores of one machine. Absent fields are the defaults.
backtest:
  objects: 150
  gates:
    accuracy: {allowed: 0.01, tolerance: 0.05}
    errors: {allowed: 0.005, tolerance: 0.05}
steps:
  - {percent: 20, dwell: 3s, samples: 20}
  - {percent: 50, dwell: 3s, samples: 20}
gates:
  accuracy: {allowed: 0.01, tolerance: 0.05}
  errors: {allowed: 0.005, tolerance: 0.05}
shadowsPerSecond: 10
deadline: 10m
"""


def write_samples(folder: Path) -> None:
    """One held-out picture of each digit, named by its label, and the policy, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / QUICK).exists():
        return
    from whimbrel.mlflow.recipes.digits import held_out

    by_name = {picture.name: picture for picture in held_out()}
    for name, picture in by_name.items():
        (folder / f"{name}.png").write_bytes(picture.png)
    (folder / QUICK).write_text(QUICK_POLICY)
