"""The address of a service, from statuses that a real KServe wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster_api import cluster_api, write_kubeconfig
from whimbrel.core.errors import NotFound, SettingsError, Unavailable
from whimbrel.kube.services import address_of, service_address
from whimbrel.local.state import free_port

STATUSES = Path(__file__).parent.parent / "data" / "kserve"
ISVC = "/apis/serving.kserve.io/v1beta1/namespaces/whimbrel/inferenceservices/photos"
KSVC = "/apis/serving.knative.dev/v1/namespaces/whimbrel/services/photos"


def resource(status: str, kind: str = "InferenceService") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "photos"}, "status": json.loads((STATUSES / status).read_text())}


@pytest.mark.anyio
async def test_address_of_an_inference_service(tmp_path: Path) -> None:
    with cluster_api({ISVC: resource("ready.json")}) as server:
        config = write_kubeconfig(tmp_path / "config", server)
        found = await service_address("photos", "whimbrel", kubeconfig=config)
    assert found.url == "http://photos-transformer.whimbrel.example.com"
    assert found.cluster_url == "http://photos-transformer.whimbrel.svc.cluster.local"


@pytest.mark.anyio
async def test_address_of_a_knative_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_api({KSVC: resource("ready.json", "Service")}) as server:
        monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path / "config", server))
        found = await service_address("photos", "whimbrel")
    assert (found.name, found.namespace) == ("photos", "whimbrel")


@pytest.mark.anyio
async def test_neither_is_not_found(tmp_path: Path) -> None:
    with cluster_api({}) as server:
        config = write_kubeconfig(tmp_path / "config", server)
        with pytest.raises(NotFound, match="'photos' in the namespace 'whimbrel', seen neither; list them with"):
            await service_address("photos", "whimbrel", kubeconfig=config)


@pytest.mark.anyio
async def test_without_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"expected a kubeconfig, seen none at .*absent.*set KUBECONFIG"):
        await service_address("photos")


@pytest.mark.anyio
async def test_unknown_context(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="expected context 'prod' in the kubeconfig"):
        await service_address("photos", kubeconfig=config, context="prod")


@pytest.mark.anyio
async def test_api_server_that_does_not_answer(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="expected the API server of the kubeconfig"):
        await service_address("photos", kubeconfig=config)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("transformer-crashes.json", "TransformerReady is Unknown .RevisionMissing: Configuration"),
        ("pod-security-refused.json", "Ready is False .ReconcileFailed: fails to reconcile predictor"),
    ],
)
def test_a_service_that_is_not_ready_says_why(status: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=f"expected whimbrel/photos to be Ready; {reason}"):
        address_of(resource(status), "photos", "whimbrel")


def test_a_service_that_no_controller_has_seen() -> None:
    with pytest.raises(Unavailable, match="no controller has looked at it yet"):
        address_of({"kind": "InferenceService"}, "photos", "whimbrel")


@pytest.mark.anyio
async def test_something_else_behind_the_kubeconfig(tmp_path: Path) -> None:
    with cluster_api({}) as server:
        config = write_kubeconfig(tmp_path / "config", server + "/elsewhere")
        with pytest.raises(Unavailable, match="expected the API server of the kubeconfig"):
            await service_address("photos", kubeconfig=config)
