"""What holds on the one-machine engine and on KServe with Knative alike; `make test-cluster` runs it on the latter.

Nothing in here may assume what only one of them gives. testbed/either_engine.py has the settings.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from testbed.either_engine import Cluster, chosen, namespace, request
from testbed.either_events import Events, answered, created, events
from testbed.either_objects import (
    MODEL,
    NO_SHARE,
    RETRY,
    SIDE,
    inference_service,
    model_uri,
    new_model,
    over_grpc,
    share,
)
from testbed.engine import picture
from testbed.kubernetes_api import needs_kubectl
from testbed.processes import wait_for
from whimbrel.core.cloudevent import json_event

pytestmark = needs_kubectl


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if chosen():
        assert os.environ.get("WHIMBREL_TEST_GATEWAY"), "set WHIMBREL_TEST_GATEWAY to HOST:PORT of its ingress"
        kubeconfig = Path(os.environ.get("KUBECONFIG") or "~/.kube/config").expanduser()
    else:
        kubeconfig = request.getfixturevalue("machine").state / "kubeconfig"
    with namespace(kubeconfig) as found:
        yield found


@pytest.fixture(scope="module")
def birds(cluster: Cluster) -> str:
    """An InferenceService whose tests follow each other."""
    cluster.apply(inference_service(cluster.image, "birds"))
    cluster.wait_ready("isvc", "birds")
    return "birds"


def test_it_is_ready_and_answers_by_v2_and_v1_paths(cluster: Cluster, birds: str) -> None:
    url, host = cluster.url("isvc", birds)
    with httpx.Client(base_url=url, headers={"host": host}, timeout=60, trust_env=False) as client:
        ready = client.get(f"/v2/models/{MODEL}/ready")
        metadata = client.get(f"/v2/models/{MODEL}")
        known = client.get(f"/v1/models/{MODEL}")
        refused = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": []})
        unknown = client.post("/v2/models/unknown/infer", json=request())

    assert (ready.status_code, metadata.status_code, known.status_code) == (200, 200, 200)
    assert metadata.json()["inputs"][0]["name"] == "images"
    assert (refused.status_code, unknown.status_code) == (400, 404)
    assert cluster.ask(birds) == {"one": 1}


def test_a_canary_takes_its_share_and_no_request_fails(cluster: Cluster, birds: str) -> None:
    cluster.patch(birds, *new_model("two", 20))
    cluster.wait_traffic(birds, {"02": 20, "01": 80})

    answered = cluster.ask(birds, 200, at_once=4)

    assert set(answered) == {"one", "two"}
    assert 12 <= answered["two"] <= 68, "200 at 20 %: five standard deviations"


def test_zero_percent_rolls_back(cluster: Cluster, birds: str) -> None:
    cluster.patch(birds, share(0))
    cluster.wait_traffic(birds, {"01": 100})

    assert cluster.ask(birds, 30) == {"one": 30}


def test_without_a_percent_it_is_promoted(cluster: Cluster, birds: str) -> None:
    cluster.patch(birds, NO_SHARE)
    cluster.wait_traffic(birds, {"02": 100})

    assert cluster.ask(birds, 30) == {"two": 30}
    component = cluster.component(birds)
    assert component["latestRolledoutRevision"].endswith("-00002")
    assert component["previousRolledoutRevision"].endswith("-00001")


def test_a_broken_revision_takes_no_traffic_and_the_old_template_ends_it(cluster: Cluster, birds: str) -> None:
    broken = {"name": "WHIMBREL_MODEL_URI", "value": "no such uri"}
    cluster.patch(birds, {"op": "replace", "path": "/spec/predictor/containers/0/env/0", "value": broken})
    wait_for(lambda: cluster.component(birds)["latestCreatedRevision"].endswith("-00003"), "the revision", 60)
    crashed = "the revision's process to have failed"
    wait_for(lambda: failures(cluster, f"{birds}-predictor-00003") > 0, crashed, 120)

    assert cluster.traffic(birds) == {"02": 100}
    assert cluster.ask(birds, 30) == {"two": 30}

    cluster.patch(birds, {"op": "replace", "path": "/spec/predictor/containers/0/env/0", "value": model_uri("two")})
    cluster.wait_traffic(birds, {"04": 100})
    cluster.wait_ready("isvc", birds)
    assert cluster.ask(birds) == {"two": 1}


def failures(cluster: Cluster, revision: str) -> int:
    """How often the containers of a revision have ended."""
    listed = cluster.kubectl("get", "pods", "-o", "json", "--selector", f"serving.knative.dev/revision={revision}")
    found: list[dict[str, Any]] = json.loads(listed)["items"]
    statuses = [each for pod in found for each in pod.get("status", {}).get("containerStatuses", [])]
    return sum(int(each.get("restartCount", 0)) for each in statuses)


def test_grpc_goes_through_with_its_trailers(cluster: Cluster) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

    cluster.apply(over_grpc(inference_service(cluster.image, "terns")))
    cluster.wait_ready("isvc", "terns")
    url, host = cluster.url("isvc", "terns")
    images = messages.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    images.contents.uint_contents.extend([0] * (SIDE * SIDE * 3))
    options = [("grpc.default_authority", host)]
    with grpc.insecure_channel(url.removeprefix("http://"), options=options) as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        ready = stub.ModelReady(messages.ModelReadyRequest(name=MODEL), timeout=60)
        answer = stub.ModelInfer(messages.ModelInferRequest(model_name=MODEL, inputs=[images]), timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(messages.ModelInferRequest(model_name=MODEL), timeout=60)
    cluster.kubectl("delete", "isvc", "terns")

    assert ready.ready
    assert {each.name for each in answer.outputs} >= {"indices", "scores"}
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def wood(cluster: Cluster) -> Iterator[Events]:
    with events(cluster, "wrens") as found:
        yield found


def test_an_image_is_classified_by_v1(cluster: Cluster, wood: Events) -> None:
    url, host = cluster.url("isvc", wood.classifier)
    instances = [{"b64": base64.b64encode(picture(number)).decode()} for number in (3, 14)]

    answer = httpx.post(
        f"{url}/v1/models/{wood.classifier}:predict",
        json={"instances": instances},
        headers={"host": host},
        timeout=60,
        trust_env=False,
    )

    assert answer.status_code == 200, answer.text
    assert [each[0]["label"] for each in answer.json()["predictions"]] == ["one-3", "one-4"]


def test_an_event_about_an_object_comes_out_as_its_result(wood: Events) -> None:
    wood.put("seven.png", picture(7))
    event = created("seven.png", len(picture(7)))

    def found() -> bool:
        return wood.post(event) < 300 and bool(wood.results("seven.png"))

    wait_for(found, "the result", 180)
    result = json.loads(wood.results("seven.png")[0].data or b"")
    assert result["schema"] == "whimbrel.dev/result/v1"
    assert result["predictions"][0]["label"] == "one-7"
    assert result["event"]["id"] == event.id


def test_what_is_no_image_becomes_a_dead_letter_with_its_reason(wood: Events) -> None:
    wood.put("letter.png", b"Dear bucket")
    event = created("letter.png", 11)

    wood.post(event)

    wait_for(lambda: bool(wood.of("/dead-letters", event)), "the dead letter", 180)
    [letter] = wood.of("/dead-letters", event)
    assert letter.extensions["knativeerrorcode"] == "415"
    assert "expected an image" in base64.b64decode(letter.extensions["knativeerrordata"]).decode()
    assert wood.results("letter.png") == []


STATUSES = {**dict.fromkeys((400, 401, 413, 422), 1), **dict.fromkeys((404, 408, 409, 429, 500, 503), RETRY + 1)}


@pytest.mark.parametrize(("status", "attempts"), STATUSES.items())
def test_a_failure_is_tried_as_often_as_its_status_asks_and_then_a_dead_letter(
    wood: Events, status: int, attempts: int
) -> None:
    event = answered(f"failing-{status}", str(status))

    wood.post(event)

    wait_for(lambda: bool(wood.of("/dead-letters", event)), "the dead letter", 180)
    [letter] = wood.of("/dead-letters", event)
    assert len(wood.of("/answers", event)) == attempts
    assert letter.extensions["knativeerrorcode"] == str(status)
    assert (letter.type, letter.data) == (event.type, event.data)


def test_what_works_at_the_last_attempt_is_no_dead_letter(wood: Events) -> None:
    event = answered("late", f"503.{RETRY}")

    assert wood.post(event) < 300

    wait_for(lambda: len(wood.of("/answers", event)) == RETRY + 1, "the last attempt", 180)
    assert wood.of("/dead-letters", event) == []


def test_an_event_that_no_trigger_asks_for_goes_nowhere(wood: Events) -> None:
    event = json_event(id="unasked", source="/either", type="either.unasked", data={})

    assert wood.post(event) < 300

    assert not any(wood.of(path, event) for path in ("/answers", "/results", "/dead-letters"))


def test_fifty_requests_at_zero_wait_and_none_is_lost(cluster: Cluster) -> None:
    cluster.apply(inference_service(cluster.image, "sleepers", minReplicas=0))
    cluster.wait_ready("isvc", "sleepers")
    label = "serving.kserve.io/inferenceservice=sleepers"
    wait_for(lambda: cluster.names("pods", label) == [], "no process to be left", 180)

    answered = cluster.ask("sleepers", 50, at_once=50)

    assert answered == {"one": 50}
    assert cluster.get("isvc", "sleepers")["status"]["components"]["predictor"]["latestReadyRevision"]


def test_what_is_deleted_leaves_nothing(cluster: Cluster, birds: str) -> None:
    cluster.apply(inference_service(cluster.image, "gone"))
    cluster.wait_ready("isvc", "gone")
    url, host = cluster.url("isvc", "gone")
    label = "serving.kserve.io/inferenceservice=gone"
    parts = [f"{each}.serving.knative.dev" for each in ("services", "configurations", "routes", "revisions")]
    kinds = ",".join([*parts, "pods"])
    there = {each.partition("/")[0].partition(".")[0] for each in cluster.names(kinds, label)}
    assert there >= {"revision", "pod"}

    cluster.kubectl("delete", "isvc", "gone")

    wait_for(lambda: cluster.names(kinds, label) == [], "an end of everything", 180)

    def unknown() -> bool:
        answer = httpx.get(f"{url}/v2/models/{MODEL}/ready", headers={"host": host}, timeout=30, trust_env=False)
        return answer.status_code == 404

    wait_for(unknown, "its host name to be nobody's", 60)
    assert cluster.names("isvc") != []
