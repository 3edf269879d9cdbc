"""How the predictor of an InferenceService names the version of its model, and the patch that names another; pure.

    containers:  WHIMBREL_MODEL_URI, or --model-uri, which wins: models:/NAME@ALIAS, models:/NAME/VERSION, s3://...
    model:       storageUri
    either:      WHIMBREL_MODEL_DIGEST (--model-digest) and WHIMBREL_MODEL_VERSION (--model-version), where they are set

A patch changes what is there and adds nothing, each value after a `test` that it is the one that was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from whimbrel.core.errors import InputRefused
from whimbrel.core.model_pointer import POINTER_PREFIX, PointedVersion
from whimbrel.core.settings import environment_name, option_name
from whimbrel.mlflow.rollout.policy import RESOURCE_CONFIG

PERCENT: Final = "canaryTrafficPercent"
CHAMPION: Final = "champion"
_REGISTRY, _NULL, _FILE = "models:/", "null:", "file:"
_FIELDS: Final = {"uri": "model_uri", "digest": "model_digest", "version": "model_version"}
_CONTAINER: Final = "kserve-container"

Operation = dict[str, Any]


class Naming(BaseModel):
    """What is set: `digest` and `version` are None where the manifest leaves them out."""

    model_config = RESOURCE_CONFIG

    uri: str
    digest: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a string lies that holds `value` after `prefix`."""

    path: str
    value: str
    prefix: str = ""


def read_naming(service: Mapping[str, Any]) -> Naming:
    """Raises InputRefused where nothing names a version that could be changed for another."""
    places = _places(service)
    name = service["metadata"]["name"]
    if "uri" not in places:
        raise InputRefused(
            f"expected the predictor of InferenceService {name!r} to name its model by "
            f"{environment_name('model_uri')}, {option_name('model_uri')} or storageUri, seen none of them in it"
        )
    naming = Naming(**{field: place.value for field, place in places.items()})
    if naming.uri.startswith(POINTER_PREFIX):
        raise InputRefused(
            f"expected a version in the predictor of InferenceService {name!r}, seen {naming.uri}: it follows a model "
            "pointer; roll out in place"
        )
    if naming.uri.startswith(_FILE) or (naming.digest is None and naming.uri.startswith("s3:")):
        raise InputRefused(
            f"expected models:/NAME/VERSION, or s3:// with {environment_name('model_digest')} beside it, in the "
            f"predictor of InferenceService {name!r}, seen {naming.uri}"
        )
    return naming


def naming_of(version: PointedVersion, like: Naming, model: str) -> Naming:
    """How a manifest that names its version `like` this names another one."""
    uri = f"{_REGISTRY}{model}/{version.version}" if like.uri.startswith(_REGISTRY) else version.uri
    return Naming(
        uri=uri,
        digest=version.digest if like.digest is not None else None,
        version=version.version if like.version is not None else None,
    )


def names(naming: Naming, version: PointedVersion, model: str, *, champion: bool) -> bool:
    """Whether this is that version of `model`. The alias champion is the champion's, whatever number that is."""
    if naming.digest not in (None, version.digest):
        return False
    known = {f"{_REGISTRY}{model}/{version.version}", version.uri.rstrip("/")}
    return naming.uri.rstrip("/") in known or (champion and naming.uri == f"{_REGISTRY}{model}@{CHAMPION}")


def answers_as(naming: Naming, version: PointedVersion) -> str:
    """The version that a predictor of this naming says it is."""
    if naming.version is not None or naming.uri.startswith(_REGISTRY):
        return naming.version or version.version
    return "null" if naming.uri.startswith(_NULL) else version.digest.removeprefix("sha256:")[:12]


def renaming(service: Mapping[str, Any], naming: Naming) -> list[Operation]:
    """What makes the predictor name this version; nothing where it does already."""
    found: list[Operation] = []
    for field, place in _places(service).items():
        wanted = getattr(naming, field)
        if wanted not in (None, place.value):
            found += _replaced(place.path, place.prefix + place.value, place.prefix + wanted)
    return found


def read_percent(service: Mapping[str, Any]) -> int | None:
    """None: the newest revision has all traffic once it is ready."""
    percent = service["spec"]["predictor"].get(PERCENT)
    return None if percent is None else int(percent)


def sharing(service: Mapping[str, Any], percent: int | None) -> list[Operation]:
    """What gives the newest revision this share; None takes the field out."""
    path, now = f"/spec/predictor/{PERCENT}", read_percent(service)
    if now == percent:
        return []
    if now is None:
        return [{"op": "add", "path": path, "value": percent}]
    if percent is None:
        return [{"op": "test", "path": path, "value": now}, {"op": "remove", "path": path}]
    return _replaced(path, now, percent)


def _replaced(path: str, before: Any, after: Any) -> list[Operation]:
    return [{"op": "test", "path": path, "value": before}, {"op": "replace", "path": path, "value": after}]


def _places(service: Mapping[str, Any]) -> dict[str, _Place]:
    predictor, path = service["spec"].get("predictor") or {}, "/spec/predictor"
    model = predictor.get("model")
    if model is not None:
        found = _container_places(model, f"{path}/model") if isinstance(model, Mapping) else {}
        found.pop("uri", None)  # the runtime's: the package is mounted
        if isinstance(model.get("storageUri"), str):
            found["uri"] = _Place(f"{path}/model/storageUri", model["storageUri"])
        return found
    containers = list(predictor.get("containers") or ())
    for index, container in enumerate(containers):
        if container.get("name") == _CONTAINER or len(containers) == 1:
            return _container_places(container, f"{path}/containers/{index}")
    return {}


def _container_places(container: Mapping[str, Any], path: str) -> dict[str, _Place]:
    """Arguments win over the environment, and of two that say the same the last one."""
    found: dict[str, _Place] = {}
    for index, entry in enumerate(container.get("env") or ()):
        for field, setting in _FIELDS.items():
            if str(entry.get("name", "")).upper() == environment_name(setting) and isinstance(entry.get("value"), str):
                found[field] = _Place(f"{path}/env/{index}/value", entry["value"])
    for field, index, place in _arguments([str(each) for each in container.get("args") or ()]):
        found[field] = _Place(f"{path}/args/{index}", *place)
    return found


def _arguments(given: list[str]) -> Iterator[tuple[str, int, tuple[str, str]]]:
    """Field, index, and what stands there: value and prefix."""
    for index, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        for field, setting in _FIELDS.items():
            if option not in (option_name(setting), f"--{setting}"):
                continue
            if equals:
                yield field, index, (value, f"{option}=")
            elif index + 1 < len(given):
                yield field, index + 1, (given[index + 1], "")
