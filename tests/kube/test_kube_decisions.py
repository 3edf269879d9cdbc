"""What the client decides without a server: kinds, order, merge patches, refusals, warnings, pods."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.kube import kinds
from whimbrel.kube.answers import Conflict, Forbidden, Gone, error_of, warnings_of
from whimbrel.kube.conditions import why_not_ready
from whimbrel.kube.events import read_event
from whimbrel.kube.merging import merge_patch
from whimbrel.kube.pods import instance, main_container, readiness, selector, trouble, troubles
from whimbrel.kube.waiting import Verdict, has_condition, has_new_status, is_gone, is_ready


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("isvc", kinds.INFERENCE_SERVICE),
        ("InferenceService", kinds.INFERENCE_SERVICE),
        ("inferenceservices.serving.kserve.io", kinds.INFERENCE_SERVICE),
        ("ksvc", kinds.KNATIVE_SERVICE),
        ("svc", kinds.SERVICE),
        ("triggers", kinds.TRIGGER),
        ("rollout", kinds.MODEL_ROLLOUT),
    ],
)
def test_a_kind_by_the_names_that_people_use(name: str, kind: kinds.Kind) -> None:
    assert kinds.kind_named(name) is kind


def test_a_name_that_is_no_kind() -> None:
    with pytest.raises(InputRefused, match=r"expected a kind such as isvc, .*seen 'inference'"):
        kinds.kind_named("inference")


def test_what_others_refer_to_is_applied_first() -> None:
    found = [{"kind": kind} for kind in ("ContainerSource", "Trigger", "Broker", "Service", "Secret", "Namespace")]

    assert [each["kind"] for each in kinds.in_order(found)] == [
        *("Namespace", "Secret", "Service", "Broker", "Trigger", "ContainerSource")
    ]


def test_a_kind_as_the_server_lists_it() -> None:
    listing = {
        "resources": [
            {"name": "scaledobjects/status", "kind": "ScaledObject", "namespaced": True},
            {"name": "scaledobjects", "kind": "ScaledObject", "namespaced": True},
        ]
    }

    found = kinds.discovered("keda.sh/v1alpha1", "ScaledObject", listing)

    assert found is not None
    assert (found.plural, found.namespaced, found.group) == ("scaledobjects", True, "keda.sh")
    assert kinds.discovered("keda.sh/v1alpha1", "ScaledJob", listing) is None


scalars = st.booleans() | st.integers() | st.text(max_size=3)
names = st.text("abc", min_size=1, max_size=2)
objects = st.recursive(
    st.dictionaries(names, scalars | st.lists(scalars, max_size=2), max_size=3),
    lambda inner: st.dictionaries(names, inner | scalars, max_size=3),
    max_leaves=12,
)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as its pseudo-code has it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(before=objects, after=objects)
def test_a_merge_patch_makes_the_one_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    unchanged = copy.deepcopy(before)

    assert merged(before, merge_patch(before, after)) == after
    assert before == unchanged
    assert merge_patch(after, after) == {}


def test_a_merge_patch_cannot_set_null() -> None:
    with pytest.raises(ValueError, match="leave the field out to remove it"):
        merge_patch({"a": 1}, {"a": None})


@pytest.mark.parametrize(
    ("code", "error"),
    [(422, InputRefused), (401, Forbidden), (403, Forbidden), (404, NotFound), (409, Conflict), (410, Gone)],
)
def test_what_a_status_means(code: int, error: type[Exception]) -> None:
    found = error_of(code, {"kind": "Status", "message": 'unknown field "spec.predictr"'}, "expected to apply it")

    assert type(found) is error
    assert 'unknown field "spec.predictr"' in str(found)


def test_an_answer_that_is_no_status() -> None:
    found = error_of(502, "<html>bad gateway</html>", "expected to read it")

    assert type(found) is Unavailable
    assert str(found) == "expected to read it; the API server answered 502: <html>bad gateway</html>"


def test_warnings_of_an_answer() -> None:
    headers = ['299 - "unknown field \\"spec.x\\""', '299 - "unknown field \\"spec.x\\""', '299 - "not enforced"', "x"]

    assert warnings_of(headers) == ('unknown field "spec.x"', "not enforced")


def pod(state: dict[str, Any], **status: Any) -> dict[str, Any]:
    mine = {"name": "kserve-container", "restartCount": 3, "ready": False, "state": state, **status}
    return {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "kserve-container"}, {"name": "queue-proxy"}]},
        "status": {"containerStatuses": [mine, {"name": "queue-proxy", "ready": True, "restartCount": 0}]},
    }


def test_what_is_wrong_with_a_pod() -> None:
    ended = {"terminated": {"exitCode": 2, "message": "whimbrel: setting WHIMBREL_MODEL_URI: missing\n"}}
    crashing = pod({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, lastState=ended)
    pulling = pod({"waiting": {"reason": "ImagePullBackOff", "message": 'pulling "a/b:1"'}})
    unscheduled = {
        "metadata": {"name": "q"},
        "status": {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nvidia.com/gpu"}
            ]
        },
    }

    assert troubles([crashing, pulling, unscheduled, pod({"running": {}})]) == [
        "pod p, kserve-container: CrashLoopBackOff: back-off, exit code 2, 3 restarts, "
        "last said: whimbrel: setting WHIMBREL_MODEL_URI: missing",
        'pod p, kserve-container: ImagePullBackOff: pulling "a/b:1", 3 restarts',
        "pod q: Unschedulable: 0/1 nvidia.com/gpu",
    ]
    assert trouble(pod({"waiting": {"reason": "ContainerCreating"}})) == ""


def test_the_log_of_each_start_is_another() -> None:
    running = pod({"running": {}})

    assert main_container(running) == "kserve-container"
    found = instance(running)
    assert found is not None
    assert (found.pod, found.restarts) == ("p", 3)
    assert instance(pod({"waiting": {"reason": "ContainerCreating"}})) is None
    assert readiness(running) == (1, 2, 3)


def test_the_pods_behind_an_object() -> None:
    assert (
        selector(kinds.INFERENCE_SERVICE, "digits", "predictor")
        == "serving.kserve.io/inferenceservice=digits,component=predictor"
    )
    with pytest.raises(InputRefused, match="expected what has pods"):
        selector(kinds.TRIGGER, "objects")
    with pytest.raises(InputRefused, match="expected --component with an InferenceService"):
        selector(kinds.REVISION, "digits-00001", "predictor")


def test_verdicts() -> None:
    broker = {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": {}}
    ready = {**broker, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    assert is_ready(None) == Verdict("waiting", "it does not exist")
    assert is_ready(broker).state == "waiting"
    assert is_ready(ready).state == "done"
    assert is_ready({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}).state == "done"
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {}}
    assert is_ready({**budget, "status": {"conditions": [{"type": "DisruptionAllowed"}]}}).state == "done"
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}}
    available = {"conditions": [{"type": "Available", "status": "True"}]}
    assert is_ready(deployment) == Verdict("waiting", "it has no condition Available")
    assert is_ready({**deployment, "status": available}).state == "done"
    assert is_gone(None).state == "done"
    assert "foregroundDeletion" in is_gone({"metadata": {"finalizers": ["foregroundDeletion"]}}).why
    assert has_condition("Ready")(ready).state == "done"
    assert has_condition("Ready", "False")(ready).why == "Ready is True"
    assert has_condition("Other")(ready).why == "it has no condition Other"
    assert has_new_status(broker)(broker).state == "waiting"
    assert has_new_status(broker)(ready).state == "done"


def test_a_status_of_the_generation_before_is_not_believed() -> None:
    status = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}
    service = {"kind": "Service", "metadata": {"generation": 2}, "status": status}

    assert "no controller has looked at the change" in str(why_not_ready(service))
    assert why_not_ready({**service, "kind": "InferenceService"}) is None, "KServe's counts something else"


def test_an_event_of_either_form() -> None:
    old = {
        "type": "Warning",
        "reason": "BackOff",
        "message": "Back-off\nrestarting",
        "count": 4,
        "lastTimestamp": "2026-01-01T00:00:02Z",
        "involvedObject": {"kind": "Pod", "name": "p"},
    }
    new = {"eventTime": "2026-01-01T00:00:01Z", "series": {"count": 7, "lastObservedTime": "2026-01-01T00:00:03Z"}}

    assert (read_event(old).object, read_event(old).message, read_event(old).count) == (
        "pod/p",
        "Back-off restarting",
        4,
    )
    assert read_event(old).is_warning
    assert (read_event(new).time, read_event(new).count) == ("2026-01-01T00:00:03Z", 7)
