"""The API over plain HTTP: who may ask, what is refused and how, watches, pages, and what a kill leaves."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.kubernetes_api import KubernetesApi, inference_service, kubernetes_api, wait_until_ready
from testbed.processes import environment, wait_for
from whimbrel.local.api import protobuf

ISVCS = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENT = b"k8s\x00\x0a\x15\x0a\x07apps/v1\x12\x0aDeployment"  # the start of what kubectl sends
EVENTS = "/api/v1/namespaces/default/events"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    state = tmp_path_factory.mktemp("api")
    with kubernetes_api(
        state, "--api-logs", str(state / "logs"), "--api-max-watches", "5", "--api-bookmark-seconds", "0.2"
    ) as started:
        yield started


@pytest.fixture
def client(api: KubernetesApi) -> Iterator[httpx.Client]:
    with api.client() as opened:
        yield opened


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def made(client: httpx.Client, path: str, found: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=found)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def events(client: httpx.Client, path: str, **parameters: str) -> Iterator[dict[str, Any]]:
    """The events of one watch, for as long as it is read."""
    with client.stream("GET", path, params={"watch": "true", **parameters}) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            yield json.loads(line)


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer no"}, {"authorization": ""}, {"authorization": "Basic x"}]
)
def test_without_the_token_nobody_gets_anything(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get(ISVCS, headers=headers)
    assert answer.status_code == 401 and answer.json()["reason"] == "Unauthorized"
    assert "expected the token of the kubeconfig" in answer.json()["message"]


def test_a_page_under_another_name_gets_nothing(client: httpx.Client) -> None:
    answer = client.get(ISVCS, headers={"host": "evil.example"})
    assert answer.status_code == 403 and "expected a loopback name as Host" in answer.json()["message"]


def test_secrets_are_readable_by_their_owner_alone(api: KubernetesApi) -> None:
    found = [api.kubeconfig, *(api.state / "api").iterdir(), *api.state.glob("objects.db*")]
    assert len(found) >= 5
    assert {file.stat().st_mode & 0o077 for file in found} == {0}


def test_plain_http_is_not_answered(api: KubernetesApi, client: httpx.Client) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(str(client.base_url).replace("https", "http") + "/version", timeout=10)
    with pytest.raises(httpx.ConnectError):  # another authority's certificate is not ours
        httpx.get(str(client.base_url) + "/version", verify=ssl.create_default_context(), timeout=10)


@pytest.mark.parametrize(
    ("body", "status", "reason", "message"),
    [
        (b"{", 400, "BadRequest", "cannot be read as application/json"),
        (b"[]", 400, "BadRequest", "expected an object"),
        (b'{"kind": "Pod"}', 400, "BadRequest", "kind: expected ConfigMap at this path, seen 'Pod'"),
        (b'{"metadata": {"name": "x", "namespace": "y"}}', 400, "BadRequest", "metadata.namespace: expected default"),
        (b'{"data": {"a": "1"}, "data": {}}', 400, "BadRequest", "the field 'data' is there twice"),
        (b'{"data": {"a": NaN}}', 400, "BadRequest", "NaN is not a JSON value"),
        (b"[" * 5_000 + b"]" * 5_000, 400, "BadRequest", "cannot be read as application/json"),
        (b"[" * 150 + b"]" * 150, 400, "BadRequest", "expected 100 levels"),
        (b'{"metadata": {"name": "NO"}}', 422, "Invalid", "metadata.name"),
        (b'{"metadata": {"name": "x", "nmae": "y"}}', 400, "BadRequest", "not supported on one machine: metadata.nmae"),
    ],
)
def test_a_wrong_body_is_refused_in_one_line(
    client: httpx.Client, body: bytes, status: int, reason: str, message: str
) -> None:
    answer = client.post(MAPS, content=body, headers={"content-type": "application/json"})
    found = answer.json()
    assert (answer.status_code, found["code"], found["reason"], found["kind"]) == (status, status, reason, "Status")
    assert message in found["message"] and "\n" not in found["message"]


def test_other_wrong_requests(client: httpx.Client) -> None:
    for body, media, status in (
        (b"x", "text/plain", 415),
        (b"x", protobuf.MEDIA_TYPE, 400),
        (DEPLOYMENT, protobuf.MEDIA_TYPE, 415),
    ):
        assert client.post(MAPS, content=body, headers={"content-type": media}).status_code == status
    assert client.get(MAPS, headers={"accept": "application/vnd.kubernetes.protobuf"}).status_code == 406
    assert client.get("/api/v1/namespaces/default/wishes").status_code == 404
    assert client.get(f"{MAPS}/missing").json()["details"] == {"name": "missing", "group": "", "kind": "configmaps"}
    assert client.get(MAPS, params={"labelSelector": "a in b"}).status_code == 400
    assert client.get(MAPS, params={"limit": "-1"}).status_code == 400
    assert client.get(MAPS, params={"continue": "%%%"}).status_code == 400
    assert client.post(MAPS, params={"dryRun": "Some"}, json=config_map("x")).status_code == 400
    assert client.patch(f"{MAPS}/x", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.request("TRACE", MAPS).status_code == 405


def test_yaml_that_repeats_itself_without_end_is_refused(client: httpx.Client) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    answer = client.post(MAPS, content="\n".join(lines), headers={"content-type": "application/yaml"})
    assert answer.status_code == 400 and "values at most" in answer.json()["message"]


def test_yaml_is_read_as_json_has_it(client: httpx.Client) -> None:
    text = "metadata: {name: written-as-yaml, annotations: {when: '2026-01-01'}}\ndata: {2026-01-01: x, 1: y}"
    answer = client.post(MAPS, content=text, headers={"content-type": "application/yaml"})
    assert answer.status_code == 201 and sorted(answer.json()["data"].values()) == ["x", "y"]


def test_a_body_beyond_the_limit_is_not_read(client: httpx.Client) -> None:
    answer = client.post(MAPS, content=(b" " * 65536 for _ in range(64)), headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "3145728 bytes at most" in answer.json()["message"]


def test_unknown_fields_are_refused_warned_of_or_dropped_as_asked(client: httpx.Client) -> None:
    misspelt = inference_service("misspelt", minReplcas=1)
    strict = client.post(ISVCS, json=misspelt)
    assert strict.status_code == 400
    assert [cause["field"] for cause in strict.json()["details"]["causes"]] == ["spec.predictor.minReplcas"]
    warned = client.post(ISVCS, params={"fieldValidation": "Warn"}, json=misspelt)
    assert warned.status_code == 201 and "minReplcas" not in warned.json()["spec"]["predictor"]
    assert warned.headers.get_list("warning")[0] == (
        '299 - "InferenceService \'misspelt\': unknown field \\"spec.predictor.minReplcas\\""'
    )
    assert "minReplcas" not in client.get(f"{ISVCS}/misspelt").json()["spec"]["predictor"]
    ignored = client.put(f"{ISVCS}/misspelt", params={"fieldValidation": "Ignore"}, json=misspelt)
    assert ignored.status_code == 200 and "warning" not in ignored.headers
    assert client.get(ISVCS, params={"fieldValidation": "Maybe"}).status_code == 200
    assert client.post(ISVCS, params={"fieldValidation": "Maybe"}, json=misspelt).status_code == 400


def test_what_is_not_enforced_is_warned_of(client: httpx.Client) -> None:
    answer = client.post(ISVCS, json=inference_service("warned", enableServiceLinks=False))
    assert answer.headers["warning"] == (
        "299 - \"InferenceService 'warned': accepted, but not enforced on one machine: "
        'spec.predictor.enableServiceLinks"'
    )


def test_a_secret_keeps_no_plain_text(client: httpx.Client) -> None:
    path = "/api/v1/namespaces/default/secrets"
    found = made(client, path, {"metadata": {"name": "s"}, "stringData": {"password": "warbler"}})
    assert found["data"] == {"password": "d2FyYmxlcg=="} and "stringData" not in found and found["type"] == "Opaque"
    answer = client.post(path, json={"metadata": {"name": "t"}, "data": {"password": "plain"}})
    assert answer.status_code == 422 and answer.json()["details"]["causes"][0]["field"] == "data.password"


FIELDS = ["metadata", "spec", "data", "stringData", "status", "name", "labels", "annotations", "finalizers", "uid"]
FIELDS += ["ownerReferences", "managedFields", "generateName", "namespace", "predictor", "containers", "fieldsV1"]
FIELDS += ["resourceVersion", "$patch", "$retainKeys", "$setElementOrder/containers", "f:spec", "preconditions"]
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), below, max_size=4),
    max_leaves=12,
)
METADATA = st.dictionaries(st.sampled_from(FIELDS), ANY_VALUE, max_size=3)
PARTS = dict.fromkeys(("spec", "data", "stringData", "status", "involvedObject", "subsets"), ANY_VALUE)
OBJECTS = ANY_VALUE | st.fixed_dictionaries({"metadata": METADATA}, optional=PARTS)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "fly"])},
    optional={
        "path": st.sampled_from(["", "/spec", "/metadata/labels/a", "/data/-", "x"]),
        "value": ANY_VALUE,
        "from": ANY_VALUE,
    },
)
PATCHES = OBJECTS | st.lists(OPERATIONS, max_size=3)
COLLECTIONS = [MAPS, ISVCS, PODS, EVENTS, "/api/v1/namespaces/default/secrets"]
MEDIA = ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(COLLECTIONS), body=OBJECTS, more=PATCHES, media=st.sampled_from(MEDIA))
def test_no_body_makes_the_server_fail(client: httpx.Client, path: str, body: Any, more: Any, media: str) -> None:
    table = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    patch = {"content-type": f"application/{media}"}
    options = {"fieldManager": "test", "force": "true", "fieldValidation": "Ignore"}
    metadata = body.get("metadata") if isinstance(body, dict) else None
    named = {**body, "metadata": {**metadata, "name": "odd"}} if isinstance(metadata, dict) else body
    answers = [
        client.post(path, json=named, params={"fieldValidation": "Ignore"}),
        client.put(f"{path}/odd", json=body),
        client.patch(f"{path}/odd", content=json.dumps(more), headers=patch, params=options),
        client.patch(f"{path}/odd/status", content=json.dumps(more), headers=patch, params=options),
        client.get(path, headers=table),
        client.request("DELETE", f"{path}/odd", json=more),
    ]
    assert [answer.text for answer in answers if answer.status_code >= 500] == []
    assert answers[4].status_code == 200
    found = client.get(f"{path}/odd")
    if found.status_code == 200:  # a finalizer
        bare = {**found.json()["metadata"], "finalizers": []}
        client.patch(f"{path}/odd", json={"metadata": bare}, headers={"content-type": "application/merge-patch+json"})
        client.delete(f"{path}/odd")


def test_a_stale_put_conflicts(client: httpx.Client) -> None:
    first = made(client, MAPS, config_map("stale", a="1"))
    assert client.put(f"{MAPS}/stale", json={**first, "data": {"a": "2"}}).status_code == 200
    answer = client.put(f"{MAPS}/stale", json={**first, "data": {"a": "3"}})
    assert answer.status_code == 409 and answer.json()["reason"] == "Conflict"
    merge = {"content-type": "application/merge-patch+json"}
    stale = json.dumps({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "4"}})
    assert client.patch(f"{MAPS}/stale", content=stale, headers=merge).status_code == 409


def test_the_status_is_a_subresource(client: httpx.Client) -> None:
    found = made(client, ISVCS, inference_service("with-status"))
    merge = {"content-type": "application/merge-patch+json"}
    written = client.patch(f"{ISVCS}/with-status/status", content=b'{"status": {"url": "http://x"}}', headers=merge)
    assert written.json()["status"] == {"url": "http://x"} and written.json()["spec"] == found["spec"]
    assert client.get(f"{ISVCS}/with-status/status").json()["metadata"]["generation"] == 1
    assert client.get(f"{ISVCS}/with-status/scale").status_code == 404
    assert client.get(f"{MAPS}/kube-root-ca.crt/status").status_code == 404


def test_pages_name_where_to_go_on(client: httpx.Client) -> None:
    for number in range(5):
        made(client, MAPS, {"metadata": {"name": f"page-{number}", "labels": {"test": "pages"}}})
    names, token = [], ""
    while True:
        parameters = {"limit": "2", "labelSelector": "test=pages", **({"continue": token} if token else {})}
        found = client.get(MAPS, params=parameters).json()
        names += [each["metadata"]["name"] for each in found["items"]]
        token = found["metadata"].get("continue", "")
        if not token:
            break
    assert names == [f"page-{number}" for number in range(5)]


def test_a_collection_is_deleted_by_its_selector(client: httpx.Client) -> None:
    for name, value in (("goes-1", "yes"), ("goes-2", "yes"), ("stays", "no")):
        made(client, MAPS, {"metadata": {"name": name, "labels": {"goes": value}}})
    assert client.delete(MAPS, params={"labelSelector": "goes=yes"}).json()["status"] == "Success"
    left = client.get(MAPS, params={"labelSelector": "goes"}).json()["items"]
    assert [each["metadata"]["name"] for each in left] == ["stays"]


def test_a_delete_has_preconditions_and_a_rehearsal(client: httpx.Client) -> None:
    found = made(client, MAPS, config_map("condition"))
    other = client.request("DELETE", f"{MAPS}/condition", json={"preconditions": {"uid": "other"}})
    assert other.status_code == 409
    assert client.request("DELETE", f"{MAPS}/condition", json={"dryRun": ["All"]}).status_code == 200
    assert client.get(f"{MAPS}/condition").json()["metadata"]["uid"] == found["metadata"]["uid"]
    body = {"preconditions": {"uid": found["metadata"]["uid"]}, "propagationPolicy": "Foreground"}
    assert client.request("DELETE", f"{MAPS}/condition", json=body).status_code == 200
    assert client.get(f"{MAPS}/condition").status_code == 404


def test_a_table_has_the_columns_of_the_real_resource(client: httpx.Client) -> None:
    made(client, ISVCS, inference_service("columned"))
    traffic = [
        {"latestRevision": True, "percent": 20, "revisionName": "columned-00002"},
        {"tag": "prev", "percent": 80, "revisionName": "columned-00001"},
    ]
    status = {
        "url": "http://columned.default.localhost",
        "conditions": [{"type": "Ready", "status": "True"}],
        "components": {"predictor": {"traffic": traffic}},
    }
    merge = {"content-type": "application/merge-patch+json"}
    client.patch(f"{ISVCS}/columned/status", content=json.dumps({"status": status}), headers=merge)
    accept = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    found = client.get(f"{ISVCS}/columned", headers=accept).json()
    names = [column["name"] for column in found["columnDefinitions"]]
    cells = dict(zip(names, found["rows"][0]["cells"], strict=True))
    assert cells.pop("Age").endswith("s")
    assert cells == {
        "Name": "columned",
        "URL": "http://columned.default.localhost",
        "Ready": "True",
        "Prev": 80,
        "Latest": 20,
        "PrevRolledoutRevision": "columned-00001",
        "LatestReadyRevision": "columned-00002",
    }
    assert found["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


def test_a_watch_starts_with_what_is_there_and_ends_in_time(client: httpx.Client) -> None:
    made(client, MAPS, {"metadata": {"name": "seen", "labels": {"test": "watch"}}})
    found = [*events(client, MAPS, labelSelector="test=watch", timeoutSeconds="1")]
    assert [(each["type"], each["object"]["metadata"]["name"]) for each in found] == [("ADDED", "seen")]


def test_a_watch_goes_on_from_a_version_with_bookmarks(client: httpx.Client, api: KubernetesApi) -> None:
    first = made(client, MAPS, config_map("watched", a="1"))
    path = {"fieldSelector": "metadata.name=watched", "allowWatchBookmarks": "true"}
    seen = []
    for event in events(client, MAPS, resourceVersion=first["metadata"]["resourceVersion"], **path):
        seen.append(event["type"])
        if seen == ["BOOKMARK"]:  # nothing had changed: now it does
            assert int(event["object"]["metadata"]["resourceVersion"]) >= int(first["metadata"]["resourceVersion"])
            with api.client() as other:
                other.put(f"{MAPS}/watched", json={**first, "data": {"a": "2"}})
                other.delete(f"{MAPS}/watched")
        if event["type"] == "DELETED":
            break
    assert [each for each in seen if each != "BOOKMARK"] == ["MODIFIED", "DELETED"]


def test_a_watch_of_an_unknown_past_or_future_is_gone(client: httpx.Client) -> None:
    answer = client.get(MAPS, params={"watch": "true", "resourceVersion": "99999999"})
    assert answer.status_code == 410 and answer.json()["reason"] == "Expired"


def test_more_watches_than_the_limit_are_refused_until_one_ends(api: KubernetesApi, client: httpx.Client) -> None:
    watches: list[httpx.Response] = []

    def opened() -> bool:
        """Not while the watches of an earlier test are not over yet."""
        answer = client.send(client.build_request("GET", MAPS, params={"watch": "true"}), stream=True)
        (watches.append if answer.status_code == 200 else httpx.Response.close)(answer)
        return answer.status_code == 200

    for _ in range(5):
        wait_for(opened, "a place for a watch")
    refused = client.get(MAPS, params={"watch": "true"})
    assert refused.status_code == 429 and refused.headers["retry-after"]
    watches.pop().close()
    wait_for(opened, "the place of the watch that ended")
    for each in watches:
        each.close()


def pod(name: str, *containers: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": each, "image": "x"} for each in containers]}}


def test_logs_are_the_end_of_a_file_and_what_follows(api: KubernetesApi, client: httpx.Client) -> None:
    made(client, PODS, pod("logged", "main", "side"))
    file = api.state / "logs" / "default" / "logged" / "main.log"
    assert client.get(f"{PODS}/logged/log").status_code == 400  # which of the two
    assert client.get(f"{PODS}/logged/log", params={"container": "main"}).status_code == 404
    file.parent.mkdir(parents=True)
    file.write_text("one\ntwo\nthree\n")
    assert client.get(f"{PODS}/logged/log", params={"container": "main"}).text == "one\ntwo\nthree\n"
    tail = {"container": "main", "tailLines": "2"}
    assert client.get(f"{PODS}/logged/log", params=tail).text == "two\nthree\n"
    assert client.get(f"{PODS}/logged/log", params={**tail, "tailLines": "0"}).text == ""
    assert client.get(f"{PODS}/logged/log", params={**tail, "limitBytes": "3"}).text == "two"
    assert client.get(f"{PODS}/logged/log", params={**tail, "sinceSeconds": "5"}).status_code == 400
    with client.stream("GET", f"{PODS}/logged/log", params={**tail, "follow": "true"}) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["two", "three"]
        with file.open("a") as more:
            more.write("four\n")
        assert next(lines) == "four"
        file.rename(file.with_suffix(".log.1"))
        file.write_text("five\n")
        assert next(lines) == "five"
        assert client.get(f"{PODS}/logged/log", params={"container": "main", "previous": "true"}).text.endswith(
            "four\n"
        )
        with api.client() as other:
            other.delete(f"{PODS}/logged")
        assert [*lines] == []  # the pod has gone, so nobody writes


def test_discovery_and_reviews(client: httpx.Client) -> None:
    assert client.get("/api").json()["versions"] == ["v1"]
    group = client.get("/apis/serving.kserve.io").json()
    assert group["preferredVersion"]["version"] == "v1beta1"
    names = {each["name"] for each in client.get("/apis/serving.kserve.io/v1beta1").json()["resources"]}
    assert names == {"inferenceservices", "inferenceservices/status"}
    index = client.get("/openapi/v3").json()["paths"]
    document = client.get(index["apis/serving.kserve.io/v1beta1"]["serverRelativeURL"]).json()
    patch = document["paths"][ISVCS.replace("/default/", "/{namespace}/") + "/{name}"]["patch"]
    assert "fieldValidation" in [each["name"] for each in patch["parameters"]]
    review = client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json={"spec": {}})
    assert review.status_code == 201 and review.json()["status"]["allowed"] is True


def test_a_kill_loses_nothing_and_the_watch_goes_on(tmp_path: Path) -> None:
    with kubernetes_api(tmp_path / "state") as api:
        token = json.loads(api.kubeconfig.read_text())["users"][0]["user"]["token"]
        answered = _written_until_killed(api)
        api.process.wait_until(lambda: True, "start")
        wait_until_ready(api)
        assert json.loads(api.kubeconfig.read_text())["users"][0]["user"]["token"] == token
        with api.client() as client:
            present = {each["metadata"]["name"]: each for each in client.get(MAPS).json()["items"]}
            assert {name for name, _ in answered} <= present.keys()
            version = answered[0][1]
            after = [each["object"]["metadata"]["name"] for each in _first(client, version, len(answered) - 1)]
            assert after == [name for name, _ in answered[1:]]
        api.process.signal(signal.SIGTERM)
        assert api.process.process.wait(60) == 0


def _written_until_killed(api: KubernetesApi) -> list[tuple[str, str]]:
    """What was answered before the server died in the middle, with its versions."""
    answered: list[tuple[str, str]] = []
    enough = threading.Event()

    def write() -> None:
        with api.client() as client:
            for number in range(100_000):
                try:
                    found = made(client, MAPS, config_map(f"c-{number:05}"))
                except httpx.HTTPError:
                    return
                answered.append((found["metadata"]["name"], found["metadata"]["resourceVersion"]))
                if len(answered) == 50:
                    enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(60)
    api.process.kill_and_restart()
    writer.join(60)
    return answered


def _first(client: httpx.Client, version: str, count: int) -> list[dict[str, Any]]:
    watched = events(client, MAPS, resourceVersion=version)
    return [next(watched) for _ in range(count)]


def test_one_engine_a_state_folder(api: KubernetesApi) -> None:
    command = [sys.executable, "-m", "whimbrel.local.api", "--state", str(api.state)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert ended.returncode == 2 and "is in use by process" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_state_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "whimbrel.local.api", "--state", str(tmp_path / "file" / "state")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert ended.returncode == 2 and "expected to write into the state folder" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_stop_ends_watches_and_exits_with_0(tmp_path: Path) -> None:
    with kubernetes_api(tmp_path / "state") as api, api.client() as client:
        watched = events(client, MAPS)
        made(client, MAPS, config_map("here"))
        assert next(watched)["type"] == "ADDED"
        api.process.signal(signal.SIGTERM)
        assert [*watched] == []
        assert api.process.process.wait(60) == 0
