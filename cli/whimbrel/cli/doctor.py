"""`whimbrel doctor`: what a cluster, or the engine, has and lacks, each with the command that mends it."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli.cluster import Context, Kubeconfig, Namespace, cluster, run
from whimbrel.cli.console import Output, add_rows, out, print_json, table
from whimbrel.cli.manifests import Files, Kustomizations, read_objects
from whimbrel.cli.options import DEAD_LETTERS, DEFAULT_STATE, PHOTOS, RESULTS, OutputFormat, State
from whimbrel.core.errors import WhimbrelError
from whimbrel.core.logs import redact
from whimbrel.kube.client import Client
from whimbrel.kube.doctor import Finding, judge, look
from whimbrel.kube.doctor import State as Outcome
from whimbrel.kube.doctor.around import Buckets, registry, store
from whimbrel.kube.doctor.image_names import Login, images, logins_of, pull_secrets
from whimbrel.kube.doctor.image_registry import image_findings
from whimbrel.kube.doctor.references import credentials_name, settings_name, variables
from whimbrel.kube.doctor.snapshot import Snapshot
from whimbrel.kube.function import is_embedded_store
from whimbrel.kube.kinds import SECRET

_KEY_ID, _KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


def doctor(
    file: Files = None,
    kustomize: Kustomizations = None,
    namespace: Namespace = None,
    bucket: Annotated[
        str | None, typer.Option(help="bucket of the objects; default: that of a function file, photos")
    ] = None,
    settings: Annotated[
        str | None, typer.Option(help="ConfigMap with the addresses; default: what -k or -f name, whimbrel-settings")
    ] = None,
    credentials: Annotated[
        str | None, typer.Option(help="Secret with the store's credentials; default: likewise, whimbrel-s3")
    ] = None,
    output: OutputFormat = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Say what is there and what is missing, each with the command that mends it. Reads only.

    With -k or -f also whether the cluster has what those manifests need. Ends with 1 when something is missing.
    """
    found = read_objects(file or [], kustomize or []) if file or kustomize else []
    wanted = [each for each in found if not is_embedded_store(each)]
    names = (settings or settings_name(wanted), credentials or credentials_name(wanted))
    photos = bucket or next((_input_bucket(each) for each in found if is_embedded_store(each)), PHOTOS)
    findings = run(_doctor(wanted, namespace, photos, names, kubeconfig, context, state))
    shown = [Finding(each.check, each.state, redact(each.seen), each.remedy) for each in findings]
    if output is Output.JSON:
        print_json([asdict(each) for each in shown])
    else:
        _print(shown)
    if any(each.state is Outcome.MISSING for each in shown):
        raise typer.Exit(1)


async def _doctor(
    wanted: Sequence[Mapping[str, Any]],
    namespace: str | None,
    bucket: str,
    names: tuple[str, str],
    kubeconfig: str | None,
    context: str | None,
    state: Path,
) -> list[Finding]:
    async with cluster(kubeconfig, context, state) as client:
        within = namespace or client.namespace
        settings, credentials = names
        snapshot = await look(client, within, settings=settings, credentials=credentials, wanted=wanted)
        keys = await _credentials(client, credentials, within)
        logins = await _logins(client, snapshot, within)
    data = snapshot.settings.objects[0].get("data") or {} if snapshot.settings.objects else {}
    named = [] if snapshot.is_one_machine else images(snapshot.concerned)  # there, processes run without images
    around = await asyncio.gather(
        asyncio.to_thread(image_findings, named, logins),
        asyncio.to_thread(store, data, _buckets(snapshot, bucket), keys),
        asyncio.to_thread(registry, data),
    )
    return [*judge(snapshot), *(finding for each in around for finding in each)]


async def _credentials(client: Client, name: str, namespace: str) -> tuple[str, str] | None:
    """The store's, for the few requests that look at it; None leaves it to this process's own."""
    try:
        data = (await client.get(SECRET, name, namespace)).get("data") or {}
        return b64decode(data[_KEY_ID]).decode(), b64decode(data[_KEY]).decode()
    except (WhimbrelError, KeyError, ValueError):
        return None


async def _logins(client: Client, snapshot: Snapshot, namespace: str) -> dict[str, Login]:
    """Of the Secrets that images are pulled by; nothing of those that may not be read."""
    found: dict[str, Login] = {}
    for name in pull_secrets((*snapshot.concerned, *snapshot.service_accounts.objects)):
        with contextlib.suppress(WhimbrelError):
            found |= logins_of(await client.get(SECRET, name, namespace))
    return found


def _input_bucket(store: Mapping[str, Any]) -> str:
    """The first of those that a function file has the engine make."""
    return str(store["data"]["buckets"]).split()[0]


def _buckets(snapshot: Snapshot, photos: str) -> Buckets:
    # What is to be applied goes before what is there.
    named = variables([*snapshot.services.objects, *snapshot.wanted])
    results = named.get("WHIMBREL_RESULTS_BUCKET", RESULTS)
    return Buckets(photos, results, named.get("WHIMBREL_DEAD_LETTERS_BUCKET", DEAD_LETTERS))


def _print(found: Sequence[Finding]) -> None:
    shown = table("", "CHECK", "SEEN", "WHAT TO DO")
    add_rows(shown, ((each.state.value, each.check, each.seen, each.remedy) for each in found))
    out.print(shown)
    missing = sum(each.state is Outcome.MISSING for each in found)
    out.print(f"\n{len(found)} checks, {missing} missing")
