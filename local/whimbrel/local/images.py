"""Which module an image of this project runs: the entry point of `whimbrel/<room>` is `python -m whimbrel.<room>`."""

from __future__ import annotations

from whimbrel.core.errors import InputRefused

_REPOSITORY = "whimbrel"
ROOMS = ("predictors", "transformers", "eventing", "mlflow")


def module(image: str) -> str:
    """The module of an image, whatever its registry, tag or digest. Raises InputRefused for another project's."""
    name = image.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        name = name.rpartition(":")[0]
    repository, _, room = "/".join(name.split("/")[-2:]).partition("/")
    if repository != _REPOSITORY or room not in ROOMS:
        known = ", ".join(f"{_REPOSITORY}/{room}" for room in ROOMS)
        raise InputRefused(f"image {image!r} is not one that runs as a process here; known are {known}")
    return f"whimbrel.{room}"
