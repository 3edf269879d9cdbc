"""Checks of what is, or is to be, applied in a namespace: settings, Secrets, flags, images, readiness; pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.conditions import why_not_ready
from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown, warning
from whimbrel.kube.doctor.looking import SERVING
from whimbrel.kube.doctor.references import settings_name
from whimbrel.kube.doctor.snapshot import Look, Snapshot
from whimbrel.kube.lint import Severity, lint
from whimbrel.kube.pods import troubles

_NEEDED_SETTINGS = ("WHIMBREL_S3_ENDPOINT", "WHIMBREL_MLFLOW_TRACKING_URI")
_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
# Of these the cluster has its own check, or they are about files that are not given here.
_CHECKED_ELSEWHERE = frozenset({"addressable-role", "dangling-reference"})


def settings(found: Snapshot) -> Iterator[Finding]:
    """The ConfigMap with the addresses around, and the Secret with the store's credentials. No value is shown."""
    apply = f"kubectl apply -n {found.namespace} -f manifests/components/cluster/settings.yaml"
    look = found.settings
    if look.state == "denied":
        yield unknown("settings", f"the ConfigMap may not be read: {look.said}")
    elif not look.objects and not _brings(found, "ConfigMap", settings_name(found.wanted)):
        yield missing("settings", f"no ConfigMap with the addresses in the namespace {found.namespace}", apply)
    elif look.objects:
        data = look.objects[0].get("data") or {}
        lacking = [name for name in _NEEDED_SETTINGS if not data.get(name)]
        if lacking:
            yield warning("settings", f"without {', '.join(lacking)}", f"{apply}, after adding it there")
        else:
            yield ok("settings", f"{len(data)} settings in {look.objects[0]['metadata']['name']}")
    for name, secret in found.secrets.items():
        yield _secret(found, name, secret)


def _secret(found: Snapshot, name: str, look: Look) -> Finding:
    asked = sorted(found.needed_keys.get(name, ()))
    literals = "".join(f" --from-literal={key}=..." for key in asked)
    remedy = f"kubectl create secret generic {name} -n {found.namespace}{literals}"
    if look.state == "denied":
        return unknown("credentials", f"the Secret {name} may not be read")
    if not look.objects:
        if _brings(found, "Secret", name):
            return ok("credentials", f"Secret {name} is among the manifests")
        return missing("credentials", f"no Secret {name}", remedy)
    lacking = [key for key in asked if key not in look.objects[0]["data"]]
    if lacking:
        return missing("credentials", f"Secret {name} has no {', '.join(lacking)}", remedy)
    return ok("credentials", f"Secret {name}" + (f" has {', '.join(asked)}" if asked else ""))


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
