"""`python -m whimbrel.local.registry ...`: the command `mlflow ...`, which is gone as soon as its server has ended."""

from __future__ import annotations

from whimbrel.core.process_end import run_program

if __name__ == "__main__":
    from mlflow.cli import cli

    run_program(cli)
