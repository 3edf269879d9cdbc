"""Checks of what is, or is to be, applied in a namespace: settings, Secrets, flags, images, readiness; pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.conditions import why_not_ready
from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown, warning
from whimbrel.kube.doctor.looking import SERVING
from whimbrel.kube.doctor.snapshot import Snapshot
from whimbrel.kube.lint import Severity, lint
from whimbrel.kube.pods import troubles

_NEEDED_SETTINGS = ("WHIMBREL_S3_ENDPOINT", "WHIMBREL_MLFLOW_TRACKING_URI")
_NEEDED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
# Of these the cluster has its own check, or they are about files that are not given here.
_CHECKED_ELSEWHERE = frozenset({"addressable-role", "dangling-reference"})


def settings(found: Snapshot) -> Iterator[Finding]:
    """The ConfigMap with the addresses around, and the Secret with the store's credentials. No value is shown."""
    apply = f"kubectl apply -n {found.namespace} -f manifests/components/cluster/settings.yaml"
    look = found.settings
    if look.state == "denied":
        yield unknown("settings", f"the ConfigMap may not be read: {look.said}")
    elif not look.objects and not _brings(found, "ConfigMap", "whimbrel-settings"):
        yield missing("settings", f"no ConfigMap with the addresses in the namespace {found.namespace}", apply)
    elif look.objects:
        data = look.objects[0].get("data") or {}
        lacking = [name for name in _NEEDED_SETTINGS if not data.get(name)]
        if lacking:
            yield warning("settings", f"without {', '.join(lacking)}", f"{apply}, after adding it there")
        else:
            yield ok("settings", f"{len(data)} settings in {look.objects[0]['metadata']['name']}")
    for name, keys in found.secret_keys.items():
        yield _secret(found, name, keys)


def _secret(found: Snapshot, name: str, keys: frozenset[str] | None) -> Finding:
    check = "credentials"
    remedy = (
        f"kubectl create secret generic {name} -n {found.namespace} "
        "--from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=..."
    )
    if keys is None:
        return unknown(check, f"the Secret {name} may not be read")
    lacking = [key for key in _NEEDED_KEYS if key not in keys]
    if lacking:
        return missing(check, f"Secret {name} has no {', '.join(lacking)}" if keys else f"no Secret {name}", remedy)
    return ok(check, f"Secret {name} has {', '.join(_NEEDED_KEYS)}")


def flags(found: Snapshot) -> Iterator[Finding]:
    """What lint finds in what is to be applied, with the flags that this cluster has."""
    if not found.wanted:
        return
    config = found.config(SERVING, "config-features")
    enabled = {name for name, value in config.items() if value.lower() in ("enabled", "allowed")}
    documents = [Rendered(Path("manifests"), dict(each)) for each in found.wanted]
    faults = [each for each in lint(documents, features=enabled) if each.rule not in _CHECKED_ELSEWHERE]
    for each in faults:
        make = missing if each.severity is Severity.ERROR else warning
        yield make("manifests", f"{each.kind} {each.name}: {each.path}: {each.seen}: {each.about}", each.remedy)
    if not faults:
        yield ok("manifests", f"{len(documents)} objects, and the flags that they need are enabled")


def images(found: Snapshot) -> Iterator[Finding]:
    """Whether the images could be pulled, as the pods tell."""
    if found.pods.state == "denied":
        yield unknown("image pull", f"pods may not be read: {found.pods.said}")
        return
    failing = [line for line in troubles(found.pods.objects) if any(reason in line for reason in _PULLING)]
    for line in failing:
        yield missing(
            "image pull",
            line,
            "push the image ('make images'), name its registry in manifests/components/images, or give the service "
            "account an imagePullSecret",
        )
    if found.pods.objects and not failing:
        yield ok("image pull", f"no pod of {len(found.pods.objects)} waits for its image")


def readiness(found: Snapshot) -> Iterator[Finding]:
    """Whether what is there is Ready, and if not, why."""
    looks = (found.inference_services, found.services, found.brokers, found.triggers, found.sources)
    resources = list(itertools.chain.from_iterable(each.objects for each in looks))
    waiting = [(each, reason) for each in resources if (reason := why_not_ready(each)) is not None]
    for each, reason in waiting:
        name = f"{str(each['kind']).lower()}/{each['metadata']['name']}"
        yield missing("readiness", f"{name}: {reason}", f"whimbrel describe {name} -n {found.namespace}")
    for line in troubles(found.pods.objects):
        if not any(reason in line for reason in _PULLING):
            yield warning("pods", line, f"kubectl logs -n {found.namespace} {line.split()[1].rstrip(',')} --previous")
    if resources and not waiting:
        yield ok("readiness", f"{len(resources)} resources in {found.namespace} are Ready")
    if not resources and not found.wanted:
        yield warning(
            "readiness",
            f"nothing of this project in {found.namespace}",
            "whimbrel apply -k manifests/overlays/knative-cpu",
        )


def _brings(found: Snapshot, kind: str, name: str) -> bool:
    """Whether it is among what is to be applied."""
    return any(each.get("kind") == kind and each["metadata"]["name"] == name for each in found.wanted)


def variables(found: Snapshot) -> Mapping[str, str]:
    """Every plain environment variable of what runs or is to be applied: the buckets are named there."""
    looks = (*found.wanted, *found.inference_services.objects, *found.services.objects)
    return dict(entry for each in looks for entry in _variables(each))


def _variables(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for entry in value.get("env") or ():
            if isinstance(entry, Mapping) and isinstance(entry.get("value"), str):
                yield str(entry.get("name")), entry["value"]
        for each in value.values():
            yield from _variables(each)
    elif isinstance(value, list):
        for each in value:
            yield from _variables(each)
