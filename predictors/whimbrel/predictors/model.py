"""The KServe model: reads a request, lets the version that it belongs to answer it, says that in its protocol."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from whimbrel.core.errors import Unavailable, WhimbrelError
from whimbrel.core.kserve_sdk import InferRequest, InferResponse, Model
from whimbrel.core.tensors import IMAGES
from whimbrel.predictors import answers
from whimbrel.predictors.inference_requests import (
    Asked,
    RequestLimits,
    key_of,
    read_v1,
    read_v2,
    timeout_of,
    version_of,
)
from whimbrel.predictors.network import Description
from whimbrel.predictors.residents import Resident, Residents
from whimbrel.predictors.tasks.task import Task, Tensors

CLIENT_LEFT = 499  # as nginx has it


class PredictorModel(Model):  # type: ignore[misc]
    """Not ready until it serves a version, while one is swapped for another without room for both, and while the
    device fails."""

    def __init__(self, name: str, limits: RequestLimits) -> None:
        super().__init__(name, return_response_headers=True)
        self._limits = limits
        self._residents: Residents | None = None
        self.pointer_state: Callable[[], dict[str, Any]] | None = None  # where it follows a pointer

    def serve(self, residents: Residents) -> None:
        self._residents, self.ready = residents, True

    @property
    def residents(self) -> Residents:
        """Raises Unavailable before the first version is loaded."""
        if self._residents is None:
            raise Unavailable(f"model {self.name!r} is not loaded yet", retry_after_seconds=1)
        return self._residents

    @property
    def versions(self) -> list[str]:
        return [each.version for each in self._residents.roles.values()] if self._residents else []

    async def healthy(self) -> bool:
        residents = self._residents
        return residents is not None and residents.current is not None and residents.health.failing is None

    @property
    def failing(self) -> str | None:
        """Why a restart of the process is what helps."""
        return self._residents.health.failing if self._residents else None

    async def predict(
        self, payload: Any, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        arrived, given = time.monotonic(), headers or {}
        named = version_of(payload, given)
        resident = self.residents.pick(key_of(payload, given), named)
        count = functools.partial(self.residents.metrics.count, resident.version, live=named is None)
        with resident.in_use():
            tensors = await self._answered(payload, resident, count, (arrived, timeout_of(given)))
        if isinstance(payload, InferRequest):
            return answers.v2(payload, resident.task, tensors, self.name, resident.version)
        if response_headers is not None:
            response_headers.update(answers.headers(resident.version, resident.description.digest))
        return answers.v1(resident.task, tensors)

    async def _answered(
        self, payload: Any, resident: Resident, count: Callable[..., None], granted: tuple[float, float | None]
    ) -> Tensors:
        """Counted by what came of it, before the version may leave. `granted`: the arrival, and seconds from it on."""
        images, (arrived, seconds) = 1, granted
        try:
            asked = await self._read(payload, resident.task)
            images = len(asked.images)
            deadline = _deadline(arrived, asked.timeout_seconds, seconds)
            outputs = await resident.batcher.infer(asked.images, asked.wanted.top_k, deadline)
            tensors = resident.task.tensors(outputs, asked.wanted)
        except asyncio.CancelledError:
            count(status=CLIENT_LEFT, outcome="Left", images=images)
            raise
        except Exception as error:
            known = error if isinstance(error, WhimbrelError) else None
            count(status=known.status if known else 500, outcome=known.reason if known else "Failed", images=images)
            raise
        count(status=200, outcome="answered", images=images)
        return tensors

    def get_input_types(self) -> list[dict[str, Any]]:
        current = self._residents.current if self._residents else None
        return input_types(current.description) if current else []

    def get_output_types(self) -> list[dict[str, Any]]:
        current = self._residents.current if self._residents else None
        return output_types(current.task) if current else []

    async def _read(self, payload: Any, task: Task) -> Asked:
        """Pixels as numbers in lists take longer to read than the event loop may stand still."""
        if not isinstance(payload, InferRequest):
            return await asyncio.to_thread(read_v1, payload, task, self._limits)
        if any(isinstance(entry.data, list) and entry.data for entry in payload.inputs):
            return await asyncio.to_thread(read_v2, payload, task, self._limits)
        return read_v2(payload, task, self._limits)


def input_types(description: Description) -> list[dict[str, Any]]:
    preset = description.preset
    return [{"name": IMAGES, "datatype": "UINT8", "shape": [-1, preset.height, preset.width, 3]}]


def output_types(task: Task) -> list[dict[str, Any]]:
    return [
        {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        for output in task.output_tensors
    ]


def _deadline(arrived: float, *timeouts: float | None) -> float | None:
    """The earliest of what the request and its header grant."""
    given = [seconds for seconds in timeouts if seconds is not None]
    return arrived + min(given) if given else None
