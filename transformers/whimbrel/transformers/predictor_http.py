"""One pool of HTTP connections to one predictor: what does not answer or answers an error is an error of ours."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping

import httpx

from whimbrel.core.errors import CutOff, Unavailable
from whimbrel.transformers.answers import error_of
from whimbrel.transformers.request_headers import request_headers

_CONNECT_SECONDS = 10.0
_RETRY_AFTER_SECONDS = 2.0


@functools.cache
def _trusted() -> ssl.SSLContext:
    """One for all: to read the certificates takes tens of milliseconds. Where there is no TLS, nobody is trusted."""
    return httpx.create_ssl_context(trust_env=False)


class PredictorHttp:
    """`close` it."""

    def __init__(self, base_url: str, *, timeout_seconds: float, connections: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
            verify=_trusted() if base_url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    async def post(
        self, path: str, content: bytes, headers: Mapping[str, str], key: str, *, twice: bool = False
    ) -> bytes:
        """The body of a 200 answer. `twice`: what is cut off by the end of the predictor's process is asked once more.

        Raises the predictor's error as the table's, or Unavailable.
        """
        asked = {**headers, **request_headers(key)}
        response = await self._answered(path, content, asked)
        if response.status_code == CutOff.status and twice:
            response = await self._answered(path, content, asked)
        if response.status_code != 200:
            raise error_of(response.status_code, response.content, response.headers.get("retry-after"))
        return response.content

    async def close(self) -> None:
        await self._client.aclose()

    async def _answered(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        try:
            try:
                return await self._client.post(path, content=content, headers=headers)
            except httpx.RemoteProtocolError:
                # A kept connection that the other side closed at the same moment; to infer twice does no harm.
                return await self._client.post(path, content=content, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"the predictor at {self._client.base_url} does not answer: {reason}",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            ) from None
