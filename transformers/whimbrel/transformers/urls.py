"""Reads an image from an http(s) URL of a client's choice, without becoming that client's way into our network.

A name is resolved once, every address is checked, and the connection goes to that very address; the name stays in the
Host header and is what the certificate must be for. Redirects are followed by hand, each by the same rule.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx

from whimbrel.core.errors import InputRefused, PayloadTooLarge, Unavailable, UnfetchableUrl
from whimbrel.transformers.url_rule import DEFAULT_PORTS, Address, Target, UrlRule, parse_address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRIED_AGAIN = frozenset({408, 425, 429})
_CONNECT_SECONDS = 5.0
_MOST_RETRY_AFTER_SECONDS = 60.0
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "whimbrel", "connection": "close"}


class UrlFetcher:
    """Has connections and the threads that resolve names; `close` it. Belongs to one event loop."""

    def __init__(
        self,
        rule: UrlRule,
        *,
        max_bytes: int,
        max_seconds: float,
        max_redirects: int = 3,
        connections: int = 16,
        ca_bundle: str | None = None,
    ) -> None:
        self._rule, self._max_bytes, self._max_seconds = rule, max_bytes, max_seconds
        self._max_redirects = max_redirects
        # Never kept alive: a connection is verified for one name, and other names may share its address.
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(cafile=ca_bundle),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=0),
            trust_env=False,
        )
        self._resolvers = ThreadPoolExecutor(connections, thread_name_prefix="resolve")

    async def fetch(self, url: str) -> bytes:
        """The body of its 200 answer.

        Raises InputRefused (400) for a URL, redirect or address that the rule forbids, PayloadTooLarge (413),
        UnfetchableUrl (422) when its server does not have it, and Unavailable (503) when that may change.
        """
        target = self._rule.target(url)
        try:
            async with asyncio.timeout(self._max_seconds):
                return await self._follow(target)
        except TimeoutError:
            raise Unavailable(
                f"{target.host} did not send all of the image within {self._max_seconds:g} s", retry_after_seconds=5
            ) from None

    async def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        await self._transport.aclose()

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._max_redirects + 1):
            async with self._answer(target) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._body(target, response)
                target = self._redirected(target, response)
        raise InputRefused(f"expected at most {self._max_redirects} redirects, seen one more, to {target.host}")

    def _redirected(self, target: Target, response: httpx.Response) -> Target:
        location = response.headers.get("location", "")
        try:
            url = str(target.url.join(location))
        except httpx.InvalidURL:
            url = ""
        if not location or not url:
            raise UnfetchableUrl(f"{target.host} answered {response.status_code} without a URL to go to")
        redirected = self._rule.target(url)
        if target.url.scheme == "https" and redirected.url.scheme != "https":
            raise InputRefused(f"{target.host} redirects from https to http, which is not followed")
        return redirected

    @asynccontextmanager
    async def _answer(self, target: Target) -> AsyncIterator[httpx.Response]:
        addresses = await self._resolve(target)
        self._rule.check(target.host, addresses)
        with_failures = _failures_as_ours(target)
        async with with_failures:
            response = await self._connect(target, addresses)
            try:
                yield response
            finally:
                await response.aclose()

    async def _resolve(self, target: Target) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._resolvers, _look_up, target.host, target.port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                raise UnfetchableUrl(f"the host {target.host} has no address") from None
            raise Unavailable(f"the host {target.host} was not resolved: {error}", retry_after_seconds=5) from None
        except (OSError, UnicodeError) as error:
            raise UnfetchableUrl(f"the host {target.host} was not resolved: {error}") from None
        return list(dict.fromkeys(parse_address(str(entry[4][0])) for entry in found))

    async def _connect(self, target: Target, addresses: list[Address]) -> httpx.Response:
        """From the first address that accepts a connection."""
        for address in addresses[:-1]:
            try:
                return await self._transport.handle_async_request(self._request(target, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._transport.handle_async_request(self._request(target, addresses[-1]))

    def _request(self, target: Target, address: Address) -> httpx.Request:
        host = f"[{target.host}]" if ":" in target.host else target.host
        named = host if target.port == DEFAULT_PORTS[target.url.scheme] else f"{host}:{target.port}"
        timeout = {
            "connect": min(_CONNECT_SECONDS, self._max_seconds),
            **dict.fromkeys(("read", "write", "pool"), self._max_seconds),
        }
        return httpx.Request(
            "GET",
            target.url.copy_with(host=str(address), port=target.port, fragment=None),
            headers={"host": named, **_HEADERS},
            extensions={"sni_hostname": target.host, "timeout": timeout},
        )

    async def _body(self, target: Target, response: httpx.Response) -> bytes:
        _check_status(target, response)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise UnfetchableUrl(f"expected bytes as they are from {target.host}, seen the encoding {encoding[:40]!r}")
        declared = response.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit():
            self._check_size(target, int(declared))
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            self._check_size(target, len(content))
        return bytes(content)

    def _check_size(self, target: Target, size: int) -> None:
        if size > self._max_bytes:
            raise PayloadTooLarge(f"expected an image of at most {self._max_bytes} bytes at {target.host}, seen {size}")


def _look_up(host: str, port: int) -> list[tuple[object, object, object, object, tuple[object, ...]]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _check_status(target: Target, response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status >= 500 or status in _TRIED_AGAIN:
        asked = response.headers.get("retry-after", "")
        seconds = min(_MOST_RETRY_AFTER_SECONDS, float(asked)) if asked.isascii() and asked.isdigit() else 5.0
        raise Unavailable(f"{target.host} answered {status}", retry_after_seconds=seconds)
    raise UnfetchableUrl(f"expected 200 from {target.host}, seen {status}")


@asynccontextmanager
async def _failures_as_ours(target: Target) -> AsyncIterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        if untrusted := _certificate_error(error):
            raise UnfetchableUrl(f"{target.host} has no certificate that is trusted for it: {untrusted}") from None
        reason = str(error) or type(error).__name__
        raise Unavailable(f"reading from {target.host}: {reason[:200]}", retry_after_seconds=5) from None


def _certificate_error(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)
        cause = cause.__cause__ or cause.__context__
    return None
