"""The options that several commands have, each spelt once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.console import Output

State = Annotated[
    Path, typer.Option("--state", envvar="WHIMBREL_STATE", help="folder that the engine keeps everything in")
]
OutputFormat = Annotated[Output, typer.Option("-o", "--output", help="how to print")]
ObjectBucket = Annotated[str, typer.Option("--bucket", help="bucket of the objects")]
ResultsBucket = Annotated[
    str, typer.Option("--results-bucket", envvar="WHIMBREL_RESULTS_BUCKET", help="bucket of the results")
]
DeadLettersBucket = Annotated[
    str,
    typer.Option("--dead-letters-bucket", envvar="WHIMBREL_DEAD_LETTERS_BUCKET", help="bucket of the dead letters"),
]

DEFAULT_STATE = Path(".whimbrel")
PHOTOS, RESULTS, DEAD_LETTERS = "photos", "results", "dead-letters"
MODELS = "models"
