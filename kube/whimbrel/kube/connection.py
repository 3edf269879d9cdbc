"""One connection to the Kubernetes API, by the kubeconfig that kubectl uses too, and what one request to it gives."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import kr8s
import kr8s.asyncio

from whimbrel.core.errors import SettingsError, Unavailable, WhimbrelError
from whimbrel.kube.answers import Forbidden, error_of, warnings_of
from whimbrel.kube.kinds import Kind

TIMEOUT_SECONDS = 15.0
DEFAULT_KUBECONFIG = "~/.kube/config"

# KeyError: kr8s looks for a `message` in an error that something other than an API server may have written.
_NO_ANSWER = (httpx.HTTPError, kr8s.APITimeoutError, KeyError, json.JSONDecodeError, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """`warnings` are what the server says about a request that it took. `created`: it was not there before."""

    document: dict[str, Any]
    warnings: tuple[str, ...] = ()
    created: bool = False


class Connection:
    """Requests to one API server. Every failure is one of the errors of `whimbrel.kube.answers`."""

    def __init__(self, api: kr8s.asyncio.Api, source: str) -> None:
        self._api = api
        self.source = source

    @property
    def namespace(self) -> str:
        """Of the kubeconfig's context, `default` where it names none."""
        return str(self._api.namespace)

    async def request(
        self,
        method: str,
        kind: Kind,
        path: str,
        namespace: str | None = None,
        *,
        doing: str,
        parameters: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        """`path` is that below the group version and namespace. `doing` begins the message of an error."""
        content = None if body is None else json.dumps(body)
        options = {"params": dict(parameters or {}), "content": content, "headers": {"content-type": content_type}}
        place = {"version": kind.api_version, "namespace": namespace, "url": path}
        async with self._answered(method, doing, **place, **options) as response:
            try:
                document = response.json()
            except ValueError:
                raise Unavailable(f"{doing}; seen an answer that is no JSON from {self.source}") from None
        if not isinstance(document, dict):
            raise Unavailable(f"{doing}; the API server answered {type(document).__name__}")
        said = warnings_of(response.headers.get_list("warning"))
        return Answer(document, said, response.status_code == httpx.codes.CREATED)

    @asynccontextmanager
    async def lines(
        self,
        kind: Kind,
        path: str,
        namespace: str | None,
        *,
        doing: str,
        parameters: Mapping[str, str],
        silence_seconds: float,
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of one long answer, which ends with Unavailable when nothing comes for `silence_seconds`."""
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=silence_seconds)
        options = {"params": dict(parameters), "timeout": timeout, "stream": True}
        place = {"version": kind.api_version, "namespace": namespace, "url": path}
        async with self._answered("GET", doing, **place, **options) as response:
            yield response.aiter_lines()

    async def read_path(self, path: str, *, doing: str) -> dict[str, Any]:
        """What the server itself says at `path`: `version`, `apis/serving.kserve.io/v1beta1`."""
        async with self._answered("GET", doing, version="", base=f"/{path}") as response:
            try:
                document = response.json()
            except ValueError:
                raise Unavailable(f"{doing}; seen an answer that is no JSON from {self.source}") from None
        return document if isinstance(document, dict) else {}

    @asynccontextmanager
    async def _answered(self, method: str, doing: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer that is no error. Only for a 401 kr8s gets to renew the credentials: it does so for a 403 as well,
        and cuts every other request of the connection by that."""
        try:
            async with self._api.call_api(method, raise_for_status=False, **options) as response:
                if response.status_code != httpx.codes.UNAUTHORIZED:
                    await _refuse_error(response, doing)
                    yield response
                    return
            async with self._api.call_api(method, **options) as response:
                yield response
        except kr8s.ServerError as fault:
            raise _refusal(fault, doing) from None
        except _NO_ANSWER as fault:
            raise Unavailable(f"{doing}; seen {fault!r:.200} from {self.source}", retry_after_seconds=1) from None


@asynccontextmanager
async def connect(kubeconfig: str | None = None, context: str | None = None) -> AsyncIterator[Connection]:
    """The API server of `context` in `kubeconfig`; absent, those that KUBECONFIG and the file itself name.

    Inside a pod without a kubeconfig it is the service account's. Raises SettingsError when there is neither,
    Unavailable when the server does not answer, Forbidden when it does not know the user.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    source = f"the API server of the kubeconfig {path!r}"
    # Not by the factory: it shares one connection among all that ask, and this one is closed at the end.
    api = kr8s.asyncio.Api(bypass_factory=True, kubeconfig=path, context=context)
    api.timeout = TIMEOUT_SECONDS
    try:
        await _greet(api, path, context, source)
        yield Connection(api, source)
    finally:
        if api._session is not None:
            with contextlib.suppress(RuntimeError):
                await api._session.aclose()


async def _greet(api: kr8s.asyncio.Api, path: str, context: str | None, source: str) -> None:
    """Reads the kubeconfig and asks the server for its version."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Kubernetes version", category=UserWarning)  # newer than kr8s
            await api
    except kr8s.ServerError as fault:
        refusal = _refusal(fault, f"expected {source} to answer")
        raise refusal if isinstance(refusal, Forbidden) else Unavailable(str(refusal)) from None
    except _NO_ANSWER as fault:
        raise Unavailable(f"expected {source} to answer; seen {fault!r:.200}") from None
    except ValueError as fault:
        raise _no_kubeconfig(path, context, fault) from None


def _no_kubeconfig(path: str, context: str | None, fault: ValueError) -> SettingsError:
    wanted = f"context {context!r} in the kubeconfig {path!r}" if context else f"a kubeconfig, seen none at {path!r}"
    remedy = "set KUBECONFIG, name one with --kubeconfig and --context, or start an engine with 'whimbrel up'"
    return SettingsError(f"expected {wanted} ({fault}); {remedy}")


async def _refuse_error(response: httpx.Response, doing: str) -> None:
    if response.is_error:
        await response.aread()  # what is streamed has no body yet
        raise error_of(response.status_code, _body(response), doing)


def _refusal(fault: kr8s.ServerError, doing: str) -> WhimbrelError:
    if fault.response is None:
        return error_of(None, str(fault), doing)
    return error_of(fault.response.status_code, _body(fault.response), doing)


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
