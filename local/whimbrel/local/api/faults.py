"""Every refusal of the API, as the Status object that Kubernetes clients read.

ApiFault
├── BadRequest             400  the request cannot be read
├── Unauthorized           401  without the kubeconfig's token
├── Forbidden              403  never allowed here
├── NotFound               404  no such object, kind or path
├── MethodNotAllowed       405
├── NotAcceptable          406  an answer in a form that is not written here
├── AlreadyExists          409  a create of a name that is taken
├── Conflict               409  an update of a version that is no longer the latest, or of another's fields
├── Gone                   410  a watch or a page from before what is remembered: list again
├── TooLarge               413
├── UnsupportedMediaType   415
├── Invalid                422  an object with a wrong field
└── TooManyRequests        429  more than this server serves at once
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from whimbrel.core.errors import WhimbrelError
from whimbrel.local.api.kinds import Kind


@dataclass(frozen=True, slots=True)
class Cause:
    """One wrong field of an object."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class ApiFault(WhimbrelError):
    """Carries a `reason` of Kubernetes' own list."""

    status: ClassVar[int] = 500
    word: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        causes: Sequence[Cause] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.details = dict(details or {})
        self.causes = tuple(causes)

    @property
    def reason(self) -> str:
        return self.word

    def body(self) -> dict[str, Any]:
        details = dict(self.details)
        if self.causes:
            details["causes"] = [
                {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in self.causes
            ]
        if self.retry_after_seconds is not None:
            details["retryAfterSeconds"] = max(1, round(self.retry_after_seconds))
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.word,
            **({"details": details} if details else {}),
            "code": self.status,
        }


class BadRequest(ApiFault):
    status, word = 400, "BadRequest"


class Unauthorized(ApiFault):
    status, word = 401, "Unauthorized"


class Forbidden(ApiFault):
    status, word = 403, "Forbidden"


class NotFound(ApiFault):
    status, word = 404, "NotFound"


class MethodNotAllowed(ApiFault):
    status, word = 405, "MethodNotAllowed"


class NotAcceptable(ApiFault):
    status, word = 406, "NotAcceptable"


class AlreadyExists(ApiFault):
    status, word = 409, "AlreadyExists"


class Conflict(ApiFault):
    status, word = 409, "Conflict"


class Gone(ApiFault):
    status, word = 410, "Expired"


class TooLarge(ApiFault):
    status, word = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiFault):
    status, word = 415, "UnsupportedMediaType"


class Invalid(ApiFault):
    status, word = 422, "Invalid"


class TooManyRequests(ApiFault):
    status, word = 429, "TooManyRequests"


class Timeout(ApiFault):
    status, word = 504, "Timeout"


def named(kind: Kind, name: str) -> dict[str, Any]:
    """The details of a Status about one object."""
    return {"name": name, "group": kind.group, "kind": kind.plural}


def not_found(kind: Kind, name: str) -> NotFound:
    return NotFound(f'{kind.resource} "{name}" not found', details=named(kind, name))


def already_exists(kind: Kind, name: str) -> AlreadyExists:
    return AlreadyExists(f'{kind.resource} "{name}" already exists', details=named(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Conflict:
    return Conflict(f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}', details=named(kind, name))


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> Invalid:
    faults = ", ".join(f"{cause.field}: {cause.message}" for cause in causes)
    return Invalid(
        f'{kind.kind}.{kind.group} "{name}" is invalid: {faults}'.replace('. "', ' "'),
        details={"name": name, "group": kind.group, "kind": kind.kind},
        causes=causes,
    )
