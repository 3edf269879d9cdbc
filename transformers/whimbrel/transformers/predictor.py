"""The predictor as the transformer sees it: images prepared by the preset of whichever version answers.

Here alone lives what a canary means for the transformer (design contract 2): every request names the preset that its
tensor was prepared by; a version with another preset answers PresetMismatch with its own, and the image is prepared
once more. A transformer that knows no preset yet learns one the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from whimbrel.core import tracing
from whimbrel.core.errors import PresetMismatch, Unavailable
from whimbrel.core.package import Preset
from whimbrel.core.tensors import MODEL_VERSION, PRESET_DIGEST, SCORE_THRESHOLD, TOP_K
from whimbrel.transformers.answers import Answer, Inference, Named

# The version that an image met first is asked until the split sends the image there again, so that a canary answers
# its share; only when it seems to be gone is the image prepared for whoever refuses it.
PATIENCE = 32
MAX_TRIES = 3 * PATIENCE
_MOST_NAMED = 16  # versions whose presets are remembered; who compares names two

Prepare = Callable[[Preset], Awaitable[NDArray[np.uint8]]]


class Predictor:
    """Knows the preset of the version that answered last. Belongs to one event loop.

    `tagged`: the ways to its revisions by their tags, for requests that name one.
    """

    def __init__(
        self,
        inference: Inference,
        *,
        top_k: int | None = None,
        score_threshold: float | None = None,
        tagged: Mapping[str, Inference] | None = None,
    ) -> None:
        """`top_k` and `score_threshold` of every request; what is None is the predictor's to say."""
        self._inference, self._tagged = inference, tagged or {}
        self._wanted: dict[str, str | int] = {} if top_k is None else {TOP_K: top_k}
        if score_threshold is not None:
            self._wanted[SCORE_THRESHOLD] = f"{score_threshold:f}"  # a parameter of gRPC is no float
        self._preset: Preset | None = None
        self._presets_of_named: dict[Named, Preset] = {}
        self._discovery: asyncio.Task[Preset] | None = None

    async def classify(self, prepare: Prepare, key: str, named: Named | None = None) -> Answer:
        """The answer for one image; `prepare` makes its (H, W, 3) tensor by a preset, again for another preset.

        A `named` version is asked and no other, for who compares two.
        Raises what `prepare` and the predictor raise; PresetMismatch (409) when the presets keep changing.
        """
        preset = self._presets_of_named.get(named) if named is not None else None
        preset = preset or self._preset or await self._discovered(key)
        image = await prepare(preset)
        for tries in range(MAX_TRIES):
            begun = time.perf_counter()
            try:
                answer = await self._infer(image, preset.digest, key, named)
            except PresetMismatch as mismatch:
                refused, asked_for = mismatch, _preset_of(mismatch)
                if tries % PATIENCE == 0 and asked_for != preset:
                    preset, image = asked_for, await prepare(asked_for)
            else:
                self._remember(preset, named)
                return replace(answer, seconds=time.perf_counter() - begun)
        raise refused

    async def close(self) -> None:
        if self._discovery is not None:
            self._discovery.cancel()
        for inference in (self._inference, *self._tagged.values()):
            await inference.close()

    def _remember(self, preset: Preset, named: Named | None) -> None:
        if named is None:
            self._preset = preset
            return
        if len(self._presets_of_named) >= _MOST_NAMED:
            self._presets_of_named.clear()
        self._presets_of_named[named] = preset

    async def _infer(
        self, image: NDArray[np.uint8], preset_digest: str, key: str, named: Named | None = None
    ) -> Answer:
        parameters: dict[str, str | int] = {PRESET_DIGEST: preset_digest, **self._wanted}
        inference = self._inference
        if named is not None:
            parameters[MODEL_VERSION] = named.version
            inference = self._tagged[named.tag] if named.tag else inference
        with tracing.span("transformer.predict"):
            # Whoever names a version counts what it fails, so that is asked once.
            return await inference.infer(image[np.newaxis], parameters, key, twice=named is None)

    async def _discovered(self, key: str) -> Preset:
        """The first requests share one question, and its failure."""
        if self._discovery is None:
            self._discovery = asyncio.create_task(self._discover(key))
            self._discovery.add_done_callback(self._discovery_ended)
        return await asyncio.shield(self._discovery)

    async def _discover(self, key: str) -> Preset:
        try:
            await self._infer(np.zeros((1, 1, 3), np.uint8), "unknown", key)
        except PresetMismatch as mismatch:
            self._preset = _preset_of(mismatch)
            return self._preset
        raise Unavailable("expected the predictor to name its preset, seen an answer to an unprepared image")

    def _discovery_ended(self, task: asyncio.Task[Preset]) -> None:
        self._discovery = None
        if not task.cancelled():
            task.exception()  # read, for the case that every request that waited has gone


def _preset_of(mismatch: PresetMismatch) -> Preset:
    try:
        return Preset.model_validate(mismatch.preset)
    except ValidationError as error:
        fault = error.errors()[0]
        raise Unavailable(
            f"expected a preset from the predictor; {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from None
