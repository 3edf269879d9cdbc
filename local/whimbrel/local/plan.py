"""From applied objects to what runs: workloads, the services in front of them, the broker's configuration; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

from whimbrel.core.errors import InputRefused
from whimbrel.local import images, loopback
from whimbrel.local.broker_check import refuse_wrong
from whimbrel.local.environment import container_environment
from whimbrel.local.objects import (
    Applied,
    AppliedObjects,
    Broker,
    Container,
    ContainerSource,
    Destination,
    InferenceService,
    Service,
    Trigger,
    destination_at,
)
from whimbrel.local.workload import Probe, Workload, expand

BROKER = "broker"
_HOST_SUFFIX = "localhost"
_HOST_VARIABLE = "WHIMBREL_HTTP_HOST"
_HOST_ARGUMENTS = ("--http-host", "--http_host")
_PREDICTORS = "whimbrel.predictors"  # listens for gRPC too


@dataclass(frozen=True, slots=True)
class Front:
    """A service: one stable port in front of one workload, reached at the gateway by any of `hosts` too."""

    workload: str
    hosts: tuple[str, ...]
    timeout_seconds: float
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`workloads`, then `sources`, in the order in which they start; they stop in reverse."""

    workloads: tuple[Workload, ...]
    sources: tuple[Workload, ...]
    broker: dict[str, Any]


def fronts(objects: AppliedObjects) -> list[Front]:
    """Every service of these objects. Raises InputRefused when two would have one name."""
    found = [front for service in objects.of(InferenceService) for front in _inference_fronts(service)]
    found += [
        Front(_name(service), (_host(service.name, service),), service.spec.template.spec.timeout_seconds)
        for service in objects.of(Service)
    ]
    _refuse_twice([front.workload for front in found])
    return found


def plan(objects: AppliedObjects, ports: Mapping[str, int], machine: Mapping[str, str]) -> Plan:
    """What to run, given the port of every front (and of the broker) and the environment that the machine gives.

    Raises InputRefused for a reference to what is not there, by its path.
    """
    planner = _Planner(objects, ports, machine)
    found = Plan(planner.workloads(), planner.sources(), planner.broker())
    refuse_wrong(found.broker)
    _refuse_twice([workload.name for workload in (*found.workloads, *found.sources)])
    return found


def broker_url(port: int, namespace: str, name: str) -> str:
    return f"http://127.0.0.1:{port}/{namespace}/{name}"


