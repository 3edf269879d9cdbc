"""The other clients against the API: kr8s, which this project uses itself, and the official one for Python."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import kr8s.asyncio
import pytest
from kr8s.asyncio.objects import ConfigMap, new_class
from kubernetes import client, config, dynamic, watch

from testbed.kubernetes_api import KubernetesApi, inference_service, kubernetes_api

official: Any = client  # its annotations are wider than what it returns
kubeconfigs: Any = config
dynamic_clients: Any = dynamic
watches: Any = watch
InferenceService = new_class("InferenceService", "serving.kserve.io/v1beta1", namespaced=True)
GROUP = ("serving.kserve.io", "v1beta1", "default", "inferenceservices")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    state = tmp_path_factory.mktemp("api")
    with kubernetes_api(state, "--api-logs", str(state / "logs")) as started:
        yield started


@pytest.fixture(scope="module")
def python_client(api: KubernetesApi) -> Iterator[Any]:
    with kubeconfigs.new_client_from_config(str(api.kubeconfig)) as opened:
        yield opened


@asynccontextmanager
async def kr8s_client(api: KubernetesApi) -> AsyncIterator[kr8s.asyncio.Api]:
    opened = await kr8s.asyncio.api(kubeconfig=str(api.kubeconfig))
    try:
        yield opened
    finally:
        if opened._session is not None:
            await opened._session.aclose()  # it never closes it itself


@pytest.mark.anyio
async def test_kr8s_creates_patches_waits_and_deletes(api: KubernetesApi) -> None:
    async with kr8s_client(api) as client, asyncio.timeout(30):
        found = await InferenceService(inference_service("by-kr8s", minReplicas=1), api=client)
        await found.create()
        await found.patch({"spec": {"predictor": {"minReplicas": 2}}})
        await found.patch([{"op": "test", "path": "/spec/predictor/minReplicas", "value": 2}], type="json")
        await found.patch({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
        await found.wait("condition=Ready")
        await found.label({"bird": "whimbrel"})
        selected: list[Any] = [each async for each in client.get(InferenceService, label_selector="bird=whimbrel")]
        assert [(each.name, each.spec.predictor.minReplicas) for each in selected] == [("by-kr8s", 2)]
        with pytest.raises(kr8s.ServerError, match="already exists"):
            await InferenceService(inference_service("by-kr8s"), api=client).create()
        await found.delete()
        assert not await found.exists()


@pytest.mark.anyio
async def test_kr8s_watches(api: KubernetesApi) -> None:
    seen = []
    async with kr8s_client(api) as client, asyncio.timeout(30):
        created = await ConfigMap({"metadata": {"name": "watched-by-kr8s"}, "data": {"a": "1"}}, api=client)
        await created.create()
        selected = {"metadata.name": "watched-by-kr8s"}
        async with aclosing(client.watch("configmaps", field_selector=selected)) as events:
            async for type_, each in events:
                seen.append((type_, each.raw["data"]["a"]))
                if type_ == "ADDED":
                    await created.patch({"data": {"a": "2"}})
                if type_ == "MODIFIED":
                    await created.delete()
                if type_ == "DELETED":
                    break
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]


def test_the_official_client_reads_writes_and_applies(python_client: Any) -> None:
    custom = official.CustomObjectsApi(python_client)
    created = custom.create_namespaced_custom_object(*GROUP, inference_service("by-python"))
    assert created["metadata"]["uid"]
    patched = custom.patch_namespaced_custom_object(*GROUP, "by-python", {"spec": {"predictor": {"timeout": 9}}})
    assert patched["spec"]["predictor"]["timeout"] == 9 and patched["metadata"]["generation"] == 2
    status = {"status": {"url": "http://by-python"}}
    custom.patch_namespaced_custom_object_status(*GROUP, "by-python", status)
    assert custom.get_namespaced_custom_object(*GROUP, "by-python")["status"] == status["status"]
    with pytest.raises(official.ApiException) as stale:
        custom.replace_namespaced_custom_object(*GROUP, "by-python", created)
    assert stale.value.status == 409 and json.loads(stale.value.body)["reason"] == "Conflict"
    custom.delete_namespaced_custom_object(*GROUP, "by-python")
    names = [each["metadata"]["name"] for each in custom.list_namespaced_custom_object(*GROUP)["items"]]
    assert "by-python" not in names


def test_the_official_clients_typed_and_dynamic_forms(python_client: Any) -> None:
    core = official.CoreV1Api(python_client)
    body = official.V1ConfigMap(metadata=official.V1ObjectMeta(generate_name="typed-"), data={"a": "1"})
    created = core.create_namespaced_config_map("default", body)
    assert created.metadata.name.startswith("typed-")
    container = official.V1Container(name="main", image="x")
    spec = official.V1PodSpec(containers=[container])
    core.create_namespaced_pod("default", official.V1Pod(metadata=official.V1ObjectMeta(name="typed"), spec=spec))
    assert "typed" in [each.metadata.name for each in core.list_pod_for_all_namespaces().items]
    services = dynamic_clients.DynamicClient(python_client).resources.get(
        api_version="serving.kserve.io/v1beta1", kind="InferenceService"
    )
    services.server_side_apply(body=inference_service("dynamic", timeout=5), namespace="default", field_manager="test")
    assert services.get(name="dynamic", namespace="default").spec.predictor.timeout == 5
    services.delete(name="dynamic", namespace="default")


def test_the_official_client_watches(python_client: Any, api: KubernetesApi) -> None:
    core = official.CoreV1Api(python_client)
    seen: list[tuple[str, str]] = []
    version = core.list_namespaced_config_map("default").metadata.resource_version

    def read() -> None:
        watched = watches.Watch()
        for event in watched.stream(core.list_namespaced_config_map, "default", resource_version=version):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                watched.stop()

    reading = threading.Thread(target=read)
    reading.start()
    with api.client() as client:
        path = "/api/v1/namespaces/default/configmaps"
        client.post(path, json={"metadata": {"name": "watched"}})
        client.delete(f"{path}/watched")
    reading.join(30)
    assert seen == [("ADDED", "watched"), ("DELETED", "watched")]


def test_the_official_client_reads_logs(python_client: Any, api: KubernetesApi) -> None:
    core = official.CoreV1Api(python_client)
    pod: dict[str, Any] = {"metadata": {"name": "speaks"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    core.create_namespaced_pod("default", pod)
    file = api.state / "logs" / "default" / "speaks" / "main.log"
    file.parent.mkdir(parents=True)
    file.write_text("hello\n")
    assert core.read_namespaced_pod_log("speaks", "default") == "hello\n"
