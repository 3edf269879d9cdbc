"""The shape of what the engine honours: an object whose values can never work is refused, by the path of each."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from whimbrel.core.errors import InputRefused

LONGEST_TIMEOUT_SECONDS = 600
MOST_REPLICAS = 32  # of a Deployment, which runs as many as it says


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Metadata(_Value):
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _NameReference(_Value):
    name: str
    optional: bool = False


class _KeyReference(_NameReference):
    key: str


class _FieldReference(_Value):
    field_path: Literal["metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "status.podIP"]


class _ValueFrom(_Value):
    config_map_key_ref: _KeyReference | None = None
    secret_key_ref: _KeyReference | None = None
    field_ref: _FieldReference | None = None

    @model_validator(mode="after")
    def _one(self) -> _ValueFrom:
        if sum(each is not None for each in (self.config_map_key_ref, self.secret_key_ref, self.field_ref)) != 1:
            raise ValueError("expected one of configMapKeyRef, secretKeyRef and fieldRef")
        return self


class _EnvironmentEntry(_Value):
    name: str = Field(min_length=1)
    value: str | None = None
    value_from: _ValueFrom | None = None


class _EnvironmentFrom(_Value):
    prefix: str = ""
    config_map_ref: _NameReference | None = None
    secret_ref: _NameReference | None = None


class _HttpGet(_Value):
    path: str = "/"


class _ReadinessProbe(_Value):
    http_get: _HttpGet | None = None
    period_seconds: float = Field(default=10, gt=0)
    timeout_seconds: float = Field(default=1, gt=0)
    failure_threshold: int = Field(default=3, ge=1)


class _ContainerPort(_Value):
    name: str = ""
    container_port: int = Field(ge=1, le=65535)


class _ContainerFields(_Value):
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[_EnvironmentEntry, ...] = ()
    env_from: tuple[_EnvironmentFrom, ...] = ()
    ports: tuple[_ContainerPort, ...] = Field(default=(), max_length=1)
    readiness_probe: _ReadinessProbe | None = None


class _Container(_ContainerFields):
    image: str


class _Pod(_Value):
    containers: tuple[_Container, ...] = Field(min_length=1, max_length=1)


_Concurrency = Annotated[int, Field(ge=0, le=1000)]
_Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT_SECONDS)]


class _ModelFormat(_Value):
    name: str
    version: str | None = None


class _Model(_ContainerFields):
    model_format: _ModelFormat
    runtime: str | None = None
    storage_uri: str | None = Field(default=None, pattern=r"^(s3://|file:///|models:/|null:|pointer\+s3://)")


class _Component(_Value):
    """The predictor or the transformer of an InferenceService."""

    containers: tuple[_Container, ...] | None = Field(default=None, min_length=1, max_length=1)
    timeout: _Timeout = 300
    min_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=0)
    scale_target: int | None = Field(default=None, ge=1)
    scale_metric: Literal["concurrency", "rps"] | None = None
    container_concurrency: _Concurrency | None = None
    canary_traffic_percent: int | None = Field(default=None, ge=0, le=100)
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Component:
        if self.max_replicas and (self.min_replicas or 0) > self.max_replicas:
            raise ValueError(f"expected minReplicas of at most maxReplicas, {self.max_replicas}")
        if (self.containers is None) == (getattr(self, "model", None) is None):
            raise ValueError(
                "expected one of containers and model" if hasattr(self, "model") else "expected containers"
            )
        return self


class _Predictor(_Component):
    model: _Model | None = None


class _InferenceServiceSpec(_Value):
    predictor: _Predictor
    transformer: _Component | None = None


class _TemplateMetadata(_Value):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _ServicePod(_Pod):
    timeout_seconds: _Timeout = 300
    container_concurrency: _Concurrency | None = None


class _ServiceTemplate(_Value):
    metadata: _TemplateMetadata | None = None
    spec: _ServicePod


class _Traffic(_Value):
    percent: int = Field(default=0, ge=0, le=100)
    latest_revision: bool | None = None
    revision_name: str = ""
    tag: str = ""

    @model_validator(mode="after")
    def _one_target(self) -> _Traffic:
        if bool(self.latest_revision) == bool(self.revision_name):
            raise ValueError("expected one of latestRevision and revisionName")
        return self


def _adds_up(traffic: tuple[_Traffic, ...]) -> tuple[_Traffic, ...]:
    if traffic and sum(each.percent for each in traffic) != 100:
        raise ValueError(f"expected percents that add up to 100, seen {sum(each.percent for each in traffic)}")
    return traffic


class _ServiceSpec(_Value):
    template: _ServiceTemplate
    traffic: Annotated[tuple[_Traffic, ...], AfterValidator(_adds_up)] = ()


class _Reference(_Value):
    api_version: str
    kind: Literal["InferenceService", "Service", "Broker"]
    name: str
    namespace: str | None = None


class _Destination(_Value):
    """Where events go: a reference, a uri, or a reference and a path on it."""

    ref: _Reference | None = None
    uri: str | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> _Destination:
        if self.ref is None and not self.uri:
            raise ValueError("expected a ref or a uri")
        return self


class _Delivery(_Value):
    dead_letter_sink: _Destination | None = None


class _BrokerSpec(_Value):
    delivery: _Delivery | None = None


class _TriggerSpec(_BrokerSpec):
    broker: str
    subscriber: _Destination


class _CeOverrides(_Value):
    extensions: dict[str, str] = {}


class _SourceTemplate(_Value):
    metadata: _TemplateMetadata | None = None
    spec: _Pod


class _ContainerSourceSpec(_Value):
    sink: _Destination
    template: _SourceTemplate
    ce_overrides: _CeOverrides | None = None


class _NamedContainer(_Container):
    name: str = Field(min_length=1, max_length=63)  # which KServe and Knative give to theirs where there is none


class _NamedPod(_Value):
    containers: tuple[_NamedContainer, ...] = Field(min_length=1, max_length=1)


class _PodTemplate(_Value):
    metadata: _TemplateMetadata | None = None
    spec: _NamedPod


def _is_count_or_share(value: int | str) -> int | str:
    if isinstance(value, str) and not re.fullmatch(r"\d{1,3}%", value):
        raise ValueError(f"expected a number or a percentage as '25%', seen {value!r:.40}")
    return value


_CountOrShare = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_is_count_or_share)]


class _RollingUpdate(_Value):
    max_surge: _CountOrShare | None = None
    max_unavailable: _CountOrShare | None = None


class _Strategy(_Value):
    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: _RollingUpdate | None = None

    @model_validator(mode="after")
    def _fitting(self) -> _Strategy:
        if self.type == "Recreate" and self.rolling_update is not None:
            raise ValueError("expected no rollingUpdate with the type Recreate")
        return self


class _Selector(_Value):
    match_labels: dict[str, str] = Field(min_length=1)


class _DeploymentSpec(_Value):
    replicas: int = Field(default=1, ge=0, le=MOST_REPLICAS)
    selector: _Selector
    template: _PodTemplate
    strategy: _Strategy | None = None
    progress_deadline_seconds: int = Field(default=600, ge=1)
    revision_history_limit: int = Field(default=10, ge=0, le=1000)

    @model_validator(mode="after")
    def _selects_its_own(self) -> _DeploymentSpec:
        labels = (self.template.metadata and self.template.metadata.labels) or {}
        if not self.selector.match_labels.items() <= labels.items():
            raise ValueError("selector.matchLabels: expected labels of its own template")
        return self


class _Subject(_Value):
    api_version: str
    kind: Literal["Service", "Deployment"]
    name: str | None = None


class _SinkBindingSpec(_Value):
    sink: _Destination
    subject: _Subject
    ce_overrides: _CeOverrides | None = None


class _SupportedFormat(_Value):
    name: str


class _RuntimeSpec(_Pod):
    supported_model_formats: tuple[_SupportedFormat, ...] = ()


class _Named(_Value):
    metadata: _Metadata


class _InferenceService(_Named):
    spec: _InferenceServiceSpec


class _Service(_Named):
    spec: _ServiceSpec


class _Broker(_Named):
    spec: _BrokerSpec | None = None


class _Trigger(_Named):
    spec: _TriggerSpec


class _ContainerSource(_Named):
    spec: _ContainerSourceSpec


class _SinkBinding(_Named):
    spec: _SinkBindingSpec


class _Deployment(_Named):
    spec: _DeploymentSpec


class _Runtime(_Named):
    spec: _RuntimeSpec


class _ConfigMap(_Value):
    data: dict[str, str] | None = None


_SHAPES: dict[str, type[BaseModel]] = {
    "InferenceService": _InferenceService,
    "Service": _Service,
    "Broker": _Broker,
    "Trigger": _Trigger,
    "ContainerSource": _ContainerSource,
    "SinkBinding": _SinkBinding,
    "Deployment": _Deployment,
    "ServingRuntime": _Runtime,
    "ClusterServingRuntime": _Runtime,
    "ConfigMap": _ConfigMap,
}


def check(found: dict[str, Any]) -> None:
    """Raises InputRefused that names each wrong field by its path; kinds of no known shape pass."""
    shape = _SHAPES.get(found["kind"])
    if shape is None:
        return
    try:
        shape.model_validate(found)
    except ValidationError as error:
        faults = "; ".join(f"{_path(fault['loc'])}: {_message(fault['msg'])}" for fault in error.errors())
        raise InputRefused(faults) from None


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")
