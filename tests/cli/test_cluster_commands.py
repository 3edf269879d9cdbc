"""apply, ls, describe, logs, wait and delete against the API server of the one-machine engine, from a user's files."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from testbed.kubernetes_api import KubernetesApi, kubernetes_api
from testbed.processes import wait_for
from whimbrel.cli.app import app
from whimbrel.core.errors import DeadlinePassed, InputRefused, NotFound

FUNCTION = """\
schema: whimbrel.dev/function/v1
name: birds
input:
  bucket: photos
  source: {kind: sqs, queue: birds}
model: null:10
"""
STATUSES = Path(__file__).parent.parent / "data" / "kserve" / "status"
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    state = tmp_path_factory.mktemp("api")
    with kubernetes_api(state, "--api-logs", str(state / "logs")) as started:
        yield started


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def run(api: KubernetesApi, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in the test's own namespace and folder; what it raises is what `whimbrel` prints as its one line."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["apply", "-f", "-"], input=_namespace(namespace))
    assert made.exit_code == 0, made.output

    def command(*arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(app, [*arguments, "-n", namespace], input=given)

    return command


def _namespace(name: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def told(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(result: Result, kind: type[Exception]) -> str:
    assert isinstance(result.exception, kind), (result.output, result.exception)
    return str(result.exception)


def set_status(api: KubernetesApi, namespace: str, plural: str, name: str, status: dict[str, Any]) -> None:
    """What a controller does."""
    groups = {"inferenceservices": "serving.kserve.io/v1beta1", "brokers": "eventing.knative.dev/v1", "pods": ""}
    prefix = f"/apis/{groups[plural]}" if groups[plural] else "/api/v1"
    path = f"{prefix}/namespaces/{namespace}/{plural}/{name}/status"
    with api.client(**{"content-type": "application/merge-patch+json"}) as client:
        answer = client.patch(path, json={"status": status})
        assert answer.status_code == 200, answer.text


def test_the_way_of_a_function_file(run: Run, api: KubernetesApi, namespace: str) -> None:
    assert "whimbrel.yaml and whimbrel.schema.json" in told(CliRunner().invoke(app, ["init", "birds"]))
    assert told(CliRunner().invoke(app, ["render", "-f", "whimbrel.yaml"])).count("\nkind: ") == 9

    dry = told(run("apply", "-f", "whimbrel.yaml", "--dry-run"))
    created = told(run("apply", "-f", "whimbrel.yaml"))
    again = told(run("apply", "-f", "whimbrel.yaml"))
    assert dry.count(" created (dry run)\n") == created.count(" created\n") == again.count(" unchanged\n") == 10

    captured = json.loads((STATUSES / "12-canary20-ready.json").read_text())["status"]
    set_status(api, namespace, "inferenceservices", "birds", captured)
    listed = told(run("ls"))
    assert "photos-predictor-00007 20%, photos-predictor-00006 80%" in listed
    rows = json.loads(told(run("ls", "isvc", "-o", "json")))
    assert [(each["name"], each["ready"]) for each in rows] == [("birds", "True")]
    assert "inferenceservice.serving.kserve.io/birds is Ready" in told(run("wait", "birds"))
    described = told(run("describe", "birds"))
    assert "predictor: photos-predictor-00007 20%, photos-predictor-00006 80%" in described
    assert "PredictorReady" in described

    assert told(run("delete", "-f", "whimbrel.yaml")).count(" deleted\n") == 10
    assert "none; make some" in run("ls").stderr


def test_a_change_is_configured(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(FUNCTION)
    told(run("apply", "-f", str(file)))
    file.write_text(FUNCTION + "scale: {max: 9}\n")

    said = told(run("apply", "-f", str(file)))

    assert [line for line in said.splitlines() if "unchanged" not in line] == [
        "inferenceservice.serving.kserve.io/birds configured"
    ]


def test_every_refusal_is_told_and_the_rest_applied(run: Run) -> None:
    broken = {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": {"name": "b"}, "spec": {"x": 1}}
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "good"}, "data": {"a": "1"}}

    result = run("apply", "-f", "-", given=f"{json.dumps(broken)}\n---\n{json.dumps(good)}\n")

    assert result.exit_code == 1
    assert "spec.x" in result.stderr
    assert "configmap/good created" in result.stdout


def test_fields_of_another_tool_are_taken_over_only_by_force(run: Run, api: KubernetesApi, namespace: str) -> None:
    def config_map(value: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {"a": value}}

    with api.client(**{"content-type": "application/apply-patch+yaml"}) as gitops:
        path = f"/api/v1/namespaces/{namespace}/configmaps/shared"
        assert gitops.patch(path, params={"fieldManager": "gitops"}, json=config_map("theirs")).status_code == 201

    result = run("apply", "-f", "-", given=json.dumps(config_map("ours")))
    assert result.exit_code == 1
    assert "gitops" in result.stderr and "--force-conflicts takes the fields over" in result.stderr
    assert "configured" in told(run("apply", "-f", "-", "--force-conflicts", given=json.dumps(config_map("ours"))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "f.yaml:1:5: expected YAML"),
        ("a: 1", "f.yaml:1:1: expected an object with apiVersion, kind and metadata.name, or a function file"),
        ("", "expected objects, seen none"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: elsewhere}", "seen 'elsewhere' in it"),
    ],
)
def test_files_that_are_none(run: Run, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "f.yaml").write_text(text)

    assert expected in refused(run("apply", "-f", "f.yaml"), InputRefused)


def test_a_file_that_is_not_there(run: Run) -> None:
    assert "expected a text file at absent.yaml" in refused(run("apply", "-f", "absent.yaml"), InputRefused)


def test_faults_of_a_function_file_have_a_line_each(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FUNCTION + "gpu: true\nscal: {}\n")

    result = run("apply", "-f", "f.yaml")

    assert result.exit_code == 1
    assert [line.split(" ")[0] for line in result.stderr.splitlines()] == ["f.yaml:7:1:", "f.yaml:8:1:"]


def test_a_kind_that_the_server_lacks_stops_it_before_anything(run: Run) -> None:
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}, "spec": {}}
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}, "data": {}}

    result = run("apply", "-f", "-", given=f"{json.dumps(good)}\n---\n{json.dumps(scaled)}\n")

    assert "ScaledObject (keda.sh/v1alpha1)" in refused(result, NotFound)
    assert "created" not in result.stdout


def test_wait_says_why_not(run: Run, api: KubernetesApi, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FUNCTION)
    told(run("apply", "-f", "f.yaml"))
    crashing = json.loads((STATUSES / "01-transformer-crashloop-first-revision.json").read_text())
    set_status(api, namespace, "inferenceservices", "birds", crashing)
    labels = {"serving.kserve.io/inferenceservice": "birds"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "birds-1", "labels": labels},
        "spec": {"containers": [{"name": "kserve-container", "image": "whimbrel/transformers"}]},
    }
    told(run("apply", "-f", "-", given=json.dumps(pod)))
    ended = {"exitCode": 2, "message": "setting WHIMBREL_MODEL_NAME: missing"}
    container = {"name": "kserve-container", "restartCount": 4, "lastState": {"terminated": ended}}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    set_status(api, namespace, "pods", "birds-1", {"containerStatuses": [{**container, "state": state}]})

    result = run("wait", "birds", "--timeout", "0.5")

    said = refused(result, DeadlinePassed)
    assert "RevisionMissing" in said and "see 'whimbrel describe" in said
    assert "birds-1, kserve-container: CrashLoopBackOff, exit code 2, 4 restarts" in result.stderr
    assert "WHIMBREL_MODEL_NAME: missing" in result.stderr
    assert "CrashLoopBackOff" in told(run("describe", "birds"))
    assert "PredictorReady=True" in told(run("wait", "birds", "--for", "condition=PredictorReady"))
    denied = json.loads((STATUSES / "00-podlevel-securitycontext-rejected.json").read_text())
    set_status(api, namespace, "inferenceservices", "birds", denied)
    assert "must not set the field(s)" in refused(run("wait", "birds", "--timeout", "600"), InputRefused)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("wait", "birds", "--for", "happy"), "expected --for ready, deleted, condition=TYPE"),
        (("wait", "isvc/"), "expected KIND/NAME, such as isvc/digits, seen 'isvc/'"),
        (("ls", "things"), "expected a kind such as isvc"),
        (("logs", "trigger/birds-objects"), "expected what has pods"),
        (("logs", "ksvc/a", "--component", "predictor"), "expected --component with an InferenceService"),
        (("delete",), "expected resources, or -f and -k, one of the two"),
        (("delete", "isvc/a", "-f", "f.yaml"), "expected resources, or -f and -k, one of the two"),
    ],
)
def test_arguments_that_are_none(run: Run, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(run(*arguments), InputRefused)


@pytest.mark.parametrize("command", ["describe", "logs"])
def test_what_is_not_there(run: Run, command: str) -> None:
    assert "expected inferenceservice.serving.kserve.io 'absent'" in refused(run(command, "absent"), NotFound)


def test_delete_what_is_not_there(run: Run) -> None:
    result = run("delete", "isvc/absent")

    assert result.exit_code == 1
    assert "'absent'" in result.stderr
    assert told(run("delete", "isvc/absent", "--ignore-not-found")) == ""


def test_logs_with_their_pods(run: Run, api: KubernetesApi, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FUNCTION)
    told(run("apply", "-f", "f.yaml"))
    assert "scaled to zero" in refused(run("logs", "birds"), NotFound)
    for component in ("predictor", "transformer"):
        _talks(run, api, namespace, component)

    assert told(run("logs", "birds", "--tail", "1", "--prefix")) == (
        "[birds-predictor] predictor two\n[birds-transformer] transformer two\n"
    )
    assert told(run("logs", "birds", "--component", "predictor")) == "predictor one\npredictor two\n"


def _talks(run: Run, api: KubernetesApi, namespace: str, component: str) -> None:
    name = f"birds-{component}"
    labels = {"serving.kserve.io/inferenceservice": "birds", "component": component}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "kserve-container", "image": f"whimbrel/{component}s"}]},
    }
    told(run("apply", "-f", "-", given=json.dumps(pod)))
    status = {"name": "kserve-container", "restartCount": 0, "ready": True, "state": {"running": {}}}
    set_status(api, namespace, "pods", name, {"containerStatuses": [status]})
    file = api.state / "logs" / namespace / name / "kserve-container.log"
    file.parent.mkdir(parents=True)
    file.write_text(f"{component} one\n{component} two\n")


def test_apply_waits_for_the_change_and_not_for_the_ready_of_before(
    run: Run, api: KubernetesApi, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KServe's Ready is True for some seconds after a change that will not come up."""
    monkeypatch.setattr("whimbrel.cli.readiness._STALE_SECONDS", 60.0)
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "swapped"},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "containers": [{"name": "kserve-container", "image": "whimbrel/predictors"}],
            }
        },
    }
    told(run("apply", "-f", "-", given=json.dumps(service)))
    ready = json.loads((STATUSES / "10-before-canary.json").read_text())["status"]
    set_status(api, namespace, "inferenceservices", "swapped", ready)
    service["spec"]["predictor"]["minReplicas"] = 2  # type: ignore[index]
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/swapped"

    def controller() -> None:
        """Looks at the change only when it is there, as KServe does."""
        with api.client() as client:
            wait_for(lambda: client.get(path).json()["spec"]["predictor"]["minReplicas"] == 2, "the change")
        set_status(api, namespace, "inferenceservices", "swapped", starting)

    starting = json.loads((STATUSES / "11-canary20.json").read_text())["status"]
    thread = threading.Thread(target=controller)
    thread.start()
    try:
        result = run("apply", "-f", "-", "--wait", "1", given=json.dumps(service))
    finally:
        thread.join()

    assert "PredictorConfigurationReady not ready" in refused(result, DeadlinePassed)
