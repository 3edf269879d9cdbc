"""KServe's data plane with our readiness, our answer to malformed bodies and one table of errors for both protocols."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from whimbrel.core import tracing
from whimbrel.core.errors import InputRefused, NotFound, Unavailable, WhimbrelError
from whimbrel.core.kserve_sdk import (
    DataPlane,
    InvalidInput,
    Model,
    ModelNotFound,
    ModelNotReady,
    ModelRepository,
    ServerNotLive,
    ServerNotReady,
    UnsupportedProtocol,
)

logger = logging.getLogger(__name__)


@dataclass
class Serving:
    """`ready`: loaded and not draining. `draining`: SIGTERM came; still answering, every connection closed after."""

    ready: bool = False
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """What an error becomes on the wire, whatever the protocol."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class ServingDataPlane(DataPlane):  # type: ignore[misc]
    """Readiness follows `Serving`; a model answers as long as it is loaded, so also while it drains."""

    def __init__(self, registry: ModelRepository, serving: Serving) -> None:
        super().__init__(registry)
        self._serving = serving

    async def ready(self) -> bool:
        """When every model is, as the V2 protocol has it."""
        models = self._model_registry.get_models().values()
        return self._serving.ready and self._failing() is None and all([await model.healthy() for model in models])

    async def live(self) -> dict[str, str]:
        """As long as no model says `failing`, which only a restart of the process mends."""
        return {"status": "alive" if self._failing() is None else "failing"}

    def _failing(self) -> str | None:
        models = self._model_registry.get_models().values()
        return next((reason for model in models if (reason := getattr(model, "failing", None))), None)

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """The SDK passes True as second argument where it asks in order to infer, not for a probe."""
        model = self.get_model_from_registry(model_name)
        for_inference = disable_predictor_health_check
        return bool(await model.healthy()) and (for_inference or self._serving.ready)

    async def get_model(self, name: str) -> Model:
        """The SDK's own loads a model that is not ready, inside the request."""
        model = self.get_model_from_registry(name)
        if not await model.healthy():
            failing = getattr(model, "failing", None)
            seen = failing or "one that is not loaded yet"
            raise Unavailable(f"expected the model {name!r} ready, seen {seen}", retry_after_seconds=1)
        return model

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """With the versions at hand, where the model tells them."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        return metadata | {"versions": getattr(self.get_model_from_registry(model_name), "versions", None)}

    async def infer(self, model_name: str, request: Any, headers: Any = None) -> Any:
        with tracing.span("model.infer", tracing.carrier(headers or {}), model=model_name):
            return await super().infer(model_name, request, headers)

    def decode(self, body: Any, headers: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return super().decode(body, headers, *arguments, **named)
        except (InvalidInput, WhimbrelError):
            raise
        except Exception as error:  # the SDK lets KeyError, TypeError and more out for a malformed envelope
            raise InputRefused(f"expected a V1 request; {type(error).__name__}: {error}") from None


class FixedRepository:
    """The repository extension where it cannot say which version: over gRPC, whose messages have a name only, and
    over REST where no route of the model's own comes before it."""

    async def load(self, model_name: str) -> NoReturn:
        raise NotImplementedError(_not_here(model_name, "load"))

    async def unload(self, model_name: str) -> NoReturn:
        raise NotImplementedError(_not_here(model_name, "unload"))


def _not_here(model_name: str, verb: str) -> str:
    return (
        f"expected no {verb} on request here; a predictor with repository_api takes one over REST, "
        f"POST /v2/repository/models/{model_name}/{verb}, which says the version"
    )


def dataplane_of(models: Sequence[Model], serving: Serving) -> ServingDataPlane:
    registry = ModelRepository()
    for model in models:
        registry.update(model)
    return ServingDataPlane(registry, serving)


def answer_of(error: Exception) -> ErrorAnswer:
    """The table of `whimbrel.core.errors`, the SDK's own errors mapped into it; what is unexpected is logged."""
    known = _as_whimbrel_error(error)
    if known is not None:
        return ErrorAnswer(known.status, known.body(), known.headers())
    if isinstance(error, NotImplementedError | UnsupportedProtocol):
        return ErrorAnswer(501, {"error": str(error), "reason": "NotImplemented"}, {})
    logger.error("unexpected error in a request", exc_info=error)
    return ErrorAnswer(500, {"error": f"unexpected {type(error).__name__}", "reason": "InternalError"}, {})


def _as_whimbrel_error(error: Exception) -> WhimbrelError | None:
    if isinstance(error, WhimbrelError):
        return error
    if isinstance(error, InvalidInput):
        return InputRefused(str(error))
    if isinstance(error, ModelNotFound):
        return NotFound(str(error))
    if isinstance(error, ModelNotReady | ServerNotReady | ServerNotLive):
        return Unavailable(str(error), retry_after_seconds=1)
    return None
