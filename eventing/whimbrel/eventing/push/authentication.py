"""Whether a request may post events: basic or bearer authentication, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from whimbrel.core.errors import SettingsError
from whimbrel.eventing.push.settings import PushSourceSettings


@dataclass(frozen=True, slots=True)
class Admission:
    """Digests of what is admitted, by scheme in lower case; none: everybody is."""

    digests: dict[str, bytes]

    def admits(self, authorization: str | None) -> bool:
        if not self.digests:
            return True
        scheme, _, given = (authorization or "").strip().partition(" ")
        expected = self.digests.get(scheme.lower())
        seen = _decoded(given.strip()) if scheme.lower() == "basic" else given.strip().encode()
        return expected is not None and hmac.compare_digest(_digest(seen), expected)

    @property
    def challenge(self) -> str:
        """The WWW-Authenticate of a 401."""
        return ", ".join(f'{scheme.capitalize()} realm="whimbrel"' for scheme in self.digests)


def admission(settings: PushSourceSettings) -> Admission:
    """Raises SettingsError when a secret's file cannot be read or is empty."""
    digests: dict[str, bytes] = {}
    password = _secret(settings.push_password, settings.push_password_file, "PASSWORD")
    if settings.push_user and password:
        digests["basic"] = _digest(f"{settings.push_user}:{password}".encode())
    token = _secret(settings.push_token, settings.push_token_file, "TOKEN")
    if token:
        digests["bearer"] = _digest(token.encode())
    return Admission(digests)


def _secret(given: SecretStr | None, file: Path | None, name: str) -> str | None:
    if file is None:
        return given.get_secret_value() if given else None
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"setting WHIMBREL_PUSH_{name}_FILE: cannot read {file} ({error})") from None
    if not text:
        raise SettingsError(f"setting WHIMBREL_PUSH_{name}_FILE: expected a secret in {file}, seen an empty file")
    return text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _digest(secret: bytes) -> bytes:
    """Of one length, whatever the secret's."""
    return hashlib.sha256(secret).digest()