@dataclass(frozen=True, slots=True)
class _Planner:
    objects: AppliedObjects
    ports: Mapping[str, int]
    machine: Mapping[str, str]

    def workloads(self) -> tuple[Workload, ...]:
        services = [workload for each in self.objects.of(InferenceService) for workload in self._inference(each)]
        return (*services, *(self._sink(each) for each in self.objects.of(Service)))

    def sources(self) -> tuple[Workload, ...]:
        return tuple(self._source(each) for each in self.objects.of(ContainerSource))

    def broker(self) -> dict[str, Any]:
        """The configuration that `whimbrel.local.broker` reads: the objects with every reference resolved."""
        brokers = [
            {"namespace": each.namespace, "name": each.name} | self._delivery(each, each.spec.delivery)
            for each in self.objects.of(Broker)
        ]
        return {"brokers": brokers, "triggers": [self._trigger(each) for each in self.objects.of(Trigger)]}

    def _inference(self, service: InferenceService) -> list[Workload]:
        predictor, transformer = service.spec.predictor, service.spec.transformer
        name = _name(service, "-predictor")
        path = "spec.predictor"
        found = [self._workload(name, service, path, predictor.container, timeout_seconds=predictor.timeout)]
        if transformer is not None:
            host = f"127.0.0.1:{self.ports[name]}"
            # What KServe gives a transformer.
            arguments = ("--model_name", service.name, "--predictor_host", host, "--http_port", "$(PORT)")
            name, path, timeout = _name(service, "-transformer"), "spec.transformer", transformer.timeout
            workload = self._workload(name, service, path, transformer.container, timeout_seconds=timeout)
            found.append(replace(workload, arguments=(*arguments, *workload.arguments)))
        return found

    def _sink(self, service: Service) -> Workload:
        pod = service.spec.template.spec
        path = "spec.template.spec"
        return self._workload(_name(service), service, path, pod.container, timeout_seconds=pod.timeout_seconds)

    def _source(self, source: ContainerSource) -> Workload:
        """With what Knative gives the container of a source."""
        given = {"K_SINK": self._uri(source, "spec.sink", source.spec.sink)}
        if source.spec.ce_overrides.extensions:
            given["K_CE_OVERRIDES"] = json.dumps({"extensions": source.spec.ce_overrides.extensions})
        workload = self._workload(_name(source), source, "spec.template.spec", source.spec.template.spec.container)
        return replace(workload, environment={**workload.environment, **given})

    def _workload(
        self, name: str, owner: Applied, path: str, container: Container, timeout_seconds: float = 300
    ) -> Workload:
        module = images.module(container.image)
        declared = container_environment(owner, container, self.objects)
        # A setting's name in the environment has no case.
        environment = {name: value for name, value in declared.items() if name.upper() != _HOST_VARIABLE}
        _refuse_other_hosts(f"{owner.kind} {owner.name!r}: {path}.containers[0].args", container.args, declared)
        return Workload(
            name=name,
            kind=owner.kind,
            module=module,
            arguments=container.args,
            environment={**self.machine, **environment, _HOST_VARIABLE: "127.0.0.1"},
            probe=_probe(container),
            grpc=module == _PREDICTORS,
            timeout_seconds=timeout_seconds,
        )

    def _trigger(self, trigger: Trigger) -> dict[str, Any]:
        spec = trigger.spec
        if self.objects.named(Broker, trigger.namespace, spec.broker) is None:
            raise InputRefused(f"Trigger {trigger.name!r}: spec.broker: no Broker {spec.broker!r} here")
        filters = {"filter": spec.filter, "filters": spec.filters}
        return {
            "namespace": trigger.namespace,
            "name": trigger.name,
            "broker": spec.broker,
            "subscriber": {"uri": self._uri(trigger, "spec.subscriber", spec.subscriber)},
            **{name: value for name, value in filters.items() if value is not None},
            **self._delivery(trigger, spec.delivery),
        }

    def _delivery(self, owner: Applied, delivery: Mapping[str, Any] | None) -> dict[str, Any]:
        if delivery is None:
            return {}
        resolved = dict(delivery)
        if "deadLetterSink" in resolved:
            path = "spec.delivery.deadLetterSink"
            sink = destination_at(f"{owner.kind} {owner.name!r}: {path}", resolved["deadLetterSink"])
            resolved["deadLetterSink"] = {"uri": self._uri(owner, path, sink)}
        return {"delivery": resolved}

    def _uri(self, owner: Applied, path: str, destination: Destination) -> str:
        where = f"{owner.kind} {owner.name!r}: {path}"
        if destination.ref is None:
            if destination.uri is None:
                raise InputRefused(f"{where}: expected a ref or a uri")
            return destination.uri
        base = self._address(where, owner, destination)
        return urljoin(base, destination.uri) if destination.uri else base

    def _address(self, where: str, owner: Applied, destination: Destination) -> str:
        """The URL that Knative would read from the status of what is referred to."""
        ref = destination.ref
        assert ref is not None  # noqa: S101 - the caller looked
        namespace = ref.namespace or owner.namespace
        kinds: dict[str, type[Applied]] = {"InferenceService": InferenceService, "Service": Service, "Broker": Broker}
        found = self.objects.named(kinds[ref.kind], namespace, ref.name)
        if found is None:
            raise InputRefused(f"{where}.ref: no {ref.kind} {ref.name!r} in namespace {namespace!r}")
        if isinstance(found, Broker):
            return broker_url(self.ports[BROKER], namespace, ref.name)
        name = _entry(found) if isinstance(found, InferenceService) else _name(found)
        return f"http://127.0.0.1:{self.ports[name]}"


def _refuse_other_hosts(path: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Arguments win over the environment, and what is not on loopback is open to the network."""
    given = [expand(argument, environment) for argument in arguments]
    for index, (argument, following) in enumerate(zip(given, [*given[1:], ""], strict=True)):
        option, equals, value = argument.partition("=")
        host = value if equals else following
        if option in _HOST_ARGUMENTS and not loopback.is_loopback(host):
            raise InputRefused(f"{path}[{index}]: expected a loopback address on one machine, seen {host!r}")


def _refuse_twice(names: list[str]) -> None:
    taken = [*names, BROKER]
    if twice := {name for name in taken if taken.count(name) > 1}:
        raise InputRefused(f"expected each process to have a name of its own, seen twice: {', '.join(sorted(twice))}")


def _inference_fronts(service: InferenceService) -> list[Front]:
    components = {"-predictor": service.spec.predictor}
    if service.spec.transformer is not None:
        components["-transformer"] = service.spec.transformer
    found = []
    for suffix, component in components.items():
        name = _name(service, suffix)
        aliases = (_host(service.name, service),) if name == _entry(service) else ()
        hosts = (*aliases, _host(service.name + suffix, service))
        found.append(Front(name, hosts, component.timeout, component.container.speaks_grpc))
    return found


def _entry(service: InferenceService) -> str:
    """The component that answers for the whole InferenceService."""
    return _name(service, "-predictor" if service.spec.transformer is None else "-transformer")


def _probe(container: Container) -> Probe | None:
    probe = container.readiness_probe
    if probe is None:
        return None
    return Probe(probe.http_get.path, probe.period_seconds, probe.timeout_seconds, probe.failure_threshold)


def _name(owner: Applied, suffix: str = "") -> str:
    return _qualified(owner.name + suffix, owner.namespace)


def _qualified(name: str, namespace: str) -> str:
    return name if namespace == "default" else f"{name}.{namespace}"


def _host(name: str, owner: Applied) -> str:
    return f"{name}.{owner.namespace}.{_HOST_SUFFIX}"
