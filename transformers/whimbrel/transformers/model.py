"""The transformer as a KServe model: V1 `predict` of raw or base64 images, answered by labels."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.core.kserve_sdk import Model
from whimbrel.core.tensors import REQUEST_ID_HEADER
from whimbrel.transformers.answers import Answer
from whimbrel.transformers.budget import LEAST_BYTES, Budget
from whimbrel.transformers.classifier import Classifier, counted, log_answer
from whimbrel.transformers.inputs import images_of_v1
from whimbrel.transformers.timing import Timing


class TransformerModel(Model):  # type: ignore[misc]
    """Ready as soon as its server is: it does not wait for the predictor, which may be scaled to zero."""

    def __init__(self, name: str, classifier: Classifier, held_bytes: Budget) -> None:
        super().__init__(name)
        self._classifier, self._held_bytes = classifier, held_bytes
        self.ready = True

    async def preprocess(self, payload: Any, headers: Mapping[str, str] | None = None) -> list[bytes]:
        if not isinstance(payload, dict | bytes):
            raise InputRefused("expected a V1 request: POST /v1/models/NAME:predict")
        return images_of_v1(payload, headers or {})

    async def predict(self, payload: list[bytes], headers: Mapping[str, str] | None = None) -> Sequence[Answer]:
        request_id = (headers or {}).get(REQUEST_ID_HEADER) or uuid.uuid4().hex
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._classify(image, request_id)) for image in payload]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def postprocess(self, result: Sequence[Answer], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        return {
            "predictions": [
                [prediction.model_dump(exclude_none=True) for prediction in answer.predictions] for answer in result
            ]
        }

    async def _classify(self, image: bytes, request_id: str) -> Answer:
        timing = Timing()
        with counted():
            async with self._held_bytes.held(max(LEAST_BYTES, len(image))):
                answer = await self._classifier.classify(image, timing, request_id)
        log_answer(answer, timing.finish())
        return answer
