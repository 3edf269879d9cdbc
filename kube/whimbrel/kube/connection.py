"""One connection to the Kubernetes API, by the kubeconfig that kubectl uses too; reads one resource by name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import kr8s
import kr8s.asyncio

from whimbrel.core.errors import NotFound, SettingsError, Unavailable

TIMEOUT_SECONDS = 15.0
DEFAULT_KUBECONFIG = "~/.kube/config"

# KeyError: kr8s looks for a `message` in an error that something other than an API server may have written.
_NO_ANSWER = (httpx.HTTPError, kr8s.ServerError, kr8s.APITimeoutError, KeyError)


@asynccontextmanager
async def connect(kubeconfig: str | None = None, context: str | None = None) -> AsyncIterator[kr8s.asyncio.Api]:
    """The API server of `context` in `kubeconfig`; absent, those that KUBECONFIG and the file itself name.

    Inside a pod without a kubeconfig it is the service account's. Raises SettingsError when there is neither,
    Unavailable when the server does not answer.
    """
    # Named even where it is the default: without any argument kr8s hands out whatever connection it has open.
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    try:
        api = await kr8s.asyncio.api(kubeconfig=path, context=context)
    except ValueError as fault:
        wanted = (
            f"context {context!r} in the kubeconfig {path!r}" if context else f"a kubeconfig, seen none at {path!r}"
        )
        raise SettingsError(
            f"expected {wanted} ({fault}); set KUBECONFIG or name one with --kubeconfig and --context"
        ) from None
    except _NO_ANSWER as fault:
        raise Unavailable(
            f"expected the API server of the kubeconfig {path!r} to answer; seen {fault!r:.200}"
        ) from None
    api.timeout = TIMEOUT_SECONDS
    yield api


async def read(api: kr8s.asyncio.Api, version: str, plural: str, name: str, namespace: str) -> dict[str, Any]:
    """One resource as the API server wrote it, as `version` (`serving.kserve.io/v1beta1`).

    Raises NotFound when there is none of that name or no such kind, Unavailable for any other answer.
    """
    what = f"{plural} {name!r} in the namespace {namespace!r}"
    try:
        async with api.call_api("GET", version=version, namespace=namespace, url=f"{plural}/{name}") as response:
            document = response.json()
    except kr8s.ServerError as fault:
        status = fault.response.status_code if fault.response is not None else None
        if status == 404:
            raise NotFound(f"expected {what}; the API server has none") from None
        raise Unavailable(f"expected to read {what}; the API server answered {status}: {fault!s:.200}") from None
    except (*_NO_ANSWER, ValueError) as fault:
        raise Unavailable(f"expected to read {what}; seen {fault!r:.200}") from None
    if not isinstance(document, dict):
        raise Unavailable(f"expected to read {what}; the API server answered {type(document).__name__}")
    return document
