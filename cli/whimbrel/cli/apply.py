"""`whimbrel apply` and `whimbrel delete`: manifests and function files, to a cluster or to the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, cluster, parse_resource, resource_name, run
from whimbrel.cli.console import progress_out, say
from whimbrel.cli.manifests import Files, Kustomizations, read_objects
from whimbrel.cli.options import DEFAULT_STATE, State
from whimbrel.cli.readiness import wait_applied, wait_gone
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.kube.answers import Conflict
from whimbrel.kube.client import Client, placed
from whimbrel.kube.function import is_embedded_store
from whimbrel.kube.kinds import Kind, in_order

Wait = Annotated[
    float, typer.Option("--wait", min=0, max=7200, help="seconds to wait until all is Ready; 0: do not wait")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="let the API server check everything, change nothing")]

Object = dict[str, Any]
Named = tuple[Kind, str, str | None]


def apply(
    file: Files = None,
    kustomize: Kustomizations = None,
    namespace: Namespace = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="take fields over that another tool has set")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Apply manifests, kustomizations and function files. Safe to repeat: what is the same stays.

    Everything that the server refuses is named; the others are applied nevertheless, and the command ends with 1.
    """
    objects = in_order(read_objects(file or [], kustomize or []))
    run(_apply([dict(each) for each in objects], namespace, wait, dry_run, force_conflicts, kubeconfig, context, state))


async def _apply(
    objects: list[Object],
    namespace: str | None,
    wait: float,
    dry_run: bool,
    force: bool,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> None:
    async with cluster(kubeconfig, context, state) as client:
        objects = await fitting(client, objects)
        # First all kinds: nothing is applied of what cannot be applied whole.
        kinds = [await client.kind_of(each) for each in objects]
        found = [placed(each, kind, namespace) for each, kind in zip(objects, kinds, strict=True)]
        applied: list[tuple[Named, Object | None]] = []
        failed = 0
        for each, kind in zip(found, kinds, strict=True):
            outcome = await _apply_one(client, each, kind, force=force, dry_run=dry_run)
            failed += outcome is None
            applied += [outcome] if outcome else []
        if failed:
            raise typer.Exit(1)
        if wait and not dry_run:
            await wait_applied(client, applied, wait)


async def _apply_one(
    client: Client, found: Object, kind: Kind, *, force: bool, dry_run: bool
) -> tuple[Named, Object | None] | None:
    """Which it is, and how it was where this changed it; None where the server refused it."""
    name, namespace = found["metadata"]["name"], found["metadata"].get("namespace") or client.namespace
    before = await client.find(kind, name, namespace)
    try:
        answer = await client.apply(found, force=force, dry_run=dry_run)
    except (InputRefused, Conflict) as error:
        remedy = "; --force-conflicts takes the fields over" if isinstance(error, Conflict) else ""
        progress_out.print(f"{error}{remedy}", markup=False, soft_wrap=True, style="red")
        return None
    say(f"{resource_name(kind, name)} {_what_happened(before, answer.document)}{' (dry run)' if dry_run else ''}")
    is_changed = _is_changed(before, answer.document)
    for warning in answer.warnings if is_changed else ():
        progress_out.print(f"warning: {warning}", markup=False, soft_wrap=True, style="yellow")
    return (kind, name, namespace if kind.namespaced else None), before if is_changed else None


def delete(
    resources: Annotated[list[str] | None, typer.Argument(help="KIND/NAME, such as isvc/digits")] = None,
    file: Files = None,
    kustomize: Kustomizations = None,
    namespace: Namespace = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, max=7200, help="seconds to wait until all is gone; 0: do not wait")
    ] = 60,
    dry_run: DryRun = False,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="what is not there is no error")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Delete resources by name, or those that manifests and function files describe.

    Objects, results and dead letters in the buckets stay. Ends with 1 when one was not there.
    """
    if bool(resources) == bool(file or kustomize):
        raise InputRefused("expected resources, or -f and -k, one of the two; see 'whimbrel delete --help'")
    named = [parse_resource(each) for each in resources or []]
    objects = (
        [dict(each) for each in reversed(in_order(read_objects(file or [], kustomize or [])))] if not named else []
    )
    run(_delete(named, objects, namespace, wait, dry_run, ignore_not_found, kubeconfig, context, state))


async def _delete(
    named: list[tuple[Kind, str]],
    objects: list[Object],
    namespace: str | None,
    wait: float,
    dry_run: bool,
    ignore_not_found: bool,
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> None:
    async with cluster(kubeconfig, context, state) as client:
        within = namespace or client.namespace
        wanted = [(kind, name, within if kind.namespaced else None) for kind, name in named]
        wanted += [await _place(client, each, namespace) for each in await fitting(client, objects)]
        missing = [each for each in wanted if not await _delete_one(client, each, dry_run, quiet=ignore_not_found)]
        if wait and not dry_run:
            await wait_gone(client, wanted, wait)
        if missing and not ignore_not_found:
            raise typer.Exit(1)


async def _place(client: Client, found: Object, namespace: str | None) -> Named:
    kind = await client.kind_of(found)
    own = placed(found, kind, namespace)["metadata"].get("namespace") or client.namespace
    return kind, found["metadata"]["name"], own if kind.namespaced else None


async def _delete_one(client: Client, place: Named, dry_run: bool, *, quiet: bool) -> bool:
    """Whether it was there."""
    kind, name, namespace = place
    try:
        await client.delete(kind, name, namespace, dry_run=dry_run)
    except NotFound as error:
        if not quiet:
            progress_out.print(str(error), markup=False, soft_wrap=True)
        return False
    say(f"{resource_name(kind, name)} deleted{' (dry run)' if dry_run else ''}")
    return True


async def fitting(client: Client, objects: list[Object]) -> list[Object]:
    """Without what is the one-machine engine's alone, where it is none."""
    if not any(is_embedded_store(each) for each in objects) or await client.is_one_machine():
        return objects
    return [each for each in objects if not is_embedded_store(each)]


def _what_happened(before: Object | None, after: Object) -> str:
    if before is None:
        return "created"
    return "configured" if _is_changed(before, after) else "unchanged"


def _is_changed(before: Object | None, after: Object) -> bool:
    """By what the user wrote: a controller may have written the status in between."""
    if before is None:
        return True
    return _written(before) != _written(after)


def _written(found: Object) -> Object:
    metadata = {name: found["metadata"].get(name) for name in ("labels", "annotations")}
    return {name: value for name, value in found.items() if name not in ("status", "metadata")} | {"metadata": metadata}
