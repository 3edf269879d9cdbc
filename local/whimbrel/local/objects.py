"""The applied objects as values: what the engine honours of them, read after `fields.check` refused the rest."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from whimbrel.core.errors import InputRefused

H2C = "h2c"  # the port name by which Knative speaks gRPC to a container

Kind = TypeVar("Kind", bound="Applied")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Metadata(_Value):
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    namespace: str = "default"
    labels: dict[str, str] = {}


class NameReference(_Value):
    name: str
    optional: bool = False


class KeyReference(NameReference):
    key: str


class ValueFrom(_Value):
    config_map_key_ref: KeyReference | None = None
    secret_key_ref: KeyReference | None = None


class EnvironmentEntry(_Value):
    name: str
    value: str = ""
    value_from: ValueFrom | None = None


class EnvironmentFrom(_Value):
    prefix: str = ""
    config_map_ref: NameReference | None = None
    secret_ref: NameReference | None = None


class HttpGet(_Value):
    path: str = "/"


class ReadinessProbe(_Value):
    http_get: HttpGet
    period_seconds: float = Field(default=10, gt=0)
    timeout_seconds: float = Field(default=1, gt=0)
    failure_threshold: int = Field(default=3, ge=1)


class ContainerPort(_Value):
    name: str = ""
    container_port: int


class Container(_Value):
    image: str
    args: tuple[str, ...] = ()
    env: tuple[EnvironmentEntry, ...] = ()
    env_from: tuple[EnvironmentFrom, ...] = ()
    ports: tuple[ContainerPort, ...] = Field(default=(), max_length=1)
    readiness_probe: ReadinessProbe | None = None

    @property
    def speaks_grpc(self) -> bool:
        return any(port.name == H2C for port in self.ports)


class _Pod(_Value):
    containers: tuple[Container, ...] = Field(min_length=1, max_length=1)

    @property
    def container(self) -> Container:
        return self.containers[0]


class Component(_Pod):
    """The predictor or the transformer of an InferenceService."""

    timeout: float = Field(default=300, gt=0, le=600)


class ServicePod(_Pod):
    timeout_seconds: float = Field(default=300, gt=0, le=600)


class _ServiceTemplate(_Value):
    spec: ServicePod


class _PodTemplate(_Value):
    spec: _Pod


class Reference(_Value):
    api_version: str
    kind: Literal["InferenceService", "Service", "Broker"]
    name: str
    namespace: str | None = None


class Destination(_Value):
    """Where events go: a reference, a uri, or a reference and a path on it."""

    ref: Reference | None = None
    uri: str | None = None


class _CeOverrides(_Value):
    extensions: dict[str, str] = {}


class _InferenceServiceSpec(_Value):
    predictor: Component
    transformer: Component | None = None


class _ServiceSpec(_Value):
    template: _ServiceTemplate


class _BrokerSpec(_Value):
    delivery: dict[str, Any] | None = None


class _TriggerSpec(_Value):
    broker: str
    filter: dict[str, Any] | None = None
    filters: list[dict[str, Any]] | None = None
    subscriber: Destination
    delivery: dict[str, Any] | None = None


class _ContainerSourceSpec(_Value):
    sink: Destination
    template: _PodTemplate
    ce_overrides: _CeOverrides = _CeOverrides()


class Applied(_Value):
    kind: str
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace


class InferenceService(Applied):
    spec: _InferenceServiceSpec


class Service(Applied):
    """Knative's, not the core one."""

    spec: _ServiceSpec


class Broker(Applied):
    spec: _BrokerSpec = _BrokerSpec()


class Trigger(Applied):
    spec: _TriggerSpec


class ContainerSource(Applied):
    spec: _ContainerSourceSpec


class ConfigMap(Applied):
    data: dict[str, str] = {}

    @property
    def values(self) -> Mapping[str, str]:
        return self.data


class Secret(Applied):
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}

    @property
    def values(self) -> Mapping[str, str]:
        decoded = {name: base64.b64decode(value).decode() for name, value in self.data.items()}
        return {**decoded, **self.string_data}


class Unasked(_Value):
    """What only a cluster asks for."""

    kind: str


_MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (InferenceService, Service, Broker, Trigger, ContainerSource, ConfigMap, Secret)
} | dict.fromkeys(("ClusterRole", "ServiceAccount", "ServingRuntime"), Unasked)


class AppliedObjects:
    """Every object of one `apply`, by kind and in order."""

    def __init__(self, found: list[BaseModel]) -> None:
        self._found = found

    def with_defaults(self, defaults: list[BaseModel]) -> AppliedObjects:
        """These objects, and of `defaults` those that are not among them."""
        present = {(each.kind, each.namespace, each.name) for each in self.of(Applied)}
        missing = [
            each
            for each in defaults
            if isinstance(each, Applied) and (each.kind, each.namespace, each.name) not in present
        ]
        return AppliedObjects([*self._found, *missing])

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [each for each in self._found if isinstance(each, kind)]

    def named(self, kind: type[Kind], namespace: str, name: str) -> Kind | None:
        return next((each for each in self.of(kind) if (each.namespace, each.name) == (namespace, name)), None)


def read(found: dict[str, Any]) -> BaseModel:
    """An object of a known kind as a value. Raises InputRefused that names each wrong field by its path."""
    try:
        return _MODELS[found["kind"]].model_validate(found)
    except ValidationError as error:
        faults = "; ".join(f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise InputRefused(f"{found['kind']} {found['metadata']['name']!r}: {faults}") from None


def destination_at(path: str, found: Any) -> Destination:
    """A destination within what is taken as a whole. Raises InputRefused that names each wrong field by its path."""
    try:
        return Destination.model_validate(found)
    except ValidationError as error:
        faults = (f"{_path((path, *fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InputRefused("; ".join(faults)) from None


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
