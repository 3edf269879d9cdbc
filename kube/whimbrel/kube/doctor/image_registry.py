"""Asks registries whether the images that manifests name are there: HEAD of each manifest, nothing is downloaded.

The protocol is the OCI distribution specification's (Docker Registry HTTP API v2), with its token flow: a 401 names
where a token for this one repository is had, without credentials or with those of a pull Secret. From this machine,
which may not reach what the cluster's nodes reach: then that is what it says.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown
from whimbrel.kube.doctor.image_names import Image, Login, is_loopback

_CHECK = "image"
_SECONDS = 5.0
_MOST_IMAGES = 50
_MOST_TOKEN_BYTES = 64 * 1024
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_CHALLENGE = re.compile(r'(?i)([a-z]+)="([^"]*)"')
_PUSH = "push it ('make images', then docker push), or name your registry in manifests/components/images"
_LOG_IN = (
    "if the nodes have no credentials of their own: kubectl create secret docker-registry NAME "
    "--docker-server={registry} ..., and name it in the service account's imagePullSecrets"
)


class _NotUnderstood(Exception):
    """The registry answers something else than the protocol has."""


def image_findings(images: Sequence[Image], logins: Mapping[str, Login]) -> list[Finding]:
    """Whether each can be pulled. Blocking; asks no registry again that did not answer."""
    found: list[Finding] = []
    silent: dict[str, str] = {}
    with httpx.Client(timeout=_SECONDS, follow_redirects=False) as client:
        for image in images[:_MOST_IMAGES]:
            if image.registry not in silent:
                try:
                    found.append(_asked(client, image, logins.get(image.registry)))
                    continue
                except (httpx.HTTPError, httpx.InvalidURL, _NotUnderstood) as error:
                    silent[image.registry] = str(error) or type(error).__name__
    found += _silent(images[:_MOST_IMAGES], silent)
    if len(images) > _MOST_IMAGES:
        found.append(unknown(_CHECK, f"{len(images) - _MOST_IMAGES} more were not looked at"))
    return found


def _silent(images: Sequence[Image], silent: Mapping[str, str]) -> Iterator[Finding]:
    for registry, said in silent.items():
        concerned = ", ".join(str(image) for image in images if image.registry == registry)
        seen = f"{concerned}: the registry does not answer here: {said[:120]}"
        yield unknown(_CHECK, seen, f"look from where the nodes are, or mend the name of the registry {registry}")


def _asked(client: httpx.Client, image: Image, login: Login | None) -> Finding:
    answer = _head(client, image, None)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        authorization = _authorization(client, image, answer.headers.get("www-authenticate", ""), login)
        if authorization is not None:
            answer = _head(client, image, authorization)
    return _judged(image, answer.status_code, with_login=login is not None)


def _judged(image: Image, status: int, *, with_login: bool) -> Finding:
    if status == httpx.codes.OK:
        return ok(_CHECK, str(image))
    if status == httpx.codes.NOT_FOUND:
        return missing(_CHECK, f"{image} is not at its registry", _PUSH)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        remedy = f"{_PUSH}; {_LOG_IN.format(registry=image.registry)}"
        if with_login:
            return missing(_CHECK, f"{image}: refused to the pull Secret ({status}), or not there", remedy)
        return unknown(_CHECK, f"{image}: not to be read without credentials ({status}), or not there", remedy)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return unknown(_CHECK, f"{image}: the registry wants fewer requests (429)", "look again later")
    return unknown(_CHECK, f"{image}: the registry answered {status}")


def _head(client: httpx.Client, image: Image, authorization: str | None) -> httpx.Response:
    headers = {"accept": _MANIFESTS, **({"authorization": authorization} if authorization else {})}
    return client.head(image.url, headers=headers)


def _authorization(client: httpx.Client, image: Image, challenge: str, login: Login | None) -> str | None:
    """What the second request carries; None where only credentials would do, and there are none."""
    scheme, _, rest = challenge.partition(" ")
    asked = {name.lower(): value for name, value in _CHALLENGE.findall(rest)}
    basic = _basic(login) if login is not None else None
    if scheme.lower() == "basic":
        return basic
    if scheme.lower() != "bearer" or "realm" not in asked:
        raise _NotUnderstood(f"expected a challenge for a token, seen {challenge[:60]!r}")
    near = is_loopback(image.registry)
    token = _token(client, asked, f"repository:{image.repository}:pull", basic, near=near)
    return None if token is None else f"Bearer {token}"


def _token(client: httpx.Client, asked: Mapping[str, str], scope: str, basic: str | None, *, near: bool) -> str | None:
    """For reading one repository; None where nobody gets one without credentials, or not with these.

    Without TLS only where the registry is `near`, on loopback itself: none elsewhere has this machine asked.
    """
    realm = httpx.URL(asked["realm"])
    if realm.scheme != "https" and not (realm.scheme == "http" and near and is_loopback(realm.host)):
        raise _NotUnderstood(f"expected tokens over https, seen {realm.scheme}://{realm.host}")
    query = {"scope": scope, **({"service": asked["service"]} if "service" in asked else {})}
    headers = {"authorization": basic} if basic else {}
    with client.stream("GET", realm.copy_merge_params(query), headers=headers) as answer:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return None
        if answer.status_code != httpx.codes.OK:
            raise _NotUnderstood(f"{realm.host} answered {answer.status_code} for a token")
        document = _json(_bounded(answer))
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise _NotUnderstood(f"{realm.host} answered no token")
    return token


def _bounded(answer: httpx.Response) -> bytes:
    content = b""
    for part in answer.iter_bytes():
        content += part
        if len(content) > _MOST_TOKEN_BYTES:
            raise _NotUnderstood(f"expected a token of at most {_MOST_TOKEN_BYTES} bytes, seen more")
    return content


def _basic(login: Login) -> str:
    return "Basic " + b64encode(f"{login.user}:{login.password}".encode()).decode()


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _NotUnderstood("expected a token in JSON, seen none")
    return document
