"""Checks of what is installed: KServe, Knative Serving and Eventing, a networking layer, a broker's class; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown, warning
from whimbrel.kube.doctor.looking import EVENTING, KSERVE, SERVING
from whimbrel.kube.doctor.snapshot import Look, Snapshot

# What the manifests were seen to work on.
SEEN_WORKING = {KSERVE: "0.20", SERVING: "1.23", EVENTING: "1.22"}
RELEASES = "https://github.com/{repository}/releases/download/{tag}/{file}"
_INSTALL = {
    KSERVE: ("kserve/kserve", "v0.20.0", ("kserve.yaml",)),
    SERVING: ("knative/serving", "knative-v1.23.0", ("serving-crds.yaml", "serving-core.yaml")),
    EVENTING: ("knative/eventing", "knative-v1.22.2", ("eventing-crds.yaml", "eventing-core.yaml")),
}
_NAMES = {KSERVE: "KServe", SERVING: "Knative Serving", EVENTING: "Knative Eventing"}
_NEEDED = {
    KSERVE: ("serving.kserve.io/v1beta1", {"InferenceService"}),
    SERVING: ("serving.knative.dev/v1", {"Service", "Revision"}),
    EVENTING: ("eventing.knative.dev/v1", {"Broker", "Trigger"}),
}
_CONTROLLER_OF_CLASS = {
    "MTChannelBasedBroker": "mt-broker-controller",
    "Kafka": "kafka-controller",
    "RabbitMQBroker": "rabbitmq-broker-controller",
}
_CLASS = "eventing.knative.dev/broker.class"


def installations(found: Snapshot) -> Iterator[Finding]:
    """KServe, Knative Serving, Knative Eventing: whether they are there, which version, and whether they run."""
    for place, (group, kinds) in _NEEDED.items():
        check, lacking = _NAMES[place], kinds - found.kinds.get(group, frozenset())
        if lacking and not (place == SERVING and is_standard(found)):
            yield missing(check, f"{group} has no {', '.join(sorted(lacking))}", _install(place))
        elif found.is_one_machine:
            yield ok(check, "played by the one-machine engine")
        elif not lacking:
            yield from _running(found, place)
    if "ContainerSource" not in found.kinds.get("sources.knative.dev/v1", frozenset()):
        yield missing("Knative sources", "no ContainerSource", _install(EVENTING))


def _running(found: Snapshot, place: str) -> Iterator[Finding]:
    check, look = _NAMES[place], found.deployments.get(place, Look())
    if look.state == "denied":
        yield unknown(check, f"installed; its version may not be read: {look.said}")
        return
    version, down = found.version_of(place), _not_available(look)
    if not look.objects:
        yield warning(check, f"installed, but not in the namespace {place}: its version is not known", "")
    elif down:
        pods = f"kubectl get pods -n {place}"
        yield missing(check, f"{version or 'a version unknown'}, not available: {', '.join(down)}", pods)
    elif not any(character.isdigit() for character in version):
        yield ok(check, "available; its version is not told")
    elif _minor(version) < _minor(SEEN_WORKING[place]):
        seen = f"{version}, older than {SEEN_WORKING[place]}, which this was tried with"
        yield warning(check, seen, _install(place))
    else:
        yield ok(check, version)


def networking(found: Snapshot) -> Iterator[Finding]:
    """Who brings requests to Knative's services."""
    if found.is_one_machine or not found.kinds.get("serving.knative.dev/v1"):
        return
    config = found.config(SERVING, "config-network")
    chosen = config.get("ingress-class") or config.get("ingress.class")
    if chosen:
        yield ok("networking layer", chosen)
    else:
        remedy = (
            "kubectl patch configmap config-network -n knative-serving --type merge "
            """-p '{"data":{"ingress-class":"kourier.ingress.networking.knative.dev"}}' (after installing Kourier)"""
        )
        yield warning("networking layer", "config-network names no ingress-class: Istio is assumed", remedy)


def broker_class(found: Snapshot) -> Iterator[Finding]:
    """Of the brokers that are there or wanted, else of the cluster's default: whether somebody serves it."""
    if found.is_one_machine or "Broker" not in found.kinds.get("eventing.knative.dev/v1", frozenset()):
        return
    default = _default_class(found.config(EVENTING, "config-br-defaults"))
    brokers = [*(each for each in found.wanted if each.get("kind") == "Broker"), *found.brokers.objects]
    named = {(each["metadata"].get("annotations") or {}).get(_CLASS, default) for each in brokers} or {default}
    look = found.deployments.get(EVENTING, Look())
    for each in sorted(named):
        controller = _CONTROLLER_OF_CLASS.get(each)
        if controller is None:
            yield unknown("broker class", f"{each}: not one that is known here")
        elif look.state == "denied":
            yield unknown("broker class", f"{each}; whether it is installed may not be read: {look.said}")
        elif look.named(controller) is None:
            seen = f"{each}, and no deployment {controller} in {EVENTING}"
            yield missing("broker class", seen, _broker_install(each))
        else:
            yield _class_fits(each)


def _class_fits(name: str) -> Finding:
    if name == "MTChannelBasedBroker":
        return warning(
            "broker class",
            f"{name}: an in-memory channel forgets its events with its pod, so the source has to keep each",
            "for production take manifests/components/kafka-broker or rabbitmq-broker",
        )
    return ok("broker class", name)


def is_standard(found: Snapshot) -> bool:
    """Whether what is to be applied needs no Knative Serving."""
    modes = [
        (each["metadata"].get("annotations") or {}).get("serving.kserve.io/deploymentMode")
        for each in found.wanted
        if each.get("kind") == "InferenceService"
    ]
    return bool(modes) and all(mode in ("Standard", "RawDeployment") for mode in modes)


def _install(place: str) -> str:
    repository, tag, files = _INSTALL[place]
    urls = [RELEASES.format(repository=repository, tag=tag, file=file) for file in files]
    return " && ".join(f"kubectl apply --server-side -f {url}" for url in urls)


def _broker_install(name: str) -> str:
    repository, tag, file = {
        "Kafka": ("knative-extensions/eventing-kafka-broker", "knative-v1.23.0", "eventing-kafka-broker.yaml"),
        "RabbitMQBroker": ("knative-extensions/eventing-rabbitmq", "knative-v1.22.1", "rabbitmq-broker.yaml"),
    }.get(name, ("knative/eventing", "knative-v1.22.2", "mt-channel-broker.yaml"))
    return f"kubectl apply -f {RELEASES.format(repository=repository, tag=tag, file=file)}"


def _default_class(config: Mapping[str, str]) -> str:
    match = re.search(r"brokerClass:\s*[\"']?([A-Za-z.]+)", config.get("default-br-config", ""))
    return match[1] if match else "MTChannelBasedBroker"


def _not_available(look: Look) -> list[str]:
    return [
        each["metadata"]["name"]
        for each in look.objects
        if each.get("spec", {}).get("replicas", 1) and not (each.get("status") or {}).get("availableReplicas")
    ]


def _minor(version: str) -> tuple[int, int]:
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
