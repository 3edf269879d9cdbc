"""The transformer as a KServe model: images in by V1 or V2, labels or objects out by the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused, WhimbrelError
from whimbrel.core.kserve_sdk import InferRequest, InferResponse, Model
from whimbrel.core.tensors import (
    CLASSIFICATION,
    LATEST_TAG,
    PREVIOUS_TAG,
    REQUEST_ID_HEADER,
    TAG_HEADER,
    VERSION_HEADER,
)
from whimbrel.transformers import replies
from whimbrel.transformers.answers import Answer, Named
from whimbrel.transformers.classifier import Classifier, counted, log_answer
from whimbrel.transformers.inputs import AskedImage, images_of_v1, images_of_v2
from whimbrel.transformers.replies import ReplyCodec
from whimbrel.transformers.sources import Images
from whimbrel.transformers.timing import Timing

# Of one request, so that it leaves the others their part of the budgets.
_IMAGES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read. `v2` is None for a V1 request."""

    request_id: str
    named: Named | None
    images: list[AskedImage]
    v2: InferRequest | None


@dataclass(frozen=True, slots=True)
class Answered:
    asked: Asked
    answers: Sequence[Answer]


class TransformerModel(Model):  # type: ignore[misc]
    """Ready as soon as its server is: it does not wait for the predictor, which may be scaled to zero.

    A request of several images is answered as a whole: the first image that fails fails it, and is named.
    """

    def __init__(self, name: str, images: Images, classifier: Classifier, codec: ReplyCodec) -> None:
        super().__init__(name, return_response_headers=True)
        self._images, self._classifier, self._codec = images, classifier, codec
        self._task = CLASSIFICATION  # of the last answer: nothing tells it before
        self.ready = True

    async def preprocess(self, payload: Any, headers: Mapping[str, str] | None = None) -> Asked:
        given = headers or {}
        request_id = given.get(REQUEST_ID_HEADER) or uuid.uuid4().hex
        if isinstance(payload, InferRequest):
            named = _named(given, payload.model_version)
            return Asked(request_id, named, await asyncio.to_thread(images_of_v2, payload), payload)
        named = _named(given)
        images = await asyncio.to_thread(images_of_v1, payload, given)
        most = self._codec.max_images
        if most is not None and len(images) > most:
            raise InputRefused(f"expected at most {most} images a request for this reply format, seen {len(images)}")
        return Asked(request_id, named, images, None)

    async def predict(
        self, payload: Asked, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> Answered:
        slots = asyncio.Semaphore(_IMAGES_AT_ONCE)

        async def classified(image: AskedImage) -> Answer:
            async with slots:
                return await self._classify(image, payload)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(classified(image)) for image in payload.images]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return Answered(payload, [task.result() for task in tasks])

    async def postprocess(
        self,
        result: Answered,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        asked, answers = result.asked, result.answers
        self._task = answers[-1].task
        if asked.v2 is not None:
            return replies.v2(asked.v2, answers, self.name)
        if response_headers is not None:
            response_headers.update(replies.model_headers(answers))
        return self._codec.render(answers, asked.request_id)

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
            for output in replies.output_tensors(self._task)
        ]

    async def _classify(self, image: AskedImage, asked: Asked) -> Answer:
        timing = Timing()
        try:
            with counted():
                async with self._images.opened(image.source, timing) as content:
                    answer = await self._classifier.classify(content, timing, asked.request_id, asked.named)
        except WhimbrelError as error:
            raise image.located(error) from None
        log_answer(answer, timing.finish())
        return answer


def _named(headers: Mapping[str, str], version: str | None = None) -> Named | None:
    """Raises InputRefused for a tag without a version, and for one that KServe gives to no revision."""
    version, tag = version or headers.get(VERSION_HEADER), headers.get(TAG_HEADER)
    if tag is not None and (version is None or tag not in {LATEST_TAG, PREVIOUS_TAG}):
        raise InputRefused(
            f"expected {LATEST_TAG!r} or {PREVIOUS_TAG!r} as {TAG_HEADER}, beside {VERSION_HEADER}, seen {tag!r:.80}"
        )
    return None if version is None else Named(version, tag)
