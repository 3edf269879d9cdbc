"""How a bucket's notifications come in: the objects of each kind of source; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whimbrel.kube.function import parts
from whimbrel.kube.function.model import Amqp, Function, Kafka, Push, RgwPubsub, SecretKey, Sqs
from whimbrel.kube.function.parts import Object

_SOURCES, _SERVING, _EVENTING = "sources.knative.dev/v1", "serving.knative.dev/v1", "eventing.knative.dev/v1"
_SUFFIX = "-source"
_PUSH_SECONDS = 60

Variables = Mapping[str, str | SecretKey | None]


def sources(function: Function, patience_seconds: int) -> list[Object]:
    """One process, given K_SINK: a ContainerSource that asks, or a service that is posted to and its SinkBinding."""
    source = function.input.source
    container = parts.container(
        function,
        *("eventing", "source", ["source", source.kind], {"WHIMBREL_SINK_TIMEOUT_SECONDS": str(patience_seconds)}),
        ready="/healthz",
    )
    container["env"] += [_entry(name, value) for name, value in _variables(function).items() if value is not None]
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": parts.scratch("32Mi"),
    }
    sink = parts.reference(_EVENTING, "Broker", function.name)
    if isinstance(source, Push):
        return _posted_to(function, pod, sink)
    # As Knative labels the pods of a source; by this they are found, for their logs.
    labels = parts.labels(function, {"sources.knative.dev/containerSource": function.name + _SUFFIX})
    template = {"metadata": {"labels": labels}, "spec": {**pod, "terminationGracePeriodSeconds": 60}}
    spec = {"sink": sink, "template": template}
    return [parts.resource(function, _SOURCES, "ContainerSource", _SUFFIX, spec=spec)]


def _posted_to(function: Function, pod: Object, sink: Object) -> list[Object]:
    """One replica: it remembers what is under way, so that an event that is posted again joins its delivery. The
    activator stays before it: its port is open while a pod is replaced."""
    scale = {"min-scale": "1", "max-scale": "1", "target-burst-capacity": "-1"}
    annotations = {f"autoscaling.knative.dev/{name}": value for name, value in scale.items()}
    template = {"metadata": {"annotations": annotations}, "spec": {**pod, "timeoutSeconds": _PUSH_SECONDS}}
    visibility = {"networking.knative.dev/visibility": "cluster-local"}
    subject = {"apiVersion": _SERVING, "kind": "Service", "name": function.name + _SUFFIX}
    return [
        parts.resource(function, _SERVING, "Service", _SUFFIX, spec={"template": template}, more_labels=visibility),
        parts.resource(function, _SOURCES, "SinkBinding", _SUFFIX, spec={"subject": subject, "sink": sink}),
    ]


def _variables(function: Function) -> Variables:
    """The settings of the source's process."""
    source = function.input.source
    if isinstance(source, Sqs):
        return {"WHIMBREL_SQS_QUEUE": source.queue, "WHIMBREL_SQS_ENDPOINT": source.endpoint}
    if isinstance(source, RgwPubsub):
        return {
            "WHIMBREL_RGW_PUBSUB_ENDPOINT": source.endpoint,
            "WHIMBREL_RGW_SUBSCRIPTION": source.subscription,
        }
    if isinstance(source, Amqp):
        return {"WHIMBREL_AMQP_QUEUE": source.queue, "WHIMBREL_AMQP_URL": source.url}
    if isinstance(source, Kafka):
        return {
            "WHIMBREL_KAFKA_BROKERS": source.brokers,
            "WHIMBREL_KAFKA_TOPICS": source.topic,
            "WHIMBREL_KAFKA_GROUP": source.group or f"whimbrel-{function.name}",
            "WHIMBREL_KAFKA_SECURITY": source.security,
            "WHIMBREL_KAFKA_SASL_MECHANISM": source.mechanism,
            "WHIMBREL_KAFKA_USERNAME": source.username,
            "WHIMBREL_KAFKA_PASSWORD": source.password,
        }
    return {
        "WHIMBREL_PUSH_TOKEN": source.token,
        "WHIMBREL_PUSH_USER": source.user,
        "WHIMBREL_PUSH_PASSWORD": source.password,
    }


def _entry(name: str, value: Any) -> Object:
    if isinstance(value, SecretKey):
        return parts.secret_entry(name, value.secret, value.key)
    return {"name": name, "value": value}
