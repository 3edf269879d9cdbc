"""What manifests say of images: their names as a registry knows them, and the Secrets to pull them by; pure."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from whimbrel.kube.doctor.references import containers
from whimbrel.kube.doctor.snapshot import Object

DOCKER_HUB = "docker.io"
PULL_KEY = ".dockerconfigjson"
_HUB_HOSTS = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Image:
    """`reference` is a tag, or `sha256:...`. `registry` has no scheme."""

    registry: str
    repository: str
    reference: str

    @property
    def url(self) -> str:
        """Of its manifest: over TLS, but on loopback."""
        host = "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry
        return f"{scheme_of(host)}://{host}/v2/{self.repository}/manifests/{self.reference}"

    def __str__(self) -> str:
        mark = "@" if ":" in self.reference else ":"
        return f"{self.registry}/{self.repository}{mark}{self.reference}"


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials of one registry."""

    user: str = field(repr=False)
    password: str = field(repr=False)


def image_of(name: str) -> Image:
    """By the rules of container engines: no host is Docker Hub, no tag is `latest`, a digest goes before a tag."""
    rest, _, digest = name.partition("@")
    first, slash, following = rest.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    registry, path = (first, following) if has_host else (DOCKER_HUB, rest)
    repository, _, tag = path.partition(":")
    if registry in _HUB_HOSTS:
        registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    return Image(registry, repository, digest or tag or "latest")


def images(objects: Sequence[Object]) -> list[Image]:
    """Of every container in them, each once, by name."""
    names = {str(each["image"]) for each in containers(list(objects)) if isinstance(each.get("image"), str)}
    return sorted((image_of(name) for name in names if name), key=str)


def pull_secrets(objects: Sequence[Object]) -> list[str]:
    """The Secrets that pods and ServiceAccounts among the objects name to pull by."""
    return sorted(set(_pull_secrets(list(objects))))


def logins_of(secret: Object) -> dict[str, Login]:
    """By registry, what a Secret of the type kubernetes.io/dockerconfigjson has; nothing for another."""
    try:
        document = json.loads(b64decode((secret.get("data") or {})[PULL_KEY]))
        return {_host_of(address): _login(entry) for address, entry in document["auths"].items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def scheme_of(host: str) -> str:
    return "http" if is_loopback(host) else "https"


def is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _login(entry: Mapping[str, Any]) -> Login:
    if "auth" in entry:
        user, _, password = b64decode(entry["auth"]).decode().partition(":")
        return Login(user, password)
    return Login(str(entry["username"]), str(entry["password"]))


def _host_of(address: str) -> str:
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    return DOCKER_HUB if host in _HUB_HOSTS else host


def _pull_secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name == "imagePullSecrets" and isinstance(each, list):
                yield from (str(entry["name"]) for entry in each if isinstance(entry, Mapping) and entry.get("name"))
            else:
                yield from _pull_secrets(each)
    elif isinstance(value, list):
        for each in value:
            yield from _pull_secrets(each)
