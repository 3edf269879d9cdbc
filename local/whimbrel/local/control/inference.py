"""InferenceServices: the Knative services that KServe makes of one, and the status that it shows of them; pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.autoscaling import GROUP as AUTOSCALING
from whimbrel.local.control import conditions, names
from whimbrel.local.control.conditions import Condition
from whimbrel.local.control.runtimes import model_container
from whimbrel.local.control.world import owner_reference
from whimbrel.local.rollout import Target, observed, read_rollout, read_traffic, split

COMPONENTS = ("predictor", "transformer")
_DEFAULT_TIMEOUT = 300
_NOT_PASSED_ON = (names.LAST_APPLIED, "serving.knative.dev/rollout-duration")
# What of a component is the pod's, beside its containers.
_POD_FIELDS = ("containerConcurrency", "volumes", "serviceAccountName", "enableServiceLinks")


def present(service: Object) -> list[str]:
    """The components that this InferenceService has, in the order in which they start."""
    return [each for each in COMPONENTS if service["spec"].get(each) is not None]


def entry(service: Object) -> str:
    """The component that answers for the whole."""
    return present(service)[-1]


def component_name(service: Object, component: str) -> str:
    return f"{service['metadata']['name']}-{component}"


def knative_service(service: Object, component: str, runtimes: Sequence[Object]) -> Object:
    """What KServe asks Knative for. Raises InputRefused where no runtime takes the model."""
    namespace, name = names.of(service)
    spec = service["spec"][component]
    labels = names.labels_of(service) | dict(spec.get("labels") or {})
    labels |= {names.INFERENCE_SERVICE_LABEL: name, names.COMPONENT_LABEL: component}
    pod, runtime = _pod(service, component, runtimes)
    annotations = _annotations(service, spec)
    if runtime is not None and names.COMMAND in names.annotations_of(runtime):
        annotations.setdefault(names.COMMAND, names.annotations_of(runtime)[names.COMMAND])
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    rollout = read_rollout(_status_of(service, component))
    return {
        "metadata": {
            "name": component_name(service, component),
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "spec": {
            "template": template,
            "traffic": [_written(target) for target in split(spec.get("canaryTrafficPercent"), rollout)],
        },
    }


def status(
    service: Object,
    services: Mapping[str, Object | None],
    faults: Mapping[str, str],
    *,
    failure: Mapping[str, Any] | None,
    addresses: tuple[str, str],
    now: str,
) -> dict[str, Any]:
    """The status, given its Knative services, what each component was refused for, and its processes' last failure.

    `addresses` are its URL at the gateway and the one that processes of this machine use.
    """
    before = service.get("status") or {}
    components = {each: _component_status(service, each, services.get(each)) for each in present(service)}
    listed = list(_conditions(service, services, faults))
    found: dict[str, Any] = {
        "components": components,
        "conditions": conditions.merged(before.get("conditions", []), listed, now),
        "deploymentMode": "Knative",
        "modelStatus": _model_status(service, components, faults, failure),
        "observedGeneration": service["metadata"].get("generation", 1),
    }
    if any(each.type == "IngressReady" and each.status == "True" for each in listed):
        found |= {"url": addresses[0], "address": {"url": addresses[1]}}
    return found


def _annotations(service: Object, spec: Mapping[str, Any]) -> dict[str, str]:
    found = {name: value for name, value in names.annotations_of(service).items() if name not in _NOT_PASSED_ON}
    found |= dict(spec.get("annotations") or {})
    found[AUTOSCALING + "min-scale"] = str(spec.get("minReplicas", 1))
    if spec.get("maxReplicas"):
        found[AUTOSCALING + "max-scale"] = str(spec["maxReplicas"])
    for field, name in (("scaleTarget", "target"), ("scaleMetric", "metric")):
        if spec.get(field):
            found[AUTOSCALING + name] = str(spec[field])
    if storage := (spec.get("model") or {}).get("storageUri"):
        found[names.STORAGE_URI] = storage
    return found


def _pod(service: Object, component: str, runtimes: Sequence[Object]) -> tuple[dict[str, Any], Object | None]:
    """The pod, and the runtime that it is of."""
    runtime: Object | None = None
    spec = service["spec"][component]
    pod = {field: copy.deepcopy(spec[field]) for field in _POD_FIELDS if field in spec}
    pod["timeoutSeconds"] = spec.get("timeout", _DEFAULT_TIMEOUT)
    if "model" in spec:
        container, volumes, runtime = model_container(service, spec["model"], runtimes)
        pod.setdefault("volumes", volumes)
        pod["containers"] = [container]
    else:
        pod["containers"] = copy.deepcopy(spec["containers"])
    if component == "transformer":
        container = pod["containers"][0]
        container["args"] = [*_given_to_transformer(service), *container.get("args", [])]
    return pod, runtime


def _given_to_transformer(service: Object) -> list[str]:
    """The arguments that KServe puts before a transformer's own."""
    namespace, name = names.of(service)
    predictor = names.cluster_host(component_name(service, "predictor"), namespace)
    return ["--model_name", name, "--predictor_host", predictor, "--http_port", "$(PORT)"]


