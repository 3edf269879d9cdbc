"""The verbs on objects: create, get, list, update, patch, apply and delete, from a request read to its answer's body.

Blocking: the application runs each on a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from whimbrel.local.api import admission, ownership, patches, tables
from whimbrel.local.api.faults import BadRequest, Gone, MethodNotAllowed, NotFound, not_found
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.options import DeleteOptions, ListOptions, WriteOptions, continuation
from whimbrel.local.api.paths import Target
from whimbrel.local.api.scale import scale_of, with_scale
from whimbrel.local.api.storage import Storage
from whimbrel.local.api.tables import Form


@dataclass(frozen=True, slots=True)
class Answer:
    body: Object
    status: int = 200
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """Objects as users read and write them: judged, and with an owner for each field."""

    storage: Storage
    judge: admission.Judge

    def get(self, target: Target, form: Form) -> Answer:
        found = self.storage.get(target.kind, target.namespace, _name(target))
        return Answer(tables.one(target.kind, form, found))

    def list(self, target: Target, form: Form, options: ListOptions) -> Answer:
        if options.at_version is not None and options.at_version > self.storage.version:
            raise Gone("the continue token is of another life of this server; list again from the start")
        page = self.storage.page(
            target.kind, target.namespace, options.selector, limit=options.limit, after=options.after
        )
        # Later pages keep the version of the first, so that a watch from it misses nothing.
        version = page.version if options.at_version is None else options.at_version
        metadata: Object = {"resourceVersion": str(version)}
        if page.after is not None:
            metadata["continue"] = continuation(version, page.after)
        return Answer(tables.many(target.kind, form, page.items, metadata))

    def create(self, target: Target, form: Form, given: Object, options: WriteOptions) -> Answer:
        if target.name is not None or (target.kind.namespaced and target.namespace is None):
            raise MethodNotAllowed("expected a POST to the collection of one namespace, seen another path")
        placed = _placed(target, given)
        accepted, warnings = admission.admitted(target.kind, placed, options.validation, self.judge)
        owned = ownership.tracked(None, accepted, options.field_manager)
        created = self.storage.create(target.kind, owned, dry_run=options.dry_run)
        return Answer(tables.one(target.kind, form, created), 201, _told(target, created, warnings))

    def replace(self, target: Target, form: Form, given: Object, options: WriteOptions) -> Answer:
        placed = _placed(target, given)
        return self._change(target, form, options, lambda _: placed)

    def patch(self, target: Target, form: Form, kind_of_patch: str, patch: Any, options: WriteOptions) -> Answer:
        def change(found: Object) -> Object:
            return _placed(target, patches.applied(target.kind, kind_of_patch, found, patch))

        return self._change(target, form, options, change)

    def apply(self, target: Target, form: Form, config: Object, options: WriteOptions) -> Answer:
        """Server-side apply: creates the object where it is missing."""
        placed = _placed(target, config)
        if "managedFields" in placed["metadata"]:
            raise BadRequest("metadata.managedFields must be nil in what is applied")
        placed = admission.plain(target.kind, placed)
        manager, part = options.field_manager, target.subresource or ""

        def change(found: Object) -> Object:
            return ownership.applied(found, placed, manager, subresource=part, force=options.force)

        try:
            return self._change(target, form, options, change, owned=True)
        except NotFound:
            if target.subresource is not None:
                raise
        accepted, warnings = admission.admitted(target.kind, placed, options.validation, self.judge)
        new = ownership.applied(None, accepted, manager, force=options.force)
        created = self.storage.create(target.kind, new, dry_run=options.dry_run)
        return Answer(tables.one(target.kind, form, created), 201, _told(target, created, warnings))

    def scale(self, target: Target) -> Answer:
        found = self.storage.get(target.kind, target.namespace, target.name or "")
        return Answer(scale_of(found))

    def rescale(self, target: Target, change: Callable[[Object], Object], options: WriteOptions) -> Answer:
        """`change` makes the wanted Scale of the present one."""
        whole = replace(target, subresource=None)
        changed = self._change(whole, Form(), options, lambda found: with_scale(found, change(scale_of(found))))
        return replace(changed, body=scale_of(changed.body))

    def delete(self, target: Target, options: DeleteOptions) -> Answer:
        name = _name(target)
        left = self.storage.delete(
            target.kind,
            target.namespace,
            name,
            preconditions=options.preconditions,
            propagation=options.propagation,
            dry_run=options.dry_run,
        )
        if left is not None:
            return Answer(left)
        details = {"name": name, "group": target.kind.group, "kind": target.kind.plural}
        return Answer(_success(details))

    def delete_all(self, target: Target, selected: ListOptions, options: DeleteOptions) -> Answer:
        for found in self.storage.list(target.kind, target.namespace, selected.selector):
            metadata = found["metadata"]
            one = Target(target.kind, metadata.get("namespace"), metadata["name"])
            try:
                self.delete(one, options)
            except NotFound:
                continue  # gone with its owner
        return Answer(_success({"group": target.kind.group, "kind": target.kind.plural}))

    def _change(
        self,
        target: Target,
        form: Form,
        options: WriteOptions,
        change: Callable[[Object], Object],
        *,
        owned: bool = False,
    ) -> Answer:
        """Judged on what the change makes of the whole object; `owned`: who owns its fields is settled already."""
        warnings: list[str] = []

        def judged(found: Object) -> Object:
            new = change(found)
            if target.subresource is None:
                new, told = admission.admitted(target.kind, new, options.validation, self.judge)
                warnings[:] = told
            part = target.subresource or ""
            return new if owned else ownership.tracked(found, new, options.field_manager, subresource=part)

        stored = self.storage.modify(
            target.kind,
            target.namespace,
            _name(target),
            judged,
            subresource=target.subresource,
            dry_run=options.dry_run,
        )
        return Answer(tables.one(target.kind, form, stored), 200, _told(target, stored, warnings))


def _told(target: Target, found: Object, warnings: list[str]) -> tuple[str, ...]:
    """Each with the object that it is about: kubectl prints them among those of others."""
    return tuple(f"{target.kind.kind} {found['metadata']['name']!r}: {warning}" for warning in warnings)


def _name(target: Target) -> str:
    if target.name is None:
        raise MethodNotAllowed(f"expected the path of one object of {target.kind.resource}, seen that of all")
    if target.subresource not in (None, "status") or (target.subresource and not target.kind.has_status):
        raise not_found(target.kind, f"{target.name}/{target.subresource}")
    return target.name


def _placed(target: Target, given: Any) -> Object:
    """An object that agrees with the path it was sent to. Raises BadRequest."""
    kind = target.kind
    if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
        raise BadRequest(f"expected an object of kind {kind.kind}")
    for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        if given.get(field, expected) != expected:
            raise BadRequest(f"{field}: expected {expected} at this path, seen {given[field]!r:.80}")
    metadata = dict(given.get("metadata", {}))
    wanted: Mapping[str, str | None] = {"name": target.name, "namespace": target.namespace}
    for field, value in wanted.items():
        seen = metadata.get(field)
        if value is not None and seen not in (None, "", value):
            raise BadRequest(f"metadata.{field}: expected {value} as in the path, seen {seen!r:.80}")
        if value is not None:
            metadata[field] = value
    return {"apiVersion": kind.api_version, "kind": kind.kind, **given, "metadata": metadata}


def _success(details: Object) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
