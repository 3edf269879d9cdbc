"""V2's repository API and its paths by version, which the SDK has not: list, load, unload, ask one version.

    POST /v2/repository/index
    POST /v2/repository/models/NAME/load     {"parameters": {"version", "uri", "digest", "percent", "drain_and_swap"}}
    POST /v2/repository/models/NAME/unload   {"parameters": {"version"}}
    GET  /v2/models/NAME                     with every resident version
    GET  /v2/models/NAME/versions/V          also .../ready
    POST /v2/models/NAME/versions/V/infer

Loading and unloading exist only where the setting `repository_api` allows them, from `allowed_uri_prefixes`, and by
digest. A load of a version that is resident needs no URI: with 100 percent it is the rollback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whimbrel.core import v2_rest
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.package import Digest
from whimbrel.predictors.ensemble import EnsembleModel
from whimbrel.predictors.model import PredictorModel
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source, check_allowed
from whimbrel.predictors.versions import rows

MAX_VERSION_CHARACTERS = 200
Parameters = TypeVar("Parameters", bound=BaseModel)


class UnloadParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, max_length=MAX_VERSION_CHARACTERS)


class LoadParameters(UnloadParameters):
    uri: str | None = Field(default=None, max_length=2000)
    digest: Digest | None = None
    percent: float = Field(default=100.0, ge=0, le=100, allow_inf_nan=False)
    drain_and_swap: bool = False


def repository_routes(models: Sequence[PredictorModel | EnsembleModel], settings: PredictorSettings) -> list[Route]:
    repository = _Repository({model.name: model for model in models}, settings.allowed_uri_prefixes)
    path = "/v2/models/{model_name}"
    by_version = f"{path}/versions/{{version}}"
    routes = [
        Route("/v2/repository/index", repository.index, methods=["POST"]),
        Route(path, repository.metadata, methods=["GET"]),
        Route(by_version, repository.metadata, methods=["GET"]),
        Route(f"{by_version}/ready", repository.ready, methods=["GET"]),
        Route(f"{by_version}/infer", repository.infer, methods=["POST"]),
    ]
    if settings.repository_api:
        change = "/v2/repository/models/{model_name}"
        routes.append(Route(f"{change}/load", repository.load, methods=["POST"]))
        routes.append(Route(f"{change}/unload", repository.unload, methods=["POST"]))
    return routes


class _Repository:
    def __init__(self, models: Mapping[str, PredictorModel | EnsembleModel], prefixes: tuple[str, ...]) -> None:
        self._models, self._prefixes = models, prefixes

    async def index(self, _: Request) -> Response:
        return JSONResponse([{"name": model.name, **row} for model in self._models.values() for row in model.rows()])

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(self._model(request).metadata(request.path_params.get("version")))

    async def ready(self, request: Request) -> Response:
        model, version = self._model(request), request.path_params["version"]
        digest = model.digest_of(version)
        return JSONResponse({"name": model.name, "version": version, "ready": True, "digest": digest})

    async def infer(self, request: Request) -> Response:
        model, version, headers = self._model(request), request.path_params["version"], dict(request.headers)
        model.digest_of(version)  # before the body is read
        asked = await v2_rest.parse_request(await request.body(), headers, model.name)
        asked.model_version = version
        return v2_rest.render_response(await model.predict(asked, headers), {})

    async def load(self, request: Request) -> Response:
        residents, asked = self._residents(request), await _parameters(request, LoadParameters)
        if asked.uri is not None:
            if asked.digest is None:
                raise InputRefused("parameter digest: missing; nothing loads unpinned")
            check_allowed(asked.uri, self._prefixes)
        elif asked.version not in [resident.version for resident in residents.roles.values()]:
            raise NotFound(f"expected a version that is resident, or a uri, seen {asked.version!r} without one")
        source = Source(asked.version, asked.uri or "", asked.digest)
        await residents.load(source, percent=asked.percent, drain_and_swap=asked.drain_and_swap)
        return JSONResponse({"name": residents.name, "load": True, "residents": rows(residents)})

    async def unload(self, request: Request) -> Response:
        residents, asked = self._residents(request), await _parameters(request, UnloadParameters)
        await residents.unload(asked.version)
        return JSONResponse({"name": residents.name, "unload": True, "residents": rows(residents)})

    def _model(self, request: Request) -> PredictorModel | EnsembleModel:
        name = request.path_params["model_name"]
        if name not in self._models:
            raise NotFound(f"expected one of the models {', '.join(self._models)}, seen {name!r}")
        return self._models[name]

    def _residents(self, request: Request) -> Residents:
        model = self._model(request)
        if isinstance(model, EnsembleModel):
            raise InputRefused(f"expected a model with versions of its own, seen the ensemble {model.name!r}")
        return model.residents


async def _parameters(request: Request, kind: type[Parameters]) -> Parameters:
    try:
        document = orjson.loads(await request.body())
        return kind.model_validate(document["parameters"])
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InputRefused("parameters: " + "; ".join(faults)) from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InputRefused('expected {"parameters": {"version": ..., ...}}') from None
