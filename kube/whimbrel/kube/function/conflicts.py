"""Fields of a function file that are right each for itself and wrong together; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from whimbrel.kube.function.model import Function, Kafka, Push, Scale
from whimbrel.kube.marked_yaml import Path

# What `render` sets itself: a second value would be ignored, or break what the others rely on.
RESERVED = frozenset(
    {"WHIMBREL_MODEL_URI", "WHIMBREL_MODEL_DIGEST", "WHIMBREL_MODEL_NAME", "WHIMBREL_HTTP_HOST", "WHIMBREL_HTTP_PORT"}
    | {"WHIMBREL_DEVICE", "WHIMBREL_PREDICTOR_HOST", "WHIMBREL_PREDICTOR_PROTOCOL", "PORT", "PYTHONPATH", "STORAGE_URI"}
)
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_FOREIGN_LABEL = re.compile(r"^([a-z0-9.-]+\.)?(knative\.dev|kserve\.io|kubernetes\.io|k8s\.io)/")


@dataclass(frozen=True, slots=True)
class Fault:
    """`path` is where the reader has to look: of two fields that conflict, the later one."""

    path: Path
    message: str


def conflicts(function: Function) -> list[Fault]:
    return [
        *_buckets(function),
        *_source(function),
        *_model(function),
        *_scale(function.scale, ("scale",)),
        *_scale(function.transformer.scale, ("transformer", "scale")),
        *_labels(function),
        *_environment(function),
    ]


def _buckets(function: Function) -> Iterator[Fault]:
    photos, output = function.input.bucket, function.output
    if output.bucket == photos:
        yield Fault(("output", "bucket"), f"{photos!r} is the input's: each result would come in as an image")
    if output.dead_letters == photos:
        yield Fault(
            ("output", "dead_letters"), f"{photos!r} is the input's: each dead letter would come in as an image"
        )
    if output.dead_letters == output.bucket:
        yield Fault(
            ("output", "dead_letters"), f"{output.bucket!r} is that of the results; dead letters need their own"
        )


def _source(function: Function) -> Iterator[Fault]:
    source, path = function.input.source, ("input", "source")
    if isinstance(source, Kafka):
        signed = source.security.startswith("sasl")
        for name in ("username", "password"):
            if signed and getattr(source, name) is None:
                yield Fault(path, f"field {name!r} is missing, as security is {source.security}")
            elif not signed and getattr(source, name) is not None:
                yield Fault((*path, name), f"is for a sasl security, seen {source.security}")
    if isinstance(source, Push) and (source.user is None) != (source.password is None):
        yield Fault(path, "expected user and password, seen one of the two")


def _model(function: Function) -> Iterator[Fault]:
    uri, digest = function.model.uri, function.model.digest
    if uri.startswith(("s3://", "file:///")) and digest is None:
        yield Fault(("model",), f"{uri} does not load without its digest; write 'uri' and 'digest: sha256:...'")
    if uri.startswith(("pointer+", "null:")) and digest is not None:
        yield Fault(("model", "digest"), "the pointer names it, and null has no package; leave it out")


def _scale(scale: Scale, path: Path) -> Iterator[Fault]:
    if scale.min > scale.max:
        yield Fault((*path, "min"), f"expected at most max ({scale.max}), seen {scale.min}")


def _labels(function: Function) -> Iterator[Fault]:
    for key in function.labels:
        if _FOREIGN_LABEL.match(key):
            yield Fault(("labels", key), "labels of this group steer Kubernetes, Knative and KServe; choose another")


def _environment(function: Function) -> Iterator[Fault]:
    for name in function.environment:
        if name.upper() in RESERVED:
            yield Fault(("environment", name), "set by other fields of this file")
        elif _SECRET_NAME.search(name):
            yield Fault(("environment", name), "looks like a secret; refer to one under 'secrets'")
    for name in function.secrets:
        if name.upper() in RESERVED:
            yield Fault(("secrets", name), "set by other fields of this file")
        elif name in function.environment:
            yield Fault(("secrets", name), "stands under 'environment' too")
