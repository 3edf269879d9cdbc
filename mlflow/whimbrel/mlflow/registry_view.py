"""What a model registry holds: models, versions, aliases; and moving an alias. Asks over REST, imports no mlflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from whimbrel.core.errors import NotFound
from whimbrel.core.registry import DIGEST_TAG, ModelLocation, get, location_of, post, tags_of
from whimbrel.mlflow.register import ACCURACY_TAG, ARCHITECTURE_TAG, CODE_TAG, DATA_TAG, PARENT_TAG, TASK_TAG

CHAMPION: Final = "champion"  # the version that has the traffic
CHALLENGER: Final = "challenger"  # the version that is to have it
MAX_PAGES: Final = 100
PAGE: Final = 200


@dataclass(frozen=True)
class ModelVersion:
    """One version. What its tags do not say is None: versions that others registered have no digest, for one."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created: datetime
    digest: str | None
    task: str | None
    architecture: str | None
    held_out_accuracy: float | None
    code_commit: str | None
    data_digest: str | None
    parent: str | None
    run_id: str | None


def list_models(tracking_uri: str) -> list[str]:
    """The names of all registered models, sorted."""
    return sorted(str(model["name"]) for model in _pages(tracking_uri, "registered-models/search", {}))


def list_versions(tracking_uri: str, name: str) -> list[ModelVersion]:
    """The versions of a model, newest first. Raises NotFound for a model that is not there."""
    model = get(tracking_uri, "registered-models/get", {"name": name})["registered_model"]
    aliases = _aliases(model)
    found = _pages(tracking_uri, "model-versions/search", {"filter": f"name='{name}'"})
    versions = [_version(version, aliases) for version in found]
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def list_aliases(tracking_uri: str, name: str) -> dict[str, str]:
    """Alias to version number. Raises NotFound for a model that is not there."""
    model = get(tracking_uri, "registered-models/get", {"name": name})["registered_model"]
    return {alias: version for version, aliases in _aliases(model).items() for alias in aliases}


def show_version(tracking_uri: str, name: str, selector: str) -> tuple[ModelVersion, ModelLocation]:
    """The version that `selector`, a version number or an alias, names, and where its package lies."""
    versions = list_versions(tracking_uri, name)
    chosen = next((one for one in versions if selector == one.version or selector in one.aliases), None)
    if chosen is None:
        aliases = sorted(alias for version in versions for alias in version.aliases)
        raise NotFound(
            f"expected a version or alias of {name!r}, seen {selector!r}; it has {len(versions)} versions and the "
            f"aliases {', '.join(aliases) or 'none'}"
        )
    answer = get(tracking_uri, "model-versions/get", {"name": name, "version": chosen.version})
    return chosen, location_of(answer["model_version"], tracking_uri)


def set_alias(tracking_uri: str, name: str, alias: str, version: str) -> None:
    """Point `alias` at `version`, whatever it pointed at before. Raises NotFound and InputRefused (a reserved name)."""
    post(tracking_uri, "registered-models/alias", {"name": name, "alias": alias, "version": version})


def _pages(tracking_uri: str, path: str, parameters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    token = ""
    key = "registered_models" if path.startswith("registered-models") else "model_versions"
    for _ in range(MAX_PAGES):
        query = {**parameters, "max_results": str(PAGE)} | ({"page_token": token} if token else {})
        answer = get(tracking_uri, path, query)
        yield from answer.get(key, ())
        token = str(answer.get("next_page_token", ""))
        if not token:
            return


def _aliases(model: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Version number to its aliases: the answer of a search leaves them out."""
    by_version: dict[str, tuple[str, ...]] = {}
    for entry in model.get("aliases", ()):
        version = str(entry["version"])
        by_version[version] = (*by_version.get(version, ()), str(entry["alias"]))
    return by_version


def _version(version: Mapping[str, Any], aliases: Mapping[str, tuple[str, ...]]) -> ModelVersion:
    tags, number = tags_of(version), str(version["version"])
    return ModelVersion(
        name=str(version["name"]),
        version=number,
        aliases=tuple(sorted(aliases.get(number, ()))),
        created=datetime.fromtimestamp(int(version.get("creation_timestamp", 0)) / 1000, UTC),
        digest=tags.get(DIGEST_TAG),
        task=tags.get(TASK_TAG),
        architecture=tags.get(ARCHITECTURE_TAG),
        held_out_accuracy=_number(tags.get(ACCURACY_TAG)),
        code_commit=tags.get(CODE_TAG),
        data_digest=tags.get(DATA_TAG),
        parent=tags.get(PARENT_TAG),
        run_id=version.get("run_id"),
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
