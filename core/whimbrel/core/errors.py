"""Every error that crosses a room's border, and the one table of its HTTP statuses.

    WhimbrelError
    ├── InputRefused                400  the request itself is malformed
    │   ├── UnsupportedImage        415  not a format that we decode
    │   ├── UndecodableImage        422  named like an image, but broken, empty or too large to decode
    │   ├── UnfetchableUrl          422  a URL whose server does not have the image, or not for us
    │   └── PayloadTooLarge         413  more bytes than the limit
    ├── SettingsError               -    a setting is missing or wrong: the process does not start
    ├── PackageRefused              422  a model package that is malformed, unsafe or not the expected one
    ├── ModelFailed                 500  a loaded model that does not compute, or answers what cannot be
    └── TryAgain                    503  nothing is wrong with the input
        ├── NotFound                404  not there (yet)
        ├── PresetMismatch          409  prepared for another model version; carries the preset to use
        ├── QuotaExceeded           429  the caller's own quota
        ├── CutOff                  502  a process that we need ended in the middle of this very request
        ├── Unavailable             503  a service that we need does not answer
        └── DeadlinePassed          504  the caller's own deadline

The statuses follow Knative Eventing's retry rule: 404, 408, 409, 429, 5xx and what is not listed are tried
again; 400, 401, 403 and the other 4xx are not, and go straight to the dead-letter sink.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

RETRIED_4XX = frozenset({404, 408, 409, 429})


class WhimbrelError(Exception):
    """The root; `str()` of it says what was expected, what was seen and the remedy, in one line."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.retry_after_seconds = retry_after_seconds
        self.model_digest: str | None = None  # of the package that failed, where it was one's fault

    @property
    def reason(self) -> str:
        """The class's name: the machine-readable half of the message."""
        return type(self).__name__

    def body(self) -> dict[str, Any]:
        """The JSON that every HTTP answer with an error carries."""
        told: dict[str, Any] = {"error": str(self), "reason": self.reason}
        # First, for brokers cut what they keep of an answer.
        return told if self.model_digest is None else {"model_digest": self.model_digest, **told}

    def headers(self) -> dict[str, str]:
        if self.retry_after_seconds is None:
            return {}
        return {"retry-after": str(max(1, round(self.retry_after_seconds)))}


class InputRefused(WhimbrelError):
    """The input will never work: not retried."""

    status = 400


class UnsupportedImage(InputRefused):
    status = 415


class UndecodableImage(InputRefused):
    status = 422


class UnfetchableUrl(InputRefused):
    status = 422


class PayloadTooLarge(InputRefused):
    status = 413


class SettingsError(WhimbrelError):
    """A setting is missing or wrong; names the setting, what was seen and what is allowed."""


class PackageRefused(WhimbrelError):
    """A model package that is malformed, unsafe, or not the one that was expected."""

    status = 422


class ModelFailed(WhimbrelError):
    """A loaded model that does not compute, or whose answer cannot be: scores that are no numbers, another shape.

    Its package is what it should be, so the device may be at fault as well: it is tried again, a few times. For a
    request too: the next version may do.
    """

    status = 500


class TryAgain(WhimbrelError):
    """The input may be good: the same request can succeed later."""

    status = 503


class NotFound(TryAgain):
    status = 404


class QuotaExceeded(TryAgain):
    status = 429


class CutOff(TryAgain):
    """The process that was asked ended in the middle of this very request, by the word of the gateway before it."""

    status = 502


class Unavailable(TryAgain):
    status = 503


class DeadlinePassed(TryAgain):
    status = 504


class PresetMismatch(TryAgain):
    """The tensor was prepared by another preset than this model version's (design contract 2).

    `preset` is the JSON form of `whimbrel.core.package.Preset`; `model_digest` names the package it belongs to.
    """

    status = 409

    def __init__(self, message: str, *, preset: Mapping[str, Any], model_digest: str) -> None:
        super().__init__(message)
        self.preset = dict(preset)
        self.model_digest = model_digest

    def body(self) -> dict[str, Any]:
        return super().body() | {"preset": self.preset, "model_digest": self.model_digest}


def is_retried(status: int) -> bool:
    """Whether Knative's delivery tries again after this HTTP status (2xx is a success, so never)."""
    if 200 <= status < 300:
        return False
    if 400 <= status < 500:
        return status in RETRIED_4XX
    return True
