"""One API server for every test of the client; each uses names, or a namespace, of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from testbed.kubernetes_api import KubernetesApi, kubernetes_api
from whimbrel.kube.client import Client, client


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    state = tmp_path_factory.mktemp("api")
    with kubernetes_api(state, "--api-logs", str(state / "logs"), "--api-bookmark-seconds", "0.2") as started:
        yield started


@pytest.fixture
async def cluster(api: KubernetesApi) -> AsyncIterator[Client]:
    async with client(str(api.kubeconfig)) as connected:
        yield connected


@pytest.fixture
async def namespace(cluster: Client) -> str:
    name = f"test-{uuid.uuid4().hex[:8]}"
    await cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name
