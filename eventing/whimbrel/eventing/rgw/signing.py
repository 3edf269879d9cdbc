"""Signs requests to the gateway as S3 requests are: AWS signature version 4, by botocore's signer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import get_session

from whimbrel.core.errors import SettingsError
from whimbrel.core.logs import redact

_ENDPOINT: Final = re.compile(r"https?://[^\s/@?#]+/?")
_NO_BODY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Signed:
    """A request without a body, ready to be sent as it is: what is signed may not be encoded anew."""

    method: str
    url: str
    headers: Mapping[str, str]


class Signer:
    """Credentials come from botocore's own chain (AWS_ACCESS_KEY_ID and so on), renewed where they end."""

    def __init__(self, endpoint: str, region: str, credentials: Credentials | None = None) -> None:
        if not _ENDPOINT.fullmatch(endpoint):
            raise SettingsError(f"expected the gateway's URL, http://HOST or https://HOST, seen {redact(endpoint)!r}")
        self._endpoint = endpoint.rstrip("/")
        self._region = region
        found = credentials or get_session().get_credentials()
        if found is None:
            raise SettingsError("expected credentials for the gateway, seen none; set AWS_ACCESS_KEY_ID and the secret")
        self._credentials = found

    def sign(self, method: str, path: tuple[str, ...], query: Mapping[str, str]) -> Signed:
        """`path` is given in segments. The values of `query` are encoded here: markers hold slashes."""
        # The gateway takes /topics for SNS's API, whose payload hash it wants among the parameters.
        asked = {**query, "PayloadHash": _NO_BODY} if path[0] == "topics" else query
        encoded = "&".join(f"{_encoded(name)}={_encoded(value)}" if value else name for name, value in asked.items())
        url = "/".join((self._endpoint, *map(_encoded, path))) + (f"?{encoded}" if encoded else "")
        request = AWSRequest(method=method, url=url, headers={"X-Amz-Content-SHA256": _NO_BODY})
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return Signed(method, url, dict(request.headers.items()))


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
