"""A device that fails ends readiness and liveness, over REST as in the log; one that comes back is ready again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from testbed.predictors import null_images
from testbed.processes import wait_for
from whimbrel.core.budget import Budget
from whimbrel.core.model_dataplane import Serving, dataplane_of
from whimbrel.core.model_rest import BodyLimits, rest_application
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.device_health import DeviceHealth
from whimbrel.predictors.inference_requests import RequestLimits
from whimbrel.predictors.model import PredictorModel
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source

PATHS = ("/v2/health/ready", "/v2/models/m/ready", "/v2/health/live", "/")


@asynccontextmanager
async def served() -> AsyncIterator[tuple[httpx.AsyncClient, DeviceHealth]]:
    """A ready predictor behind its REST application, whose device's calls may take no time."""
    with device_threads(longest_call_seconds=0.0) as threads:
        residents = Residents("m", PredictorSettings(model_name="m", model_uri="null:10"), threads)
        await residents.load(Source("1", "null:10", None))
        model, serving = PredictorModel("m", RequestLimits(10, 1)), Serving(ready=True)
        model.serve(residents)
        bodies = Budget(2**20, "bytes", max_wait_seconds=1)
        app = rest_application(dataplane_of([model], serving), serving, [], BodyLimits(2**20, 10), bodies)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://m") as client:
            yield client, threads.health
        await residents.close()


async def statuses(client: httpx.AsyncClient) -> list[int]:
    return [(await client.get(path)).status_code for path in PATHS]


@pytest.mark.anyio
async def test_a_stuck_call_ends_readiness_and_liveness_until_it_comes() -> None:
    async with served() as (client, health):
        assert await statuses(client) == [200] * 4
        with health.call():
            await asyncio.to_thread(wait_for, lambda: health.failing, "time to pass")
            assert await statuses(client) == [503] * 4
        assert await statuses(client) == [200] * 4


@pytest.mark.anyio
async def test_a_lost_device_is_logged_once_and_refuses_requests(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (client, health):
        health.lose("a CUDA error that sticks")
        health.lose("another")
        answer = await client.post("/v1/models/m:predict", json={"instances": null_images(1).tolist()})

        assert await statuses(client) == [503] * 4
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "a CUDA error that sticks" in answer.json()["error"]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "not ready and not live any more: a CUDA error that sticks; the process has to be restarted"
    ]


@pytest.mark.anyio
async def test_a_stuck_call_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    health = DeviceHealth(0.01)
    watching = asyncio.create_task(health.watch())

    async def said(text: str) -> None:
        await asyncio.to_thread(wait_for, lambda: text in caplog.text, text)

    with health.call():
        await said("not ready and not live: a call to the device that takes longer than 0.01 s")
    await said("ready again after a call")
    watching.cancel()
    await asyncio.wait([watching])
