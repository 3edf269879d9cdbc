"""The KServe model: reads a request, lets the version that it belongs to answer it, says that in its protocol."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from whimbrel.core.errors import Unavailable
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
from whimbrel.predictors.tally import tallied
from whimbrel.predictors.tasks.task import Task
from whimbrel.predictors.versions import rows


class PredictorModel(Model):  # type: ignore[misc]
    """Not ready until it serves a version, while one is swapped for another without room for both, and while the
    device fails."""

    def __init__(self, name: str, limits: RequestLimits) -> None:
        super().__init__(name, return_response_headers=True)
        self._limits = limits
        self._residents: Residents | None = None
        self.pointer_state: Callable[[], dict[str, Any]] | None = None  # where it follows a pointer

    def serve(self, residents: Residents) -> None:
        """From now on by these, as soon as one of them is current."""
        self._residents, self.ready = residents, True

    @property
    def residents(self) -> Residents:
        """Raises Unavailable before the first version is loaded."""
        if self._residents is None:
            raise Unavailable(f"model {self.name!r} is not loaded yet", retry_after_seconds=1)
        return self._residents

    @property
    def loaded(self) -> list[Resident]:
        return list(self._residents.roles.values()) if self._residents else []

    @property
    def versions(self) -> list[str]:
        return [each.version for each in self.loaded]

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
        with resident.in_use(), tallied(count, resident.description.digest) as tally:
            asked = await read(payload, resident.task, self._limits)
            tally.images = len(asked.images)
            deadline = deadline_of(arrived, asked.timeout_seconds, timeout_of(given))
            outputs = await resident.batcher.infer(asked.images, asked.wanted.top_k, deadline)
            tensors = resident.task.tensors(outputs, asked.wanted)
        return answers.rendered(payload, resident.task, tensors, (self.name, resident.version), response_headers)

    def rows(self) -> list[dict[str, Any]]:
        """The resident versions for the index."""
        return rows(self.residents)

    def metadata(self, version: str | None) -> dict[str, Any]:
        """With every resident version. Raises NotFound for one that is not."""
        residents = self.residents
        resident = residents.pick("", version) if version else residents.current
        return {
            "name": self.name,
            "versions": self.versions,
            "platform": "",
            "inputs": input_types(resident.description) if resident else [],
            "outputs": self.get_output_types(),
            "residents": rows(residents),
            "pointer": self.pointer_state() if self.pointer_state else None,
        }

    def digest_of(self, version: str) -> str:
        """Raises NotFound unless this version is resident."""
        return self.residents.pick("", version).description.digest

    def get_input_types(self) -> list[dict[str, Any]]:
        current = self._residents.current if self._residents else None
        return input_types(current.description) if current else []

    def get_output_types(self) -> list[dict[str, Any]]:
        current = self._residents.current if self._residents else None
        return output_types(current.task) if current else []


async def read(payload: Any, task: Task, limits: RequestLimits) -> Asked:
    """Pixels as numbers in lists take longer to read than the event loop may stand still."""
    if not isinstance(payload, InferRequest):
        return await asyncio.to_thread(read_v1, payload, task, limits)
    if any(isinstance(entry.data, list) and entry.data for entry in payload.inputs):
        return await asyncio.to_thread(read_v2, payload, task, limits)
    return read_v2(payload, task, limits)


def input_types(description: Description) -> list[dict[str, Any]]:
    preset = description.preset
    return [{"name": IMAGES, "datatype": "UINT8", "shape": [-1, preset.height, preset.width, 3]}]


def output_types(task: Task) -> list[dict[str, Any]]:
    return [
        {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        for output in task.output_tensors
    ]


def deadline_of(arrived: float, *timeouts: float | None) -> float | None:
    """The earliest of what the request and its header grant."""
    given = [seconds for seconds in timeouts if seconds is not None]
    return arrived + min(given) if given else None
