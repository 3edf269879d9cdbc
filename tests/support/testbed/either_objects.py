"""What the suite of either engine applies, written so that a restricted namespace of a cluster takes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import observer

Image = Callable[[str], str]  # of a room
Object = dict[str, Any]

MODEL = "birds"  # of a predictor alone; behind a transformer it has the name of its InferenceService
SIDE = 8
RETRY = 2
BROKER, OBSERVER = "either", "observer"
ANSWER_TYPE = "either.answer."
_ANY_HOST = {"name": "WHIMBREL_HTTP_HOST", "value": "0.0.0.0"}  # noqa: S104 - within a pod


def inference_service(image: Image, name: str, model: str = "one", **predictor: Any) -> Object:
    """A predictor that answers by rule, at once and without torch; `model` is told in its answers."""
    return _inference_service(name, {"predictor": _predictor(image, MODEL, model) | predictor})


def over_grpc(found: Object) -> Object:
    """The port h2c is the only one that Knative's gateway then leads to."""
    found["spec"]["predictor"]["containers"][0]["ports"] = [{"name": "h2c", "containerPort": 8081, "protocol": "TCP"}]
    return found


def classifier(image: Image, name: str, store: str) -> Object:
    """Transformer and predictor: images in, labels out, also for events about objects in `store`."""
    env = [_ANY_HOST, {"name": "WHIMBREL_S3_ENDPOINT", "value": store}]
    env += [{"name": each, "value": "unchecked"} for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    transformer = _container(image("transformers"), "/v2/health/ready", "1536Mi")
    transformer |= {"name": "kserve-container", "args": ["--workers=1"], "env": env}
    components = {
        "predictor": _predictor(image, name, "one"),
        "transformer": {"minReplicas": 1, "maxReplicas": 1, "timeout": 60, "containers": [transformer]},
    }
    return _inference_service(name, components)


def observing(image: Image, token: str) -> Object:
    """One process of `observer.py`, always there; `token` is what the test proves itself by."""
    container = _container(image("eventing"), "/healthz", "256Mi")
    source = Path(observer.__file__).read_text()
    env = [_ANY_HOST, {"name": "OBSERVER_TOKEN", "value": token}]
    container |= {"name": "observer", "command": ["python", "-c", source], "env": env}
    one = {f"autoscaling.knative.dev/{bound}-scale": "1" for bound in ("min", "max")}
    spec = {"automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": OBSERVER},
        "spec": {"template": {"metadata": {"annotations": one}, "spec": spec}},
    }


def eventing(classifier_name: str, role: str) -> list[Object]:
    """A broker, and the triggers of the way of an object; `role` lets Knative look up InferenceServices."""
    delivery = {"retry": RETRY, "backoffPolicy": "linear", "backoffDelay": "PT0.2S", "timeout": "PT60S"}
    found = {"delivery": {**delivery, "deadLetterSink": _of_observer("/dead-letters")}}
    subscriber = {
        "ref": {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": classifier_name},
        "uri": "/events",
    }
    created = {"filter": {"attributes": {"type": "com.amazonaws.s3.ObjectCreated:Put"}}}
    return [
        _addressable_resolver(role),
        {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": {"name": BROKER}, "spec": found},
        _trigger("objects", subscriber, **created),
        _trigger("results", _of_observer("/results"), filter={"attributes": {"type": "dev.whimbrel.prediction.v1"}}),
        _trigger("answers", _of_observer("/answers"), filters=[{"prefix": {"type": ANSWER_TYPE}}]),
    ]


def model_uri(model: str) -> dict[str, str]:
    return {"name": "WHIMBREL_MODEL_URI", "value": f"null:10,{SIDE}x{SIDE},{model}"}


def new_model(model: str, percent: int | None = None) -> Sequence[Mapping[str, Any]]:
    """Another model, and its share in the same patch."""
    change = {"op": "replace", "path": "/spec/predictor/containers/0/env/0", "value": model_uri(model)}
    return [change] if percent is None else [change, share(percent)]


def share(percent: int) -> Mapping[str, Any]:
    return {"op": "add", "path": "/spec/predictor/canaryTrafficPercent", "value": percent}


NO_SHARE: Mapping[str, Any] = {"op": "remove", "path": "/spec/predictor/canaryTrafficPercent"}


def document(objects: Sequence[Mapping[str, Any]]) -> str:
    """As kubectl reads JSON: one after the other."""
    return "\n".join(json.dumps(each) for each in objects)


def _inference_service(name: str, components: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Knative"}},
        "spec": dict(components),
    }


def _predictor(image: Image, model_name: str, model: str) -> Object:
    container = _container(image("predictors"), f"/v2/models/{model_name}/ready", "512Mi")
    container |= {
        "name": "kserve-container",
        "args": [f"--model-name={model_name}"],
        "env": [model_uri(model), _ANY_HOST],
    }
    return {
        "minReplicas": 1,
        "maxReplicas": 2,
        "annotations": {"autoscaling.knative.dev/window": "6s"},
        "containers": [container],
    }


def _container(image: str, readiness: str, memory: str) -> Object:
    """What Pod Security `restricted` asks of every one."""
    return {
        "image": image,
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": readiness, "port": 8080},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 30,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _trigger(name: str, subscriber: Mapping[str, Any], **chosen: Any) -> Object:
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": name},
        "spec": {"broker": BROKER, "subscriber": subscriber, **chosen},
    }


def _of_observer(path: str) -> Object:
    return {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": OBSERVER}, "uri": path}


def _addressable_resolver(name: str) -> Object:
    resources = ["inferenceservices", "inferenceservices/status"]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"duck.knative.dev/addressable": "true"}},
        "rules": [{"apiGroups": ["serving.kserve.io"], "resources": resources, "verbs": ["get", "list", "watch"]}],
    }
