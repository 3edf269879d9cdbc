"""A predictor that knows nothing of presets and labels, read by the contract that the settings state for it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.core import tracing
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.package import digest_of_json
from whimbrel.core.results import Prediction, ResultModel
from whimbrel.core.tensors import VERSION_HEADER
from whimbrel.transformers.answers import Answer, Named
from whimbrel.transformers.contract import Contract
from whimbrel.transformers.predictor import Prepare

SCHEMA = "whimbrel.dev/foreign-model/v1"
UNKNOWN_VERSION = "unknown"
FOREIGN_TOP_K = 5  # where the settings do not say


class Exchange(Protocol):
    """One of the protocols. `tensor` has one image; the answer is its scores and the version that gave them."""

    async def ask(self, tensor: NDArray[Any], key: str) -> tuple[NDArray[Any], str | None]:
        """Raises an error of the table as the predictor gave it, or Unavailable."""

    async def close(self) -> None: ...


class ForeignPredictor:
    """Answers as `whimbrel.transformers.predictor.Predictor` does.

    Its model's digest is that of the contract and of the version that the predictor names, if any: there is no
    package. What the predictor refuses is the contract's fault, never the image's, so that is tried again (503).
    """

    def __init__(self, contract: Contract, exchange: Exchange, model_name: str, *, top_k: int) -> None:
        self._contract, self._exchange, self._model_name, self._top_k = contract, exchange, model_name, top_k
        self._stated = contract.model_dump(mode="json")

    async def classify(self, prepare: Prepare, key: str, named: Named | None = None) -> Answer:
        """Raises what `prepare` raises, NotFound, QuotaExceeded and Unavailable; InputRefused for a `named` version."""
        if named is not None:
            seen = named.version
            raise InputRefused(f"expected no {VERSION_HEADER} for a predictor of another maker, seen {seen!r}")
        image = await prepare(self._contract.preset)
        tensor = await asyncio.to_thread(self._contract.tensor, image)
        with tracing.span("transformer.predict"):
            try:
                scores, answered_by = await self._exchange.ask(tensor, key)
            except InputRefused as error:
                raise Unavailable(f"{error}; is the setting predictor_contract right?") from None
        try:
            probabilities = self._contract.probabilities(scores)
        except ValueError as error:
            raise Unavailable(f"predictor of {self._model_name!r}: {error}; see predictor_contract") from None
        return Answer(self._best(probabilities), self._model(answered_by or UNKNOWN_VERSION))

    async def close(self) -> None:
        await self._exchange.close()

    def _best(self, probabilities: NDArray[np.float64]) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[: self._top_k]
        return tuple(
            Prediction(label=self._contract.labels[index], index=int(index), score=float(probabilities[index]))
            for index in order
        )

    def _model(self, version: str) -> ResultModel:
        digest = digest_of_json({"schema": SCHEMA, "contract": self._stated, "version": version})
        return ResultModel(name=self._model_name, version=version, digest=digest)
