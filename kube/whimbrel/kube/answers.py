"""What a Kubernetes API server's refusals mean: its Status object as one of our errors; no I/O.

WhimbrelError
├── InputRefused        400  the object is not one that the server takes: unknown field, immutable, webhook
├── Forbidden           403  the kubeconfig's user may not do this (or is nobody: 401)
└── TryAgain
    ├── NotFound        404  no such object, or no such kind
    ├── Conflict        409  someone else changed it, or owns the field
    ├── Gone            410  the server no longer has what happened since that resource version
    └── Unavailable     503  any other answer, or none
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from whimbrel.core.errors import InputRefused, NotFound, TryAgain, Unavailable, WhimbrelError

_REFUSED = frozenset({400, 405, 406, 413, 415, 422})
_LONGEST_MESSAGE = 2000
_WARNING = re.compile(r'^299 \S+ "(?P<text>(?:[^"\\]|\\.)*)"')


class Forbidden(WhimbrelError):
    """The user of the kubeconfig may not do this."""

    status = 403


class Conflict(TryAgain):
    """The object is not the one that was read, or another field manager owns what is set."""

    status = 409


class Gone(TryAgain):
    """What happened since that resource version is no longer known: list again."""

    status = 410


def error_of(code: int | None, document: Any, doing: str) -> WhimbrelError:
    """The error for an answer to `doing` (`expected to ...`). `document` is the body: a Status, or anything else."""
    message = _message(code, document)
    if code in _REFUSED:
        return InputRefused(f"{doing}; the API server refused it: {message}")
    if code in (401, 403):
        return Forbidden(f"{doing}; the kubeconfig's user may not: {message}")
    if code == 404:
        return NotFound(f"{doing}; there is none: {message}")
    if code == 409:
        return Conflict(f"{doing}; it conflicts: {message}")
    if code == 410:
        return Gone(f"{doing}; the API server no longer has it: {message}")
    return Unavailable(f"{doing}; the API server answered {message}", retry_after_seconds=1)


def warnings_of(headers: Iterable[str]) -> tuple[str, ...]:
    """The texts of an answer's `Warning` headers, each once: `299 - "unknown field \\"spec.x\\""`."""
    found = [match["text"] for header in headers if (match := _WARNING.match(header.strip()))]
    return tuple(dict.fromkeys(re.sub(r"\\(.)", r"\1", text) for text in found))


def _message(code: int | None, document: Any) -> str:
    """A Status's own message, which names the field; of a failed apply, who owns it."""
    if isinstance(document, Mapping) and document.get("message"):
        return str(document["message"])[:_LONGEST_MESSAGE]
    return f"{code}: {document!s:.200}"
