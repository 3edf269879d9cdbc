"""The model that the manifests ask for, made where it is missing: trained, registered, and pointed at."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whimbrel.cli.model import DIGITS, point_at
from whimbrel.cli.options import MODELS
from whimbrel.core.errors import NotFound, Unavailable
from whimbrel.core.model_pointer import POINTER_PREFIX, PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.engine import Engine
from whimbrel.mlflow.registry_view import CHAMPION

POINTER = ObjectRef(MODELS, f"{DIGITS}/pointer.json")
_FROM_REGISTRY = f"models:/{DIGITS}@"
_FROM_POINTER = f"{POINTER_PREFIX}{POINTER.uri}"
_TRAINING_SECONDS = 300


def is_asked_for(objects: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an InferenceService takes digits from the registry or follows its pointer."""
    return any(uri in str(each) for each in _services(objects) for uri in (_FROM_REGISTRY, _FROM_POINTER))


async def make(objects: Iterable[Mapping[str, Any]], engine: Engine, recipes: Sequence[str]) -> None:
    """Raises Unavailable when it cannot be trained or the store does not answer."""
    await _train(engine, recipes)
    if any(_FROM_POINTER in str(each) for each in _services(objects)):
        await asyncio.to_thread(_point, engine.status()["environment"])


def _services(objects: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in objects if each["kind"] == "InferenceService"]


async def _train(engine: Engine, recipes: Sequence[str]) -> None:
    """In a process of its own, so that torch does not stay in this one."""
    command = [sys.executable, "-m", "whimbrel.cli", "model", "train", *recipes, "--if-absent"]
    environment = {**os.environ, **engine.status()["environment"]}
    try:
        status, said = await engine.run(command, environment, _TRAINING_SECONDS)
    except TimeoutError:
        raise Unavailable(f"training was not done after {_TRAINING_SECONDS} s") from None
    if status:
        last = said.strip().splitlines()[-1:] or [f"status {status}"]
        raise Unavailable(f"training ended with {last[0]}")


def _point(environment: Mapping[str, str]) -> None:
    """At the champion, unless there is a pointer already: rollouts move it from there."""
    client = s3_client(
        S3Settings(s3_endpoint=environment["WHIMBREL_S3_ENDPOINT"]),
        credentials=(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]),
    )
    store = PointerStore(client, POINTER)
    try:
        store.read()
    except NotFound:
        point_at(store, environment["WHIMBREL_MLFLOW_TRACKING_URI"], DIGITS, CHAMPION)
