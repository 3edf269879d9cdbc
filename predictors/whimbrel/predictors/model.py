"""The KServe model: reads a request, lets the batcher answer it, says the answer in the request's protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import Unavailable, WhimbrelError
from whimbrel.core.kserve_sdk import InferRequest, InferResponse, Model
from whimbrel.core.metrics import PREDICTOR_IMAGES
from whimbrel.core.tensors import IMAGES
from whimbrel.predictors import answers
from whimbrel.predictors.batcher import Batcher
from whimbrel.predictors.inference_requests import Asked, RequestLimits, read_v1, read_v2, timeout_of
from whimbrel.predictors.network import Description


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version: what it is and what computes it."""

    version: str
    description: Description
    batcher: Batcher


class PredictorModel(Model):  # type: ignore[misc]
    """Not ready until it serves a version."""

    def __init__(self, name: str, limits: RequestLimits) -> None:
        super().__init__(name, return_response_headers=True)
        self._limits = limits
        self._served: Served | None = None

    def serve(self, served: Served | None) -> None:
        self._served = served
        self.ready = served is not None

    @property
    def versions(self) -> list[str]:
        return [self._served.version] if self._served else []

    async def predict(
        self, payload: Any, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        arrived, served = time.monotonic(), self._served
        if served is None:
            raise Unavailable(f"model {self.name!r} is not loaded yet", retry_after_seconds=1)
        try:
            asked = await self._read(payload, served)
            deadline = _deadline(arrived, asked.timeout_seconds, timeout_of(headers or {}))
            outputs = await served.batcher.infer(asked.images, asked.top_k, deadline)
            tensors = answers.named(outputs, asked.top_k, served.description)
        except Exception as error:
            self._count(served, error.reason if isinstance(error, WhimbrelError) else "Failed", 1)
            raise
        self._count(served, "answered", len(asked.images))
        digest = served.description.digest
        if isinstance(payload, InferRequest):
            return answers.v2(payload, tensors, self.name, served.version, digest)
        if response_headers is not None:
            response_headers.update(answers.headers(served.version, digest))
        return answers.v1(tensors)

    def get_input_types(self) -> list[dict[str, Any]]:
        if self._served is None:
            return []
        preset = self._served.description.preset
        return [{"name": IMAGES, "datatype": "UINT8", "shape": [-1, preset.height, preset.width, 3]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, kind in answers.DATATYPES.items()]

    async def _read(self, payload: Any, served: Served) -> Asked:
        """Pixels as numbers in lists take longer to read than the event loop may stand still."""
        if not isinstance(payload, InferRequest):
            return await asyncio.to_thread(read_v1, payload, served.description, self._limits)
        arguments = (payload, served.description, self._limits, served.version)
        if any(isinstance(entry.data, list) and entry.data for entry in payload.inputs):
            return await asyncio.to_thread(read_v2, *arguments)
        return read_v2(*arguments)

    def _count(self, served: Served, outcome: str, images: int) -> None:
        PREDICTOR_IMAGES.labels(self.name, served.version, outcome).inc(images)


def _deadline(arrived: float, *timeouts: float | None) -> float | None:
    """The earliest of what the request and its header grant."""
    given = [seconds for seconds in timeouts if seconds is not None]
    return arrived + min(given) if given else None
