"""Read, list, apply, patch, delete and watch the objects of a cluster, or of the one-machine engine.

    async with client(kubeconfig) as cluster:
        await cluster.apply(manifest)
        await cluster.patch(INFERENCE_SERVICE, "digits", "default", with_canary(20))

Asynchronous only, like the library below it. An object is the dictionary that the server wrote.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.kube.answers import Conflict, Gone
from whimbrel.kube.kinds import Kind, discovered, known_kind
from whimbrel.kube.merging import merge_patch

if TYPE_CHECKING:
    from whimbrel.kube.connection import Answer, Connection

FIELD_MANAGER = "whimbrel"
PAGE = 500
PATCH_ATTEMPTS = 8
_LIST_ATTEMPTS = 3
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind as they were at one `resource_version`."""

    objects: tuple[Object, ...]
    resource_version: str


class Client:
    """The operations on one API server. Made by `client()`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._discovered: dict[tuple[str, str], Kind] = {}

    @property
    def namespace(self) -> str:
        return self.connection.namespace

    async def is_one_machine(self) -> bool:
        """Whether it is the engine of `whimbrel up`."""
        version = await self.connection.read_path("version", doing="expected the server's version")
        return "whimbrel" in str(version.get("gitVersion"))

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """Raises NotFound (no such object, or no such kind), Forbidden, Unavailable."""
        doing = f"expected {_named(kind, name, namespace)}"
        return (await self._request("GET", kind, name, namespace, doing=doing)).document

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """None where there is none."""
        try:
            return await self.get(kind, name, namespace)
        except NotFound:
            return None

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Listed:
        """Page by page. Without a namespace those of all. An empty list also where the kind has no objects.

        Raises NotFound where the server does not know the kind.
        """
        wanted = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        parameters = {name: value for name, value in wanted.items() if value}
        for _ in range(_LIST_ATTEMPTS):
            try:
                return await self._pages(kind, namespace, parameters)
            except Gone:
                continue  # the list changed too much between two pages
        raise Unavailable(f"expected to list {kind.plural}; they changed too fast, {_LIST_ATTEMPTS} times")

    async def apply(self, found: Mapping[str, Any], *, force: bool = False, dry_run: bool = False) -> Answer:
        """Server-side apply by our field manager; an unknown or a repeated field is refused.

        Raises Conflict when another manager owns a field that is set to another value, unless `force`; InputRefused
        for what the server does not take.
        """
        kind = await self.kind_of(found)
        name, namespace = found["metadata"]["name"], self._namespace_of(found, kind)
        parameters = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        parameters |= {"force": "true"} if force else {}
        parameters |= {"dryRun": "All"} if dry_run else {}
        return await self._request(
            *("PATCH", kind, name, namespace),
            doing=f"expected to apply {_named(kind, name, namespace)}",
            parameters=parameters,
            body=found,
            content_type=_APPLY,
        )

    async def create(self, found: Mapping[str, Any]) -> Object:
        """Raises Conflict where it exists."""
        kind = await self.kind_of(found)
        namespace = self._namespace_of(found, kind)
        doing = f"expected to create {_named(kind, found['metadata'].get('name', ''), namespace)}"
        parameters = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        answer = await self._request("POST", kind, "", namespace, doing=doing, parameters=parameters, body=found)
        return answer.document

    async def patch(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        change: Callable[[Object], Object | None],
        *,
        subresource: str = "",
    ) -> Object:
        """Change an object by a pure function of what it is, whoever else changes it meanwhile.

        `change` gets a copy and answers what the object shall be (None: leave it). It runs again on each 409. The
        patch carries the resource version that it was made from. Raises Conflict after PATCH_ATTEMPTS.
        """
        path = "/".join(part for part in (name, subresource) if part)
        doing = f"expected to patch {_named(kind, name, namespace)}"
        for attempt in range(1, PATCH_ATTEMPTS + 1):
            before = await self.get(kind, name, namespace)
            wanted = change(copy.deepcopy(before))
            patch = {} if wanted is None else merge_patch(before, wanted)
            if not patch:
                return before
            version = before["metadata"]["resourceVersion"]
            patch["metadata"] = {**(patch.get("metadata") or {}), "resourceVersion": version}
            try:
                answer = await self._request(
                    *("PATCH", kind, path, namespace),
                    doing=doing,
                    parameters={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
                    body=patch,
                    content_type=_MERGE,
                )
            except Conflict:
                if attempt == PATCH_ATTEMPTS:
                    raise
            else:
                return answer.document
        raise AssertionError("unreachable")

    async def patch_exactly(self, kind: Kind, before: Object, operations: Sequence[Mapping[str, Any]]) -> Object:
        """Apply a JSON patch (RFC 6902) to the object `before` and to no later one.

        Raises Conflict where somebody has changed it, so that whoever decided looks again; InputRefused for what the
        server does not take.
        """
        metadata = before["metadata"]
        name, namespace, version = metadata["name"], metadata.get("namespace"), metadata["resourceVersion"]
        unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        doing = f"expected to patch {_named(kind, name, namespace)}"
        try:
            answer = await self._request(
                *("PATCH", kind, name, namespace),
                doing=doing,
                parameters={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
                body=[unchanged, *operations],
                content_type=_JSON_PATCH,
            )
        except InputRefused:  # a failed test and an invalid outcome are one status to Kubernetes
            now = await self.get(kind, name, namespace)
            if now["metadata"]["resourceVersion"] == version:
                raise
            raise Conflict(f"{doing} as it was read; somebody has changed it") from None
        return answer.document

    async def delete(self, kind: Kind, name: str, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """With everything that it owns, first of all. Raises NotFound where there is none."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        options |= {"dryRun": ["All"]} if dry_run else {}
        doing = f"expected to delete {_named(kind, name, namespace)}"
        return (await self._request("DELETE", kind, name, namespace, doing=doing, body=options)).document

    async def kind_of(self, found: Mapping[str, Any]) -> Kind:
        """Of an object of any kind that the server has. Raises NotFound for another kind."""
        _refuse_shapeless(found)
        known = known_kind(found)
        if known is not None:
            return known
        version, kind = found["apiVersion"], found["kind"]
        if (version, kind) not in self._discovered:
            path = f"api{'s' if '/' in version else ''}/{version}"
            doing = f"expected the API server to know {kind} ({version})"
            listing = await self.connection.read_path(path, doing=doing)
            place = discovered(version, kind, listing)
            if place is None:
                raise NotFound(f"{doing}; it does not: is what brings that kind installed? See 'whimbrel doctor'")
            self._discovered[version, kind] = place
        return self._discovered[version, kind]

    def _namespace_of(self, found: Mapping[str, Any], kind: Kind) -> str | None:
        return (found["metadata"].get("namespace") or self.namespace) if kind.namespaced else None

    async def _pages(self, kind: Kind, namespace: str | None, parameters: dict[str, str]) -> Listed:
        doing = f"expected to list {kind.plural}" + (f" in the namespace {namespace!r}" if namespace else "")
        objects: list[Object] = []
        following: dict[str, str] = {}
        while True:
            answer = await self._request("GET", kind, "", namespace, doing=doing, parameters=parameters | following)
            # The items of a list do not say what they are.
            identity = {"apiVersion": kind.api_version, "kind": kind.kind}
            objects += [{**identity, **item} for item in answer.document.get("items") or ()]
            metadata = answer.document.get("metadata") or {}
            if not metadata.get("continue"):
                return Listed(tuple(objects), str(metadata.get("resourceVersion", "")))
            following = {"continue": metadata["continue"]}

    async def _request(
        self, method: str, kind: Kind, name: str, namespace: str | None, *, doing: str, **options: Any
    ) -> Answer:
        path = f"{kind.plural}/{name}" if name else kind.plural
        within = namespace if kind.namespaced else None
        return await self.connection.request(method, kind, path, within, doing=doing, **options)


