"""Applies manifests as `kubectl apply` does on the client's side: what it applied last time is kept with the object.

So a later `kubectl apply` goes on from it, and what a user changed meanwhile survives a second start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.local.api import admission
from whimbrel.local.api.faults import ApiFault, NotFound
from whimbrel.local.api.kinds import NAMESPACE, Kind, by_kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage
from whimbrel.local.control.names import LAST_APPLIED


def apply(storage: Storage, judge: admission.Judge, objects: Iterable[Object]) -> list[str]:
    """What is accepted and not enforced. Blocking. Raises InputRefused, with the path, before anything is written."""
    accepted, warnings = [], []
    for given in objects:
        kind, found, said = _accepted(judge, given)
        accepted.append((kind, found))
        named = f"{kind.kind} {given['metadata']['name']!r}"
        warnings += [f"{named}: {each}" for each in said]
    for kind, found in accepted:
        try:
            _apply(storage, kind, found)
        except ApiFault as error:
            raise InputRefused(f"{kind.kind} {found['metadata']['name']!r}: {error}") from None
    return warnings


def _accepted(judge: admission.Judge, given: Object) -> tuple[Kind, Object, list[str]]:
    if not isinstance(given, dict) or not isinstance(given.get("metadata"), dict) or not given["metadata"].get("name"):
        raise InputRefused("expected an object with apiVersion, kind and metadata.name")
    kind = by_kind(str(given.get("apiVersion")), str(given.get("kind")))
    if kind is None:
        raise InputRefused(
            f"{given.get('kind')} {given['metadata']['name']!r} of {given.get('apiVersion')}: not a kind that is known "
            "on one machine; 'kubectl api-resources' lists those that are"
        )
    try:
        found, warnings = admission.admitted(kind, given, "Strict", judge)
    except ApiFault as error:
        raise InputRefused(str(error)) from None
    return kind, found, warnings


def _apply(storage: Storage, kind: Kind, given: Object) -> None:
    metadata = given["metadata"]
    namespace = metadata.get("namespace") or "default" if kind.namespaced else None
    if namespace is not None:
        _ensure_namespace(storage, namespace)
    placed = {"namespace": namespace} if namespace is not None else {}
    annotations = dict(metadata.get("annotations") or {})
    noted = {**given, "metadata": {**metadata, **placed, "annotations": annotations}}
    applied = _written(noted)
    noted["metadata"]["annotations"] = {**annotations, LAST_APPLIED: applied}
    try:
        live = storage.get(kind, namespace, metadata["name"])
    except NotFound:
        storage.create(kind, noted)
        return
    before = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if before != applied:
        prior = json.loads(before) if before else {}
        storage.modify(kind, namespace, metadata["name"], lambda found: merged(found, prior, noted))


def _written(given: Object) -> str:
    """Byte for byte as kubectl writes it, so that its own apply of the same finds nothing changed."""
    text = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def merged(live: Any, prior: Any, given: Any) -> Any:
    """`live` with what is given, without what was given before and is no more; a list is taken as a whole."""
    if not isinstance(live, dict) or not isinstance(given, dict):
        return given
    prior = prior if isinstance(prior, dict) else {}
    kept = {name: value for name, value in live.items() if name in given or name not in prior}
    return kept | {name: merged(live.get(name), prior.get(name), value) for name, value in given.items()}


def _ensure_namespace(storage: Storage, name: str) -> None:
    try:
        storage.get(NAMESPACE, None, name)
    except NotFound:
        storage.create(NAMESPACE, {"metadata": {"name": name}})
