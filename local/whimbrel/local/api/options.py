"""The parameters of a request, read and checked; pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from whimbrel.local.api import selectors
from whimbrel.local.api.deletion import Preconditions, Propagation
from whimbrel.local.api.faults import BadRequest
from whimbrel.local.api.selectors import Selector

FieldValidation = Literal["Strict", "Warn", "Ignore"]

_MAX_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Of POST, PUT and PATCH. Strict where nothing is said: nothing is ignored in silence."""

    dry_run: bool
    field_manager: str
    validation: FieldValidation
    force: bool


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    dry_run: bool
    propagation: Propagation
    preconditions: Preconditions | None


@dataclass(frozen=True, slots=True)
class ListOptions:
    """`version` None: the state as it is now comes first."""

    selector: Selector
    limit: int
    after: tuple[str, str]
    at_version: int | None
    watch: bool
    version: int | None
    bookmarks: bool
    initial_events: bool
    timeout_seconds: float | None


def write_options(query: Mapping[str, str], user_agent: str) -> WriteOptions:
    validation: FieldValidation = _word("fieldValidation", query.get("fieldValidation") or "Strict", FieldValidation)
    manager = query.get("fieldManager") or user_agent.partition("/")[0] or "unknown"
    return WriteOptions(_dry_run(query.get("dryRun", "")), manager[:128], validation, _flag(query, "force"))


def delete_options(query: Mapping[str, str], body: Mapping[str, Any]) -> DeleteOptions:
    """From the parameters or from a DeleteOptions object."""
    asked = body.get("dryRun")
    dry_run = query.get("dryRun") or (asked[0] if isinstance(asked, list) and asked else "")
    propagation = query.get("propagationPolicy") or body.get("propagationPolicy")
    if propagation is None:
        propagation = "Orphan" if body.get("orphanDependents") else "Background"
    policy: Propagation = _word("propagationPolicy", propagation, Propagation)
    wanted = body.get("preconditions") or {}
    if not isinstance(wanted, dict):
        raise BadRequest(f"preconditions: expected an object, seen {wanted!r:.40}")
    preconditions = Preconditions(wanted.get("uid"), wanted.get("resourceVersion")) if wanted else None
    return DeleteOptions(_dry_run(str(dry_run)), policy, preconditions)


def list_options(query: Mapping[str, str], name: str | None) -> ListOptions:
    fields = ",".join(filter(None, (query.get("fieldSelector"), f"metadata.name={name}" if name else None)))
    at_version, after = _continued(query.get("continue", ""))
    version = query.get("resourceVersion", "")
    initial = _flag(query, "sendInitialEvents")
    return ListOptions(
        selectors.parse(query.get("labelSelector", ""), fields),
        _number(query, "limit", 0, _MAX_LIMIT),
        after,
        at_version,
        _flag(query, "watch"),
        None if version in ("", "0") or initial else _number(query, "resourceVersion", 0, 1 << 62),
        _flag(query, "allowWatchBookmarks"),
        initial,
        float(_number(query, "timeoutSeconds", 0, 1 << 31)) or None,
    )


def continuation(version: int, after: tuple[str, str]) -> str:
    """The token of the next page."""
    return base64.urlsafe_b64encode(json.dumps([version, *after]).encode()).decode()


def _continued(token: str) -> tuple[int | None, tuple[str, str]]:
    if not token:
        return None, ("", "")
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token.encode()))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError):
        raise BadRequest("continue: expected the token of an earlier answer") from None


def _word(name: str, value: Any, allowed: Any) -> Any:
    """`value`, which the type `allowed` has."""
    if value not in get_args(allowed):
        raise BadRequest(f"{name}: expected one of {', '.join(get_args(allowed))}, seen {value!r:.40}")
    return value


def _dry_run(value: str) -> bool:
    if value not in ("", "All"):
        raise BadRequest(f"dryRun: expected All, seen {value!r:.40}")
    return value == "All"


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true")


def _number(query: Mapping[str, str], name: str, least: int, most: int) -> int:
    value = query.get(name) or "0"
    if not value.isascii() or not value.isdigit() or len(value) > 19 or not least <= int(value) <= most:
        raise BadRequest(f"{name}: expected a number from {least} to {most}, seen {value!r:.40}")
    return int(value)
