"""From a function to the objects that run it: its own broker, triggers, sinks and source beside the model; pure.

The same way of an image as that of manifests/base, under names of its own, so that any number of functions share a
namespace and each is deleted whole. What a cluster needs once (the addressable-resolver ClusterRole) is not among it.
"""

from __future__ import annotations

from whimbrel.kube.function import parts
from whimbrel.kube.function.model import Function, Scale
from whimbrel.kube.function.parts import Object
from whimbrel.kube.function.sources import sources

_KSERVE, _SERVING = "serving.kserve.io/v1beta1", "serving.knative.dev/v1"
_EVENTING = "eventing.knative.dev/v1"

_RETRIES = 10
_ATTEMPT_SECONDS = 60
# The broker answers when it has delivered: 11 attempts and pauses of 1, 2, 4 .. 512 s at the subscriber, and as many at
# the dead-letter sink: 3366 s. A source that hangs up earlier loses nothing, but sends the event once more.
_SOURCE_PATIENCE = 3600
_TRANSFORMER_SECONDS = 120  # longer than the predictor's cold start and its own timeout

OBJECT_CREATED = "com.amazonaws.s3.ObjectCreated:"
PREDICTION, GONE = "dev.whimbrel.prediction.v1", "dev.whimbrel.gone.v1"
UNREADABLE = "dev.whimbrel.unreadable.v1"


def render(function: Function) -> list[Object]:
    """In the order in which they are applied."""
    return [
        _sink(function, "-results", "results", _results_settings(function)),
        _sink(
            function, "-dead-letters", "dead-letters", {"WHIMBREL_DEAD_LETTERS_BUCKET": function.output.dead_letters}
        ),
        _broker(function),
        _inference_service(function),
        *_triggers(function),
        *sources(function, _SOURCE_PATIENCE),
    ]


def _inference_service(function: Function) -> Object:
    spec = {"predictor": _predictor(function), "transformer": _transformer(function)}
    made = parts.resource(
        function, _KSERVE, "InferenceService", "", spec=spec, more_labels={"whimbrel.dev/task": function.task}
    )
    made["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "Knative"}
    return made


def _predictor(function: Function) -> Object:
    environment = {"WHIMBREL_MODEL_URI": function.model.uri}
    if function.model.digest:
        environment["WHIMBREL_MODEL_DIGEST"] = function.model.digest
    resources = parts.quantities(function.resources, "2", "3Gi")
    if function.gpu is not None:
        environment["WHIMBREL_DEVICE"] = "cuda"
        device = {function.gpu.resource: str(function.gpu.count)}
        resources = parts.quantities(function.resources, "4", "8Gi", device)
    container = parts.container(
        function,
        "predictors" if function.gpu is None else "predictors-cuda",
        *("kserve-container", [f"--model-name={function.name}"], environment),
        ready=f"/v2/models/{function.name}/ready",
        # An image of gigabytes and a first CUDA context take longer than a CPU's start.
        start_seconds=30 if function.gpu is None else 120,
        resources=resources,
        own_environment=True,
    )
    container["livenessProbe"] = parts.liveness(60)
    pod = {"containers": [container], "volumes": parts.scratch("4Gi", in_memory=False), **_tolerations(function)}
    return {**_scaling(function.scale), "timeout": _ATTEMPT_SECONDS, "automountServiceAccountToken": False, **pod}


def _tolerations(function: Function) -> Object:
    if function.gpu is None or not function.gpu.tolerate:
        return {}
    return {"tolerations": [{"key": function.gpu.resource, "operator": "Exists", "effect": "NoSchedule"}]}


def _transformer(function: Function) -> Object:
    container = parts.container(
        function,
        # KServe would add --workers=<containerConcurrency>.
        *("transformers", "kserve-container", ["--workers=1"], {}),
        ready="/v2/health/ready",
        resources=parts.quantities(function.transformer.resources, "1", "1536Mi"),
        own_environment=True,
    )
    container["livenessProbe"] = parts.liveness(30)
    return {
        **_scaling(function.transformer.scale),
        "containerConcurrency": 2 * function.transformer.scale.concurrency,
        "timeout": _TRANSFORMER_SECONDS,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": parts.scratch("64Mi"),
    }


def _scaling(scale: Scale) -> Object:
    counts = {"minReplicas": scale.min, "maxReplicas": scale.max}
    return {**counts, "scaleMetric": "concurrency", "scaleTarget": scale.concurrency}


def _broker(function: Function) -> Object:
    delivery = {
        "retry": _RETRIES,
        "backoffPolicy": "exponential",
        "backoffDelay": "PT1S",
        "timeout": f"PT{_ATTEMPT_SECONDS}S",
        "deadLetterSink": parts.reference(_SERVING, "Service", f"{function.name}-dead-letters"),
    }
    return parts.resource(function, _EVENTING, "Broker", "", spec={"delivery": delivery})


def _triggers(function: Function) -> list[Object]:
    results = parts.reference(_SERVING, "Service", f"{function.name}-results")
    dead_letters = parts.reference(_SERVING, "Service", f"{function.name}-dead-letters")
    transformer = {**parts.reference(_KSERVE, "InferenceService", function.name), "uri": "/events"}
    return [
        _trigger(function, "-objects", _objects(function), transformer),
        _trigger(function, "-predictions", [{"exact": {"type": PREDICTION}}], results),
        _trigger(function, "-gone", [{"exact": {"type": GONE}}], results),
        _trigger(function, "-unreadable", [{"exact": {"type": UNREADABLE}}], dead_letters),
    ]


def _trigger(function: Function, suffix: str, filters: list[Object], subscriber: Object) -> Object:
    spec = {"broker": function.name, "filters": filters, "subscriber": subscriber}
    return parts.resource(function, _EVENTING, "Trigger", suffix, spec=spec)


def _objects(function: Function) -> list[Object]:
    """All of these hold: the source of an event ends with its bucket, its subject is the key."""
    chosen = function.input
    filters: list[Object] = [{"prefix": {"type": OBJECT_CREATED}}, {"suffix": {"source": f".{chosen.bucket}"}}]
    if chosen.prefix:
        filters.append({"prefix": {"subject": chosen.prefix}})
    if chosen.suffixes:
        filters.append({"any": [{"suffix": {"subject": suffix}} for suffix in chosen.suffixes]})
    return filters


def _sink(function: Function, suffix: str, which: str, environment: dict[str, str]) -> Object:
    container = parts.container(function, "eventing", "sink", ["sink", which], environment, ready="/healthz")
    scale = {"autoscaling.knative.dev/min-scale": "1" if function.scale.min else "0"}
    scale["autoscaling.knative.dev/max-scale"] = "4"
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "timeoutSeconds": _ATTEMPT_SECONDS,
        "containers": [container],
        "volumes": parts.scratch("32Mi"),
    }
    spec = {"template": {"metadata": {"annotations": scale}, "spec": pod}}
    return parts.resource(
        function,
        *(_SERVING, "Service", suffix),
        spec=spec,
        more_labels={"networking.knative.dev/visibility": "cluster-local"},
    )


def _results_settings(function: Function) -> dict[str, str]:
    return {"WHIMBREL_RESULTS_BUCKET": function.output.bucket, "WHIMBREL_RESULTS_PREFIX": function.output.prefix}
