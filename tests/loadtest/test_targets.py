"""Where the load goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.cluster_api import cluster_api, write_kubeconfig
from whimbrel.core.errors import SettingsError
from whimbrel.loadtest.hey import Request
from whimbrel.loadtest.targets import Cluster, Place, Target, behind_gateway, on_cluster, predict_path

READY = Path(__file__).parent.parent / "data" / "kserve" / "ready.json"


def test_behind_a_gateway() -> None:
    found = behind_gateway("http://127.0.0.1:8080/", Place("digits", "shop", predict_path("digits")))
    assert found == Target("http://127.0.0.1:8080/v1/models/digits:predict", host="digits.shop.localhost")


@pytest.mark.anyio
async def test_on_a_cluster(tmp_path: Path) -> None:
    document = {"kind": "InferenceService", "status": json.loads(READY.read_text())}
    with cluster_api({"/apis/serving.kserve.io/v1beta1/namespaces/shop/inferenceservices/photos": document}) as server:
        cluster = Cluster(write_kubeconfig(tmp_path / "config", server))
        found = await on_cluster(Place("photos", "shop", "/events"), cluster)
    assert found == Target("http://photos-transformer.whimbrel.example.com/events")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("digits", "expected a URL"),
        ("ftp://host/x", "expected a URL"),
        ("http:///x", "expected a URL"),
        ("http://host/a b", "expected a URL"),
        ("http://me:secret@host/x", "without a user in its URL"),
        ("http://host:port/", "expected a URL"),
    ],
)
def test_what_is_no_target_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        Target(url)
    assert "secret" not in str(raised.value)


def test_names_and_paths_that_are_none() -> None:
    with pytest.raises(SettingsError, match="expected the name of a service"):
        Place("digits.evil")
    with pytest.raises(SettingsError, match="expected a path that starts with /"):
        Place("digits", path="x")
    with pytest.raises(SettingsError, match="expected a host name"):
        Target("http://host/", host="a\r\nX: y")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Authorization": "Bearer abc\r\nX: y"}, "on one line, seen the name 'Authorization'"),
        ({"bad name": "x"}, "expected a header 'Name: value'"),
        ({"X-Empty": " "}, "expected a header 'Name: value'"),
        ({"Host": "a"}, "expected the Host header by --host"),
    ],
)
def test_headers_that_are_none(headers: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        Request(Target("http://host/"), headers=headers)
    assert "abc" not in str(raised.value)


def test_methods() -> None:
    with pytest.raises(SettingsError, match=r"expected one of GET, .* as method, seen 'PATCH'"):
        Request(Target("http://host/"), "PATCH")
