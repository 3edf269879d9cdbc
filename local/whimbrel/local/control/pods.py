"""Pods: one for each process. From an owner's template to pods, from a pod to the process, and back to its status."""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.local import images, loopback
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import names
from whimbrel.local.control.conditions import Condition, merged
from whimbrel.local.workload import Probe, Workload, expand

_HOST_VARIABLE = "WHIMBREL_HTTP_HOST"
_HOST_ARGUMENTS = ("--http-host", "--http_host")
_PYTHON = ("python", "python3")
_GRPC_MODULES = frozenset({"whimbrel.predictors"})  # listen for gRPC on a port of its own
_H2C = "h2c"  # the port name by which Knative speaks HTTP/2 to a container
_LISTENING = Probe("", period_seconds=1)
_CLUSTER_HOST = re.compile(rf"([a-z0-9-]+)\.([a-z0-9-]+)\.{re.escape(names.CLUSTER_DOMAIN)}(?::80)?")

Lookup = Callable[[str, str, str], Mapping[str, str] | None]
"""The values of a ConfigMap or Secret by kind, namespace and name; None where there is none."""
Addresses = Callable[[str, str], str | None]
"""HOST:PORT of a service by name and namespace."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the process of a pod is doing."""

    running: bool = False
    ready: bool = False
    restarts: int = 0
    last_exit: str = ""
    exit_status: int | None = None
    started: str = ""
    fault: str = ""  # why it cannot even be started


def command(container: Mapping[str, Any], annotations: Mapping[str, str]) -> list[str]:
    """What runs for a container. Raises InputRefused, with the hint, for an image that nobody here knows.

    `command` replaces the entry point of an image of this project, whose `python` is the one that runs this.
    """
    given = annotations.get(names.COMMAND)
    if given is None:
        try:
            entry_point = [sys.executable, "-m", images.module(container["image"])]
            first, *others = container.get("command") or entry_point
            return [sys.executable if first in _PYTHON else first, *others]
        except InputRefused as error:
            raise InputRefused(f"{error}; for any other, say what to run in the annotation {names.COMMAND}") from None
    try:
        parts = shlex.split(given)
    except ValueError as error:
        raise InputRefused(f"annotation {names.COMMAND}: {error}, seen {given!r:.100}") from None
    if not parts:
        raise InputRefused(f"annotation {names.COMMAND}: expected a command, seen none")
    return parts


def workload(pod: Object, kind: str, lookup: Lookup, addresses: Addresses, machine: Mapping[str, str]) -> Workload:
    """The process of a pod. Raises InputRefused for what is not there or would be open to the network."""
    namespace, name = names.of(pod)
    container = pod["spec"]["containers"][0]
    start = command(container, names.annotations_of(pod))
    module = start[2] if start[:2] == [sys.executable, "-m"] else ""
    probe = _probe(container)
    if probe is None and names.SERVICE_LABEL in names.labels_of(pod):
        probe = _LISTENING  # as Knative asks where nothing else is said
    if not module:
        start = [shutil.which(start[0], path=machine.get("PATH")) or start[0], *start[1:]]
    declared = {key: _located(value, addresses) for key, value in environment(container, pod, lookup).items()}
    arguments = [_located(each, addresses) for each in container.get("args", [])]
    for part, given in (("command", container.get("command", [])), ("args", arguments)):
        refuse_other_hosts(given, declared, part)
    # A setting's name in the environment has no case.
    own = {key: value for key, value in declared.items() if key.upper() != _HOST_VARIABLE}
    h2c = any(port.get("name") == _H2C for port in container.get("ports", []))
    return Workload(
        name=names.qualified(name, namespace),
        kind=kind,
        command=tuple(start),
        arguments=tuple(arguments),
        environment={**machine, **own, _HOST_VARIABLE: "127.0.0.1"},
        probe=probe,
        grpc=module in _GRPC_MODULES,
        h2c=h2c and module not in _GRPC_MODULES,
    )


def environment(container: Mapping[str, Any], pod: Object, lookup: Lookup) -> dict[str, str]:
    """`envFrom`, then `env`, which wins. Raises InputRefused for a ConfigMap, Secret or key that is not there."""
    found: dict[str, str] = {}
    namespace = pod["metadata"]["namespace"]
    for source in container.get("envFrom", []):
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if field in source:
                values = _values(kind, namespace, source[field], lookup)
                found |= {source.get("prefix", "") + key: value for key, value in values.items()}
    for entry in container.get("env", []):
        value = _value(entry, pod, lookup)
        if value is not None:
            found[entry["name"]] = expand(value, found)
    return found


