"""The real kubectl against the API: what a user types, and what it prints."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.kubernetes_api import KubernetesApi, inference_service, kubernetes_api, needs_kubectl
from testbed.processes import wait_for

pytestmark = needs_kubectl

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"
ISVC_PATH = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    state = tmp_path_factory.mktemp("api")
    with kubernetes_api(state, "--api-logs", str(state / "logs")) as started:
        yield started


def applied(api: KubernetesApi, found: dict[str, Any], *options: str) -> str:
    return api.told("apply", "-f", "-", *options, given=json.dumps(found))


def value(api: KubernetesApi, name: str, path: str) -> str:
    return api.told("get", "isvc", name, "-o", f"jsonpath={{{path}}}")


def write_status(api: KubernetesApi, name: str, ready: str) -> None:
    with api.client() as client:
        body = json.dumps({"status": {"conditions": [{"type": "Ready", "status": ready}]}})
        headers = {"content-type": "application/merge-patch+json"}
        assert client.patch(f"{ISVC_PATH}/{name}/status", content=body, headers=headers).status_code == 200


def test_the_local_manifests_come_and_go(api: KubernetesApi) -> None:
    created = api.told("apply", "-k", str(OVERLAY)).splitlines()
    assert len(created) > 8 and all(line.endswith(" created") for line in created)
    again = api.told("apply", "-k", str(OVERLAY)).splitlines()
    assert len(again) == len(created) and all(line.endswith(" unchanged") for line in again)
    assert api.told("diff", "-k", str(OVERLAY)) == ""
    shown = api.told("get", "isvc,brokers,triggers,containersources,ksvc,pods")
    for expected in ("PREVROLLEDOUTREVISION", "inferenceservice.serving.kserve.io/digits", "SUBSCRIBER_URI"):
        assert expected in shown
    assert "trigger.eventing.knative.dev/objects" in api.told("get", "knative", "-o", "name")  # a category
    api.told("delete", "-k", str(OVERLAY))
    assert api.told("get", "isvc,brokers,triggers,containersources,ksvc", "-o", "name") == ""


def test_a_list_is_applied_as_it_was_read(api: KubernetesApi) -> None:
    maps = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"of-{name}"}} for name in "ab"]
    found = {"apiVersion": "v1", "kind": "List", "items": maps}
    assert applied(api, found) == "configmap/of-a created\nconfigmap/of-b created\n"
    read = api.told("get", "configmaps", "of-a", "of-b", "-o", "yaml")
    assert "kind: List" in read
    assert api.told("apply", "-f", "-", given=read).count("\n") == 2
    assert "validating data" not in api.refused("create", "-f", "-", given=read)


def test_warnings_and_refusals_are_printed(api: KubernetesApi) -> None:
    found = inference_service("warned", enableServiceLinks=False)
    ended = api.kubectl("apply", "-f", "-", given=json.dumps(found))
    expected = "Warning: InferenceService 'warned': accepted, but not enforced on one machine: "
    assert expected + "spec.predictor.enableServiceLinks" in ended.stderr
    error = api.refused("apply", "-f", "-", given=json.dumps(inference_service("wrong", minReplcas=1)))
    assert "not supported on one machine: spec.predictor.minReplcas" in error
    assert 'inferenceservices.serving.kserve.io "wrong" not found' in api.refused("get", "isvc", "wrong")


def test_apply_removes_what_is_no_longer_written(api: KubernetesApi) -> None:
    applied(api, inference_service("pruned", timeout=30, minReplicas=2))
    applied(api, inference_service("pruned", timeout=40))
    assert value(api, "pruned", ".spec.predictor.timeout") == "40"
    assert value(api, "pruned", ".spec.predictor.minReplicas") == ""
    assert value(api, "pruned", ".metadata.generation") == "2"


def test_core_kinds_are_patched_strategically(api: KubernetesApi) -> None:
    container = {"name": "main", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    }
    applied(api, deployment)
    api.told("set", "env", "deployment/web", "A=3", "B-", "C=4")
    found = api.told("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}")
    assert json.loads(found) == [{"name": "A", "value": "3"}, {"name": "C", "value": "4"}]
    container["env"] = [{"name": "A", "value": "5"}]
    applied(api, deployment)
    kept = api.told("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}")
    assert json.loads(kept) == [{"name": "A", "value": "5"}, {"name": "C", "value": "4"}]  # C is not apply's


def test_patch_edit_label_and_annotate(api: KubernetesApi) -> None:
    applied(api, inference_service("edited", minReplicas=1))
    api.told("patch", "isvc", "edited", "--type", "merge", "-p", '{"spec": {"predictor": {"minReplicas": 2}}}')
    operations = [{"op": "test", "path": "/spec/predictor/minReplicas", "value": 2}]
    operations.append({"op": "replace", "path": "/spec/predictor/minReplicas", "value": 3})
    api.told("patch", "isvc", "edited", "--type", "json", "-p", json.dumps(operations))
    error = api.refused("patch", "isvc", "edited", "--type", "json", "-p", json.dumps(operations))
    assert "the JSON patch" in error
    api.told("edit", "isvc", "edited", EDITOR=r"sed -i s/minReplicas:\ 3/minReplicas:\ 4/")
    api.told("label", "isvc", "edited", "bird=whimbrel")
    api.told("annotate", "isvc", "edited", "note=long bill")
    assert value(api, "edited", ".spec.predictor.minReplicas") == "4"
    assert api.told("get", "isvc", "-l", "bird=whimbrel", "-o", "name") == "inferenceservice.serving.kserve.io/edited\n"
    assert api.told("get", "isvc", "-l", "bird notin (whimbrel),bird", "-o", "name") == ""
    assert value(api, "edited", ".metadata.managedFields[*].manager").split()[0] == "kubectl-client-side-apply"


def test_server_side_apply_has_owners_and_conflicts(api: KubernetesApi) -> None:
    applied(api, inference_service("owned", minReplicas=1), "--server-side")
    before = value(api, "owned", ".metadata.resourceVersion")
    applied(api, inference_service("owned", minReplicas=1), "--server-side")
    assert value(api, "owned", ".metadata.resourceVersion") == before
    api.told("patch", "isvc", "owned", "--type", "merge", "-p", '{"spec": {"predictor": {"minReplicas": 3}}}')
    found = json.dumps(inference_service("owned", minReplicas=2))
    error = api.refused("apply", "-f", "-", "--server-side", given=found)
    assert 'conflict with "kubectl-patch" using serving.kserve.io/v1beta1: .spec.predictor.minReplicas' in error
    api.told("apply", "-f", "-", "--server-side", "--force-conflicts", given=found)
    assert value(api, "owned", ".spec.predictor.minReplicas") == "2"
    applied(api, inference_service("owned"), "--server-side")
    assert value(api, "owned", ".spec.predictor.minReplicas") == ""
    applied(api, inference_service("owned", timeout=50), "--server-side", "--field-manager", "another")
    applied(api, inference_service("owned"), "--server-side")
    assert value(api, "owned", ".spec.predictor.timeout") == "50"  # the other one's


def test_from_client_side_to_server_side_apply(api: KubernetesApi) -> None:
    applied(api, inference_service("moved", minReplicas=1, timeout=20))
    applied(api, inference_service("moved", minReplicas=2), "--server-side")
    assert value(api, "moved", ".spec.predictor.minReplicas") == "2"
    assert value(api, "moved", ".spec.predictor.timeout") == ""
    assert value(api, "moved", ".metadata.managedFields[*].operation") == "Apply Apply"


def test_a_rehearsal_changes_nothing(api: KubernetesApi) -> None:
    found = inference_service("rehearsed")
    assert "created (server dry run)" in applied(api, found, "--dry-run=server")
    assert api.told("get", "isvc", "rehearsed", "--ignore-not-found") == ""
    applied(api, found)
    assert "serverside-applied (server dry run)" in applied(api, found, "--server-side", "--dry-run=server")
    changed = inference_service("rehearsed", timeout=60)
    shown = api.kubectl("diff", "-f", "-", given=json.dumps(changed))
    assert shown.returncode == 1 and "+    timeout: 60" in shown.stdout


def test_wait_ends_when_the_condition_is_met(api: KubernetesApi) -> None:
    applied(api, inference_service("awaited"))
    error = api.refused("wait", "--for=condition=Ready", "isvc/awaited", "--timeout=1s")
    assert "timed out waiting" in error
    write_status(api, "awaited", "False")
    command = ["kubectl", "wait", "--for=condition=Ready", "isvc/awaited", "--timeout=60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=api.environment()) as waiting:
        write_status(api, "awaited", "True")
        output, _ = waiting.communicate(timeout=60)
    assert output == "inferenceservice.serving.kserve.io/awaited condition met\n"
    command = ["kubectl", "wait", "--for=delete", "isvc/awaited", "--timeout=60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=api.environment()) as waiting:
        api.told("delete", "isvc", "awaited")
        waiting.communicate(timeout=60)
        assert waiting.returncode == 0


def test_get_w_prints_each_change_as_a_line(api: KubernetesApi, tmp_path: Path) -> None:
    applied(api, inference_service("looked-at"))
    output = tmp_path / "watched"
    command = ["kubectl", "get", "isvc", "looked-at", "-w", "-o", "custom-columns=T:.spec.predictor.timeout"]
    tables = tmp_path / "tables"
    with (
        output.open("w") as file,
        tables.open("w") as table_file,
        subprocess.Popen(command, stdout=file, env=api.environment()) as watching,
        subprocess.Popen(command[:5], stdout=table_file, env=api.environment()) as watching_table,
    ):
        wait_for(lambda: output.read_text().count("\n") == 2, "the object as it is")
        wait_for(lambda: tables.read_text().count("\n") == 2, "the table as it is")
        applied(api, inference_service("looked-at", timeout=61))
        api.told("delete", "isvc", "looked-at")
        wait_for(lambda: output.read_text().count("\n") == 4, "the change and the deletion")
        wait_for(lambda: tables.read_text().count("\n") == 4, "the change and the deletion, as a table")
        watching.terminate()
        watching_table.terminate()
    assert output.read_text().split() == ["T", "<none>", "61", "61"]
    assert tables.read_text().splitlines()[0].split()[:3] == ["NAME", "URL", "READY"]


def test_describe_shows_the_events(api: KubernetesApi) -> None:
    applied(api, inference_service("described"))
    uid = value(api, "described", ".metadata.uid")
    involved = {"kind": "InferenceService", "name": "described", "namespace": "default", "uid": uid}
    involved["apiVersion"] = "serving.kserve.io/v1beta1"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "described."},
        "involvedObject": involved,
        "type": "Warning",
        "reason": "RevisionFailed",
        "message": "the model cannot be loaded",
        "count": 1,
        "source": {"component": "whimbrel"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    api.told("create", "-f", "-", given=json.dumps(event))
    described = api.told("describe", "isvc", "described")
    assert "Kind:         InferenceService" in described and "RevisionFailed" in described
    listed = api.told("get", "events")
    assert listed.split()[:6] == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "inferenceservice/described" in listed and "the model cannot be loaded" in listed
    assert "RevisionFailed" in api.told("events", "--for", "inferenceservice/described")


def test_logs_are_followed_and_picked_by_container(api: KubernetesApi, tmp_path: Path) -> None:
    containers = [{"name": name, "image": "x"} for name in ("main", "side")]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "logged"}, "spec": {"containers": containers}}
    applied(api, pod)
    folder = api.state / "logs" / "default" / "logged"
    folder.mkdir(parents=True)
    (folder / "main.log").write_text("one\ntwo\n")
    (folder / "side.log").write_text("aside\n")
    assert api.told("logs", "logged", "-c", "main", "--tail=1") == "two\n"
    assert api.told("logs", "logged", "-c", "side") == "aside\n"
    assert "not kept on one machine" in api.refused("logs", "logged", "-c", "main", "--since=5s")
    output = tmp_path / "followed"
    command = ["kubectl", "logs", "-f", "logged", "-c", "main"]
    with output.open("w") as file, subprocess.Popen(command, stdout=file, env=api.environment()) as following:
        wait_for(lambda: output.read_text() == "one\ntwo\n", "what is there")
        with (folder / "main.log").open("a") as more:
            more.write("three\n")
        wait_for(lambda: output.read_text() == "one\ntwo\nthree\n", "what came")
        api.told("delete", "pod", "logged")
        assert following.wait(30) == 0


def test_explain_and_discovery(api: KubernetesApi) -> None:
    explained = api.told("explain", "isvc.spec.predictor")
    assert "containers\t<[]Object>" in explained and "timeout\t<integer>" in explained
    assert "Honoured on one machine." in api.told("explain", "trigger.spec.broker")
    resources = api.told("api-resources", "--no-headers")
    assert "kservice,ksvc" in resources and "modelrollouts" in resources
    assert api.told("auth", "can-i", "delete", "isvc").strip() == "yes"
    assert "v1.32.0+whimbrel" in api.told("version")


def test_create_replace_and_namespaces(api: KubernetesApi) -> None:
    api.told("create", "namespace", "birds")
    api.told("create", "configmap", "settings", "--from-literal=a=1", "-n", "birds")
    api.told("create", "secret", "generic", "hidden", "--from-literal=a=1", "-n", "birds")
    found = json.loads(api.told("get", "cm", "settings", "-n", "birds", "-o", "json"))
    found["data"]["a"] = "2"
    api.told("replace", "-f", "-", given=json.dumps(found))
    assert api.told("get", "cm", "-A", "--no-headers").split()[:3] == ["birds", "settings", "1"]
    assert "the object has been modified" in api.refused("replace", "-f", "-", given=json.dumps(found))
    api.told("delete", "namespace", "birds")
    assert 'namespaces "birds" not found' in api.refused("get", "namespace", "birds")
    assert "may not be deleted" in api.refused("delete", "namespace", "default")


def test_deletion_waits_for_finalizers_and_keeps_orphans(api: KubernetesApi) -> None:
    kept = inference_service("kept")
    kept["metadata"]["finalizers"] = ["whimbrel.dev/test"]
    applied(api, kept)
    api.told("delete", "isvc", "kept", "--wait=false")
    assert value(api, "kept", ".metadata.deletionTimestamp")
    api.told("patch", "isvc", "kept", "--type", "merge", "-p", '{"metadata": {"finalizers": null}}')
    assert "not found" in api.refused("get", "isvc", "kept")
    applied(api, inference_service("owner"))
    uid = value(api, "owner", ".metadata.uid")
    reference = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "owner", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]}}
    applied(api, owned)
    api.told("delete", "isvc", "owner", "--cascade=orphan")
    assert api.told("get", "cm", "owned", "-o", "jsonpath={.metadata.ownerReferences}") == ""


def test_what_is_not_served_is_said(api: KubernetesApi) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}}
    applied(api, {**pod, "spec": {"containers": [{"name": "main", "image": "x"}]}})
    assert "exec of pods is not served on one machine" in api.refused("exec", "alone", "--", "ls")
    error = api.refused("create", "deployment", "web", "--image=x")
    assert "send it as YAML or JSON" in error


def test_another_token_is_refused(api: KubernetesApi) -> None:
    error = api.refused("get", "isvc", "--token", "wrong")
    assert "must be logged in" in error or "expected the token" in error
