"""Versions beside one another: shares, switches, rollbacks, refusals; a change never costs a request."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest

from testbed.predictors import Predictor, null_images, running_predictor, v2_document
from whimbrel.core.errors import InputRefused, NotFound, PackageRefused, Unavailable
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.residents import PREVIOUS, Residents, has_share
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source, check_allowed

OTHER = "null:10,other"
OTHER_DIGEST = null_network(OTHER).description.digest
WRONG_DIGEST = "sha256:" + "1" * 64


@asynccontextmanager
async def residents_of(*versions: str) -> AsyncIterator[Residents]:
    with device_threads() as threads:
        residents = Residents("m", PredictorSettings(model_name="m", model_uri="null:10"), threads)
        for version in versions:
            await residents.load(Source(version, "null:10", None))
        yield residents
        await residents.close()


def versions(residents: Residents) -> dict[str, str]:
    return {role: resident.version for role, resident in residents.roles.items()}


@pytest.mark.anyio
async def test_the_last_two_versions_stay_for_a_rollback() -> None:
    async with residents_of("1", "2", "3") as residents:
        assert versions(residents) == {"current": "3", "previous": "2"}

        await residents.load(Source("2", "", None))

        assert versions(residents) == {"current": "2", "previous": "3"}


@pytest.mark.anyio
async def test_a_candidate_becomes_current_or_leaves() -> None:
    async with residents_of("1") as residents:
        await residents.load(Source("2", "null:10", None), percent=25)
        assert versions(residents) == {"current": "1", "candidate": "2"}
        await residents.load(Source("3", "null:10", None), percent=50)
        assert versions(residents) == {"current": "1", "candidate": "3"}
        await residents.load(Source("3", "", None))
        assert versions(residents) == {"current": "3", "previous": "1"}
        await residents.unload("1")
        assert versions(residents) == {"current": "3"}
        with pytest.raises(InputRefused, match="not the current one"):
            await residents.unload("3")


@pytest.mark.anyio
async def test_a_version_that_fails_to_load_changes_nothing() -> None:
    async with residents_of("1", "2") as residents:
        with pytest.raises(PackageRefused, match=WRONG_DIGEST):
            await residents.load(Source("3", "null:10", WRONG_DIGEST))
        with pytest.raises(InputRefused, match="another version name"):
            await residents.load(Source("1", "null:10", WRONG_DIGEST))

        assert versions(residents) == {"current": "2", "previous": "1"}
        assert residents.failure is not None
        assert WRONG_DIGEST in residents.failure.reason


@pytest.mark.anyio
async def test_only_a_load_with_all_requests_touches_the_current_version() -> None:
    async with residents_of("1") as residents:
        with pytest.raises(InputRefused, match="drain_and_swap"):
            await residents.load(Source("2", "null:10", None), percent=20, drain_and_swap=True)
        with pytest.raises(InputRefused, match="beside the current one"):
            await residents.load(Source("1", "", None), percent=20)
        await residents.load(Source("2", "null:10", None), drain_and_swap=True)

        assert versions(residents) == {"current": "2", "previous": "1"}


@pytest.mark.anyio
async def test_only_one_change_at_a_time() -> None:
    async with residents_of("1") as residents:
        change = asyncio.create_task(residents.load(Source("2", "null:10", None)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="no other change"):
            await residents.load(Source("3", "null:10", None))
        await change


@pytest.mark.anyio
async def test_a_version_in_use_is_not_unloaded() -> None:
    async with residents_of("1", "2") as residents:
        previous = residents.roles[PREVIOUS]
        with previous.in_use():
            unloading = asyncio.create_task(residents.unload("1"))
            outputs = await previous.batcher.infer(null_images(3), 1)  # through two threads, while it unloads
            assert PREVIOUS not in residents.roles
            assert not unloading.done()
        await unloading
        with pytest.raises(Unavailable):
            await previous.batcher.infer(null_images(3), 1)

    assert outputs["indices"].tolist() == [[3]]


@pytest.mark.anyio
async def test_a_switch_under_load_costs_no_request() -> None:
    async with residents_of("1") as residents:
        seen: set[str] = set()
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                resident = residents.pick("any", None)
                with resident.in_use():
                    await resident.batcher.infer(null_images(1), 1)
                seen.add(resident.version)

        clients = [asyncio.create_task(client()) for _ in range(16)]
        for version in ("2", "3", "4"):
            await residents.load(Source(version, "null:10", None))
        stop.set()
        await asyncio.gather(*clients)

    assert len(seen) > 1


def test_a_share_is_the_same_for_the_same_key() -> None:
    keys = [f"event-{number}" for number in range(2000)]
    taken = {key for key in keys if has_share(key, 25)}

    assert 400 < len(taken) < 600
    assert taken == {key for key in keys if has_share(key, 25)}
    assert taken <= {key for key in keys if has_share(key, 50)}
    assert not any(has_share(key, 0) for key in keys)
    assert all(has_share(key, 100) for key in keys)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://models/digits",
        "s3://models/digits/../letters/1",
        "s3://models/digits/%2e%2e/letters",
        "s3://models-of-others/digits/1",
        "s3://models/digits2/1",
        "s3://models/digits/1?version=2",
        "file:///etc/passwd",
        "file:///models/../etc",
        "models:/digits@champion",
    ],
)
def test_a_uri_outside_the_prefixes_is_refused(uri: str) -> None:
    prefixes = ("s3://models/digits/", "file:///models")
    check_allowed("s3://models/digits/1", prefixes)
    check_allowed("file:///models/1", prefixes)

    with pytest.raises(InputRefused, match="parameter uri"):
        check_allowed(uri, prefixes)


@pytest.mark.anyio
async def test_an_unknown_version_is_named_with_those_at_hand() -> None:
    async with residents_of("1", "2") as residents:
        with pytest.raises(NotFound, match="versions 1, 2, seen '7'"):
            residents.pick("", "7")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    log = tmp_path_factory.mktemp("residents") / "log"
    options = ("--repository-api", "true", "--allowed-uri-prefixes", "null:", "--model-version", "first")
    with running_predictor(log, *options) as ready:
        yield ready


def load(predictor: Predictor, version: str, **parameters: Any) -> httpx.Response:
    url = f"{predictor.url}/v2/repository/models/digits/load"
    return httpx.post(url, json={"parameters": {"version": version, **parameters}}, timeout=30)


def unload(predictor: Predictor, version: str) -> httpx.Response:
    url = f"{predictor.url}/v2/repository/models/digits/unload"
    return httpx.post(url, json={"parameters": {"version": version}}, timeout=30)


def index(predictor: Predictor) -> dict[str, tuple[str, str | None, float]]:
    rows = httpx.post(f"{predictor.url}/v2/repository/index", json={}).json()
    return {row["version"]: (row["state"], row["role"], row["percent"]) for row in rows}


def answered_by(predictor: Predictor, request_id: str) -> str:
    document = {**v2_document(null_images(1)), "id": request_id}
    answer = predictor.infer(document, headers={"x-request-id": uuid.uuid4().hex})
    version: str = answer.json()["parameters"]["model_version"]
    return version


def test_a_version_is_loaded_given_a_share_promoted_rolled_back_and_unloaded(predictor: Predictor) -> None:
    loaded = load(predictor, "second", uri=OTHER, digest=OTHER_DIGEST, percent=40)
    assert loaded.status_code == 200, loaded.text
    assert index(predictor) == {"first": ("READY", "current", 60.0), "second": ("READY", "candidate", 40.0)}

    shares = {f"event-{number}": answered_by(predictor, f"event-{number}") for number in range(30)}
    assert set(shares.values()) == {"first", "second"}
    assert shares == {key: answered_by(predictor, key) for key in shares}

    assert load(predictor, "second").status_code == 200
    assert index(predictor) == {"first": ("READY", "previous", 0.0), "second": ("READY", "current", 100.0)}
    assert answered_by(predictor, "event-1") == "second"

    assert load(predictor, "first").status_code == 200
    assert answered_by(predictor, "event-1") == "first"
    assert unload(predictor, "first").status_code == 400
    assert unload(predictor, "second").status_code == 200
    assert index(predictor) == {"first": ("READY", "current", 100.0)}


def test_a_request_may_name_its_version(predictor: Predictor) -> None:
    load(predictor, "named", uri=OTHER, digest=OTHER_DIGEST, percent=0)
    document, path = v2_document(null_images(3), top_k=1), f"{predictor.url}/v2/models/digits/versions"
    by_path = httpx.post(f"{path}/named/infer", json=document).json()
    header = {"x-whimbrel-model-version": "named"}
    by_header = predictor.predict({"instances": null_images(3).tolist()}, headers=header)
    ready = httpx.get(f"{path}/named/ready").json()
    metadata = httpx.get(f"{predictor.url}/v2/models/digits").json()
    missing = [
        httpx.post(f"{path}/none/infer", json=document),
        httpx.get(f"{path}/none/ready"),
        predictor.predict({"instances": null_images(3).tolist()}, headers={"x-whimbrel-model-version": "none"}),
    ]
    unload(predictor, "named")

    assert by_path["parameters"] == {"model_version": "named", "model_digest": OTHER_DIGEST}
    assert by_header.headers["x-whimbrel-model-version"] == "named"
    assert by_header.json()["predictions"][0][0]["label"] == "other-3"
    assert ready == {"name": "digits", "version": "named", "ready": True, "digest": OTHER_DIGEST}
    assert {row["version"]: row["digest"] for row in metadata["residents"]}["named"] == OTHER_DIGEST
    assert [answer.status_code for answer in missing] == [404, 404, 404]


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"uri": OTHER}, 400),
        ({"uri": OTHER, "digest": WRONG_DIGEST}, 422),
        ({"uri": OTHER, "digest": "sha256:1"}, 400),
        ({"uri": "s3://models/1", "digest": WRONG_DIGEST}, 400),
        ({"uri": "http://[", "digest": WRONG_DIGEST}, 400),
        ({"uri": "null:10,0x0", "digest": WRONG_DIGEST}, 400),
        ({"uri": "null:10,9999x9999", "digest": WRONG_DIGEST}, 400),
        ({"percent": 101}, 400),
        ({"uri": OTHER, "digest": OTHER_DIGEST, "percent": 20, "drain_and_swap": True}, 400),
        ({"unknown": 1}, 400),
        ({}, 404),
    ],
)
def test_a_load_that_is_refused_changes_nothing(predictor: Predictor, parameters: dict[str, Any], status: int) -> None:
    before = {version: row for version, row in index(predictor).items() if row[1]}

    answer = load(predictor, "refused", **parameters)

    assert answer.status_code == status
    assert answer.json()["error"].count("\n") == 0
    assert {version: row for version, row in index(predictor).items() if row[1]} == before
    assert answered_by(predictor, "event-1") in before


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"parameters": 1}'])
def test_a_malformed_load_is_a_400(predictor: Predictor, body: bytes) -> None:
    answer = httpx.post(f"{predictor.url}/v2/repository/models/digits/load", content=body)

    assert (answer.status_code, answer.json()["reason"]) == (400, "InputRefused")


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_the_repository_api_is_rests_alone(predictor: Predictor, method: str) -> None:
    """V2's gRPC messages have no field for a version, so these say where to ask."""
    with grpc.insecure_channel(predictor.grpc_target) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\x0a\x06digits", timeout=10)

    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "POST /v2/repository/models/digits" in refused.value.details()