@asynccontextmanager
async def client(kubeconfig: str | None = None, context: str | None = None) -> AsyncIterator[Client]:
    """Raises what `whimbrel.kube.connection.connect` raises."""
    from whimbrel.kube.connection import connect  # kr8s takes a quarter of a second to import

    async with connect(kubeconfig, context) as connection:
        yield Client(connection)


def placed(found: Mapping[str, Any], kind: Kind, namespace: str | None) -> Object:
    """The object with `namespace` in it, where its kind has one. Raises InputRefused where it says another itself."""
    metadata = found["metadata"]
    own = metadata.get("namespace")
    if not kind.namespaced or namespace is None or own == namespace:
        return dict(found)
    if own is not None:
        raise InputRefused(
            f"expected {kind.kind} {metadata['name']!r} in the namespace {namespace!r}, seen {own!r} in it"
        )
    return {**found, "metadata": {**metadata, "namespace": namespace}}


def _refuse_shapeless(found: Mapping[str, Any]) -> None:
    metadata = found.get("metadata")
    if not found.get("apiVersion") or not found.get("kind") or not isinstance(metadata, Mapping):
        raise InputRefused(f"expected an object with apiVersion, kind and metadata.name, seen {str(found)[:120]}")


def _named(kind: Kind, name: str, namespace: str | None) -> str:
    return f"{kind.title} {name!r}" + (f" in the namespace {namespace!r}" if namespace and kind.namespaced else "")