def secret_values(secret: Object) -> dict[str, str]:
    """As environment variables hold them: bytes that are no text stay the same bytes."""
    data: Mapping[str, str] = secret.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in data.items()}


def status(pod: Object, seen: Seen, now: str) -> dict[str, Any]:
    """In the shape of a kubelet's."""
    before = pod.get("status") or {}
    container = pod["spec"]["containers"][0]
    ready: Any = "True" if seen.ready else "False"
    why = "" if seen.ready else "ContainersNotReady"
    listed = [Condition("Initialized", "True"), Condition("PodScheduled", "True")]
    listed += [Condition(each, ready, why) for each in ("Ready", "ContainersReady")]
    entry: dict[str, Any] = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": seen.ready,
        "started": seen.running,
        "restartCount": seen.restarts,
        "state": _state(seen),
    }
    if seen.last_exit:
        ended = {"exitCode": _code(seen), "reason": "Error", "message": seen.last_exit}
        entry["lastState"] = {"terminated": ended}
    return {
        "phase": "Running" if seen.running or seen.restarts else "Pending",
        "conditions": merged(before.get("conditions", []), listed, now),
        "containerStatuses": [entry],
        "hostIP": "127.0.0.1",
        "podIP": "127.0.0.1",
        "startTime": before.get("startTime", now),
        "qosClass": "BestEffort",
    }


def failure_of(seen: Seen) -> dict[str, Any] | None:
    """As KServe's lastFailureInfo has it."""
    if seen.fault:
        return {"reason": "ModelLoadFailed", "message": seen.fault}
    if not seen.last_exit:
        return None
    return {"reason": "ModelLoadFailed", "message": seen.last_exit, "exitCode": _code(seen)}


def _state(seen: Seen) -> dict[str, Any]:
    if seen.fault:
        return {"waiting": {"reason": "CreateContainerConfigError", "message": seen.fault}}
    if seen.running:
        return {"running": {"startedAt": seen.started} if seen.started else {}}
    if seen.restarts:
        return {"waiting": {"reason": "CrashLoopBackOff", "message": seen.last_exit}}
    return {"waiting": {"reason": "ContainerCreating"}}


def _code(seen: Seen) -> int:
    code = seen.exit_status or 0
    return 128 - code if code < 0 else code  # as a shell tells of a signal


def _value(entry: Mapping[str, Any], pod: Object, lookup: Lookup) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return str(entry.get("value", ""))
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if field in source:
            reference = source[field]
            values = _values(kind, pod["metadata"]["namespace"], reference, lookup)
            if reference["key"] not in values and not reference.get("optional"):
                raise InputRefused(f"env {entry['name']}: {kind} {reference['name']!r} has no key {reference['key']!r}")
            return values.get(reference["key"])
    raise InputRefused(f"env {entry['name']}: expected configMapKeyRef, secretKeyRef or fieldRef")


def _field(pod: Object, path: str) -> str:
    if path == "status.podIP":
        return "127.0.0.1"
    above, name = path.split(".")
    return str(pod[above][name])


def _values(kind: str, namespace: str, reference: Mapping[str, Any], lookup: Lookup) -> Mapping[str, str]:
    found = lookup(kind, namespace, reference["name"])
    if found is None and not reference.get("optional"):
        raise InputRefused(f"no {kind} {reference['name']!r} in namespace {namespace!r}")
    return found or {}


def _located(text: str, addresses: Addresses) -> str:
    """A service's name within the cluster as its address on this machine, which has no such names."""

    def address(found: re.Match[str]) -> str:
        return addresses(found.group(1), found.group(2)) or found.group()

    return _CLUSTER_HOST.sub(address, text)


def refuse_other_hosts(given: Sequence[str], declared: Mapping[str, str], part: str) -> None:
    """Arguments win over the environment, and what is not on loopback is open to the network. Raises InputRefused."""
    for index, host in _hosts([expand(each, declared) for each in given]):
        if not loopback.is_loopback(host):
            raise InputRefused(f"{part}[{index}]: expected a loopback address on one machine, seen {host!r}")


def _hosts(given: list[str]) -> Iterator[tuple[int, str]]:
    for index, (argument, following) in enumerate(zip(given, [*given[1:], ""], strict=False)):
        option, equals, value = argument.partition("=")
        if option in _HOST_ARGUMENTS:
            yield index, value if equals else following


def _probe(container: Mapping[str, Any]) -> Probe | None:
    probe = container.get("readinessProbe")
    if probe is None or "httpGet" not in probe:
        return None
    return Probe(
        probe["httpGet"].get("path", "/"),
        float(probe.get("periodSeconds", 10)),
        float(probe.get("timeoutSeconds", 1)),
        int(probe.get("failureThreshold", 3)),
    )
