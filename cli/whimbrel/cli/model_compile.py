"""`whimbrel model compile`: machine code of a version for this machine's hardware, stored and named by the registry."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whimbrel.cli.connection import connect
from whimbrel.cli.console import say
from whimbrel.cli.model_names import selected
from whimbrel.cli.options import DEFAULT_STATE, State
from whimbrel.core.errors import InputRefused
from whimbrel.core.package import Package
from whimbrel.mlflow import attest, registry_view

if TYPE_CHECKING:
    from whimbrel.core.attestations import Agreement

DTYPES = ("auto", "float32", "bfloat16", "float16")


def compile_command(
    model: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    dtype: Annotated[
        str, typer.Option(help=f"{', '.join(DTYPES)}; auto: what a predictor on this machine chooses")
    ] = "auto",
    max_batch: Annotated[int, typer.Option(help="largest batch; at least the predictors' --max-batch-size")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    state: State = DEFAULT_STATE,
) -> None:
    """Compile a version for this machine's hardware and torch, and store the code with it.

    Run it on a machine like those that serve, with their torch: code fits only there. Predictors load it where
    --compiled-code true allows it. Needs a C++ compiler and takes up to minutes.
    """
    from whimbrel.core.package_transfer import fetch
    from whimbrel.predictors import compiling, torch_network

    if dtype not in DTYPES:
        raise InputRefused(f"expected --dtype as one of {', '.join(DTYPES)}, seen {dtype!r}")
    connection = connect(state)
    tracking_uri = connection.tracking_uri()
    version, location = registry_view.show_version(tracking_uri, *selected(model))
    with tempfile.TemporaryDirectory() as folder:
        client = connection.s3()
        package = fetch(location.uri, location.digest, Path(folder) / "cache", client)
        made = compiling.compile_code(
            package,
            torch_network.choose_device(device),
            dtype,  # type: ignore[arg-type] # one of DTYPES
            max_batch,
            Path(folder),
        )
        if made.agreement is not None:
            attest.attest(version.name, version.version, made.agreement, tracking_uri)
        attest.store_code(location, made.path, made.code, tracking_uri, client)
    where = made.code.target.hardware_class
    say(f"{version.name} version {version.version}  {made.code.dtype} for {where}, torch {made.code.target.torch}")


def measured_agreement(package: Package) -> Agreement | None:
    """How far this hardware's lower precision agrees, where it has one and the package has a set to try it on."""
    if package.calibration is None:
        return None
    from whimbrel.predictors import torch_network

    return torch_network.agreement_on(package, torch_network.choose_device("auto"))
