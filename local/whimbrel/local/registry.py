"""`python -m whimbrel.local.registry ...`: the command `mlflow ...`, which is gone as soon as its server has ended."""

from __future__ import annotations

from whimbrel.core.process_end import run_program


def main() -> int:
    from mlflow.cli import cli  # not before: what it registers for the exit is to be called

    cli()
    return 0


if __name__ == "__main__":
    run_program(main)
