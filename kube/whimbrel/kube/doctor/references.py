"""What manifests refer to without bringing it: Secrets with their keys, the settings, the buckets; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whimbrel.kube.doctor.snapshot import Object

CREDENTIAL_KEYS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
SETTINGS, CREDENTIALS = "whimbrel-settings", "whimbrel-s3"


def secrets(wanted: Sequence[Object], credentials: str) -> dict[str, frozenset[str]]:
    """Each Secret by its name with the keys that are asked of it."""
    found: dict[str, frozenset[str]] = {credentials: CREDENTIAL_KEYS}
    for container in containers(list(wanted)):
        for source in container.get("envFrom") or ():
            if name := (source.get("secretRef") or {}).get("name"):
                found.setdefault(name, frozenset())
        for entry in container.get("env") or ():
            reference = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
            if reference.get("name") and not reference.get("optional"):
                found[reference["name"]] = found.get(reference["name"], frozenset()) | {str(reference.get("key"))}
    return found


def settings_name(wanted: Sequence[Object]) -> str:
    """The ConfigMap that the model's processes take their settings from."""
    return _first(wanted, "configMapRef") or SETTINGS


def credentials_name(wanted: Sequence[Object]) -> str:
    """The Secret that they take the store's credentials from."""
    return _first(wanted, "secretRef") or CREDENTIALS


def variables(objects: Sequence[Object]) -> Mapping[str, str]:
    """Every plain environment variable: the buckets are named there."""
    return {
        str(entry.get("name")): entry["value"]
        for container in containers(list(objects))
        for entry in container.get("env") or ()
        if isinstance(entry.get("value"), str)
    }


def _first(wanted: Sequence[Object], kind: str) -> str:
    services = [each for each in wanted if each.get("kind") == "InferenceService"]
    sources = (source for container in containers(services) for source in container.get("envFrom") or ())
    return next((str(each[kind]["name"]) for each in sources if kind in each), "")


def containers(value: Any) -> Iterator[Mapping[str, Any]]:
    """Of all pods, and of the components of InferenceServices, however deep they lie."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name in ("containers", "initContainers") and isinstance(each, list):
                yield from (container for container in each if isinstance(container, Mapping))
            else:
                yield from containers(each)
    elif isinstance(value, list):
        for each in value:
            yield from containers(each)
