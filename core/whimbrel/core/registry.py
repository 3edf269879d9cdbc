"""From a registry's name for a model to where its package lies and which digest to expect: MLflow's REST API, read.

Only the configured server is asked, redirects are not followed, and what it answers is bounded in size and time.
Credentials are MLflow's own: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from whimbrel.core.attestations import Attestations, of_tags
from whimbrel.core.errors import InputRefused, NotFound, PackageRefused, SettingsError, Unavailable, WhimbrelError

DIGEST_TAG: Final = "whimbrel.digest"
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0

_API: Final = "/api/2.0/mlflow"
_MODEL_URI = re.compile(
    r"models:/(?P<name>[A-Za-z0-9 ._-]{1,250})(@(?P<alias>[A-Za-z0-9._-]{1,250})|/(?P<version>\d{1,9}))"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MISSING = re.compile(r"not found|does ?not ?exist", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """One version of a registered model. `uri` is s3:// or file://; `digest` is what the package there must have."""

    name: str
    version: str
    uri: str
    digest: str
    attestations: Attestations = field(default_factory=Attestations)


def resolve(uri: str, tracking_uri: str | None) -> ModelLocation:
    """Where `models:/name@alias` or `models:/name/version` lies now.

    Raises InputRefused (another form), SettingsError (no `tracking_uri`), NotFound (model, alias or version),
    PackageRefused (no digest, or a place that only the registry itself can read) and Unavailable.
    """
    match = _MODEL_URI.fullmatch(uri)
    if match is None:
        raise InputRefused(f"expected models:/NAME@ALIAS or models:/NAME/VERSION, seen {uri!r}")
    if not tracking_uri:
        raise SettingsError(
            f"setting WHIMBREL_MLFLOW_TRACKING_URI (--mlflow-tracking-uri): missing; {uri} is resolved there, so set it"
        )
    name = match["name"]
    if match["alias"]:
        query = ("registered-models/alias", {"name": name, "alias": match["alias"]})
    else:
        query = ("model-versions/get", {"name": name, "version": match["version"]})
    version = get(tracking_uri, *query).get("model_version")
    if not isinstance(version, dict) or not isinstance(version.get("name"), str) or not version.get("version"):
        raise Unavailable(
            f"expected a model version with name and number from the registry at {tracking_uri}, seen none"
        )
    return location_of(version, tracking_uri)


def location_of(version: Mapping[str, Any], tracking_uri: str) -> ModelLocation:
    """The location of a model version, given as the registry's JSON of it. Raises as `resolve` does."""
    name, number = str(version["name"]), str(version["version"])
    tags = tags_of(version)
    digest = tags.get(DIGEST_TAG, "")
    if not _DIGEST.fullmatch(digest):
        raise PackageRefused(
            f"expected the tag {DIGEST_TAG} (sha256:<64 hex digits>) on version {number} of {name!r}, seen "
            f"{digest or 'none'}; register the package with 'whimbrel model register'"
        )
    answer = get(tracking_uri, "model-versions/get-download-uri", {"name": name, "version": number})
    uri = str(answer.get("artifact_uri", "")).rstrip("/")
    if urlsplit(uri).scheme not in ("s3", "file"):
        raise PackageRefused(
            f"expected an s3:// or file:// place for version {number} of {name!r}, seen {uri!r}; run the registry "
            "with '--default-artifact-root s3://BUCKET/PREFIX --no-serve-artifacts' and register it again"
        )
    return ModelLocation(name, number, uri, digest, of_tags(tags))


def tags_of(entity: Mapping[str, Any]) -> dict[str, str]:
    """MLflow's list of {key, value} as a dictionary."""
    tags = entity.get("tags")
    pairs = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return {str(tag.get("key", "")): str(tag.get("value", "")) for tag in pairs}


def get(tracking_uri: str, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """GET `path` below the registry's API. Raises NotFound, InputRefused and Unavailable with what was asked."""
    return _call(tracking_uri, "GET", path, params=dict(parameters))


def post(tracking_uri: str, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """POST `document` to `path` below the registry's API. Raises as `get` does."""
    return _call(tracking_uri, "POST", path, json=dict(document))


def patch(tracking_uri: str, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """PATCH `path` below the registry's API with `document`. Raises as `get` does."""
    return _call(tracking_uri, "PATCH", path, json=dict(document))


def delete(tracking_uri: str, path: str) -> dict[str, Any]:
    """DELETE `path` below the registry's API. Raises as `get` does."""
    return _call(tracking_uri, "DELETE", path)


def _call(tracking_uri: str, method: str, path: str, **request: Any) -> dict[str, Any]:
    url = f"{tracking_uri.rstrip('/')}{_API}/{path}"
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=False, auth=_auth(), headers=_bearer()) as client,
            client.stream(method, url, **request) as response,
        ):
            status, body = response.status_code, _read(response, tracking_uri)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"the model registry at {tracking_uri} does not answer ({type(error).__name__}: {error}); is it running?",
            retry_after_seconds=5,
        ) from None
    return _answer(tracking_uri, path, request, status, body)


def _read(response: httpx.Response, tracking_uri: str) -> bytes:
    deadline, body = time.monotonic() + ANSWER_SECONDS, bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise Unavailable(
                f"expected an answer of at most {MAX_ANSWER_BYTES} bytes within {ANSWER_SECONDS:g} s from the model "
                f"registry at {tracking_uri}, seen more"
            )
    return bytes(body)


def _answer(tracking_uri: str, path: str, request: Mapping[str, Any], status: int, body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if status == 200 and isinstance(document, dict):
        return document
    raise _error(tracking_uri, path, request, status, document if isinstance(document, dict) else {})


def _error(
    tracking_uri: str, path: str, request: Mapping[str, Any], status: int, document: Mapping[str, Any]
) -> WhimbrelError:
    asked = request.get("params") or request.get("json") or {}
    what = ", ".join(f"{key} {value!r}" for key, value in asked.items() if key != "secret")
    message = str(document.get("message", ""))[:300]
    missing = document.get("error_code") == "RESOURCE_DOES_NOT_EXIST" or (status == 400 and _MISSING.search(message))
    if missing:
        return NotFound(
            f"the model registry at {tracking_uri} has no {what} ({message}); see 'whimbrel model ls'",
            retry_after_seconds=5,
        )
    if status == 400:
        return InputRefused(f"the model registry at {tracking_uri} refused {what}: {message}")
    return Unavailable(
        f"expected a JSON answer with status 200 from the model registry at {tracking_uri} ({path}, {what}), "
        f"seen status {status} {message}",
        retry_after_seconds=5,
    )


def _auth() -> tuple[str, str] | None:
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return None
    return user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")


def _bearer() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
