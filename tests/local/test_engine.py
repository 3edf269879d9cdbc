"""The whole engine on the null model: from the manifests to a result, through kills, to nothing left."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from testbed.processes import wait_for
from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.core.kustomize import render
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.engine import Engine
from whimbrel.local.groups import start_time
from whimbrel.local.settings import EngineSettings
from whimbrel.local.state import read_processes, read_status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.anyio

NULL_OVERLAY = Path(__file__).parents[1] / "data" / "overlays" / "null"
COMPONENTS = {
    *("s3", "mlflow", "broker", "rollouts"),
    *("digits-predictor", "digits-transformer", "results", "dead-letters", "objects"),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EngineSettings:
    return EngineSettings(state=tmp_path_factory.mktemp("engine") / "state", manifests=NULL_OVERLAY)


@dataclass(frozen=True)
class Before:
    """What an engine on the same state was, that has put an object and stopped."""

    endpoints: dict[str, str]
    pids: list[int]
    refusal: str
    ready: bool


@pytest.fixture(scope="module")
async def before(settings: EngineSettings) -> Before:
    async with Engine(settings) as first:
        await first.create_store(render(settings.manifests))
        await asyncio.to_thread(store(first).put_object, Bucket="photos", Key="kept.png", Body=picture(2))
        with pytest.raises(InputRefused) as refused:
            await first.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}])
        return Before(
            first.status()["endpoints"],
            list(read_processes(settings.state)),
            str(refused.value),
            first.status()["ready"],
        )


@pytest.fixture(scope="module")
async def engine(settings: EngineSettings, before: Before) -> AsyncIterator[Engine]:
    async with Engine(settings) as running:
        await running.apply(render(settings.manifests))
        await running.wait_ready(120)
        yield running


def store(engine: Engine) -> S3Client:
    variables = engine.status()["environment"]
    credentials = (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    return s3_client(S3Settings(s3_endpoint=variables["WHIMBREL_S3_ENDPOINT"]), credentials=credentials)


def component(engine: Engine, name: str) -> dict[str, Any]:
    return next(each for each in engine.status()["components"] if each["name"] == name)


def picture(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (index, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


async def until(condition: Callable[[], Any], what: str) -> Any:
    return await asyncio.to_thread(wait_for, condition, what, 60)


async def label_of(engine: Engine, key: str) -> str:
    """Puts a picture and waits for its result; the label of the null model is its first pixel."""
    client = store(engine)

    def result() -> dict[str, Any] | None:
        try:
            body = client.get_object(Bucket="results", Key=f"photos/{key}.json")["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        return dict(json.loads(body))

    found = await until(result, f"the result of {key}")
    return str(found["predictions"][0]["label"])


async def test_a_stopped_engine_leaves_no_process(before: Before) -> None:
    assert len(before.pids) == 3
    assert not [pid for pid in before.pids if start_time(pid)]
    assert not before.ready, "nothing was applied"


async def test_what_no_engine_runs_is_refused(before: Before) -> None:
    assert before.refusal.startswith("Pod 'a': not a kind to apply on one machine: pods are made for")


async def test_the_next_engine_has_the_same_ports_and_objects(engine: Engine, before: Before) -> None:
    endpoints = engine.status()["endpoints"]
    kept = await asyncio.to_thread(store(engine).get_object, Bucket="photos", Key="kept.png")

    assert {name: endpoints[name] for name in before.endpoints} == before.endpoints
    assert kept["Body"].read() == picture(2)


async def test_every_component_is_ready_and_the_status_says_where(engine: Engine, settings: EngineSettings) -> None:
    status = read_status(settings.state)

    assert status is not None
    assert (status["running"], status["ready"]) == (True, True)
    assert {each["name"] for each in status["components"]} == COMPONENTS
    assert set(status["endpoints"]) == {"api", "s3", "mlflow", "gateway", "broker"}
    assert {urlsplit(url).hostname for url in status["endpoints"].values()} == {"127.0.0.1"}
    assert status["kubeconfig"] == str(engine.kubeconfig)
    assert (settings.state / "kubeconfig").stat().st_mode & 0o077 == 0
    assert (settings.state / "status.json").stat().st_mode & 0o077 == 0
    assert "InferenceService 'digits': accepted, but not enforced on one machine: " in " ".join(engine.warnings)


async def test_an_object_that_is_put_gets_its_result(engine: Engine) -> None:
    await asyncio.to_thread(store(engine).put_object, Bucket="photos", Key="first.png", Body=picture(3))

    assert await label_of(engine, "first.png") == "class-3"


async def test_the_gateway_routes_by_host_name(engine: Engine) -> None:
    headers = {"host": "digits.default.localhost", "content-type": "image/png"}
    async with httpx.AsyncClient(base_url=engine.status()["endpoints"]["gateway"], timeout=60) as client:
        answer = await client.post("/v1/models/digits:predict", content=picture(7), headers=headers)
        ready = await client.get("/v2/models/digits/ready", headers={"host": "digits-predictor.default.localhost"})

    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0][0]["label"] == "class-7"
    assert ready.status_code == 200


@pytest.mark.parametrize("name", ["digits-predictor", "broker"])
async def test_a_killed_component_comes_back_and_goes_on(engine: Engine, name: str) -> None:
    before = component(engine, name)
    os.kill(before["pid"], signal.SIGKILL)
    await asyncio.to_thread(store(engine).put_object, Bucket="photos", Key=f"{name}.png", Body=picture(5))

    assert await label_of(engine, f"{name}.png") == "class-5"
    after = component(engine, name)
    assert after["pid"] != before["pid"]
    assert (after["restarts"], after["port"]) == (before["restarts"] + 1, before["port"])
    assert after["last_exit"] == "was ended by SIGKILL"


async def test_a_second_engine_on_the_same_state_is_refused(engine: Engine, settings: EngineSettings) -> None:
    with pytest.raises(SettingsError, match=rf"in use by process {os.getpid()}; stop that one, or choose another"):
        async with Engine(settings):
            pass

    assert component(engine, "s3")["ready"]