def _written(target: Target) -> dict[str, Any]:
    found: dict[str, Any] = {"latestRevision": target.latest, "percent": target.percent, "tag": target.tag}
    return found if target.latest else found | {"revisionName": target.revision}


def _status_of(service: Object, component: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (service.get("status") or {}).get("components", {}).get(component, {})
    return found


def _component_status(service: Object, component: str, knative: Object | None) -> dict[str, Any]:
    before = _status_of(service, component)
    seen = (knative or {}).get("status")
    if not seen:
        return dict(before)
    traffic = seen.get("traffic", [])
    rollout = observed(
        read_rollout(before),
        seen.get("latestCreatedRevisionName", ""),
        seen.get("latestReadyRevisionName", ""),
        read_traffic(traffic),
    )
    found = {
        "latestCreatedRevision": rollout.created,
        "latestReadyRevision": rollout.ready,
        "latestRolledoutRevision": rollout.rolled_out,
        "previousRolledoutRevision": rollout.previous,
        "traffic": traffic,
    }
    if conditions.is_ready(knative) or "url" in before:
        found |= {"url": seen.get("url"), "address": seen.get("address")}
    return {name: value for name, value in found.items() if value}


def _conditions(
    service: Object, services: Mapping[str, Object | None], faults: Mapping[str, str]
) -> Iterator[Condition]:
    configurations, routes, ready = [], [], []
    for component in present(service):
        title, found = component.capitalize(), services.get(component)
        info = component != "predictor"
        if fault := faults.get(component):
            failed = Condition(f"{title}Ready", "False", "ReconcileFailed", fault, info)
            ready.append(failed)
            yield failed
            continue
        configurations.append(_renamed(found, "ConfigurationsReady", f"{title}ConfigurationReady", info=True))
        routes.append(_renamed(found, "RoutesReady", f"{title}RouteReady", info=True))
        ready.append(_renamed(found, "Ready", f"{title}Ready", info=info))
        yield from (configurations[-1], routes[-1], ready[-1])
    complete = len(routes) == len(present(service))
    was_open = conditions.read(service, "IngressReady").status == "True"
    open_ = complete and (was_open or all(each.status == "True" for each in routes))
    ingress = Condition("IngressReady", "True" if open_ else "Unknown")
    yield ingress
    yield conditions.together("LatestDeploymentReady", configurations, info=True, named=True)
    yield conditions.together("RoutesReady", routes, info=True, named=True)
    yield conditions.together("Ready", [ingress, *ready])
    yield Condition("Stopped", "False", info=True)


def _renamed(found: Object | None, of: str, to: str, *, info: bool) -> Condition:
    seen = conditions.read(found, of)
    return Condition(to, seen.status, seen.reason, seen.message, info)


def _model_status(
    service: Object,
    components: Mapping[str, Mapping[str, Any]],
    faults: Mapping[str, str],
    failure: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Of the predictor: what is loaded and what shall be. The last failure stays, as KServe's does."""
    predictor = components.get("predictor", {})
    created, ready = predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision")
    before = (service.get("status") or {}).get("modelStatus") or {}
    last = dict(failure) if failure else before.get("lastFailureInfo")
    if fault := faults.get("predictor"):
        return {
            "transitionStatus": "InvalidSpec",
            "lastFailureInfo": {"reason": "NoSupportingModel", "message": fault},
        }
    up_to_date = bool(ready) and created == ready
    if failure and not up_to_date:
        target, transition = "FailedToLoad", "BlockedByFailedLoad"
    else:
        target, transition = ("Loaded", "UpToDate") if up_to_date else ("Pending", "InProgress")
    found: dict[str, Any] = {
        "copies": {"failedCopies": 1 if target == "FailedToLoad" else 0},
        "states": {"activeModelState": "Loaded" if ready else "", "targetModelState": target},
        "transitionStatus": transition,
    }
    return found | ({"lastFailureInfo": last} if last else {})


def runtimes_of(service: Object, found: Sequence[Object]) -> list[Object]:
    """Those of its namespace first, then those of the cluster."""
    own = [each for each in found if each["metadata"].get("namespace") == service["metadata"]["namespace"]]
    return own + [each for each in found if "namespace" not in each["metadata"]]
