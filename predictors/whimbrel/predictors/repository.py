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

from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whimbrel.core import v2_rest
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.package import Digest
from whimbrel.predictors.model import PredictorModel, input_types
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


def repository_routes(model: PredictorModel, settings: PredictorSettings) -> list[Route]:
    repository = _Repository(model, settings.allowed_uri_prefixes)
    path, by_version = f"/v2/models/{model.name}", f"/v2/models/{model.name}/versions/{{version}}"
    routes = [
        Route("/v2/repository/index", repository.index, methods=["POST"]),
        Route(path, repository.metadata, methods=["GET"]),
        Route(by_version, repository.metadata, methods=["GET"]),
        Route(f"{by_version}/ready", repository.ready, methods=["GET"]),
        Route(f"{by_version}/infer", repository.infer, methods=["POST"]),
    ]
    if settings.repository_api:
        change = f"/v2/repository/models/{model.name}"
        routes.append(Route(f"{change}/load", repository.load, methods=["POST"]))
        routes.append(Route(f"{change}/unload", repository.unload, methods=["POST"]))
    return routes


class _Repository:
    def __init__(self, model: PredictorModel, prefixes: tuple[str, ...]) -> None:
        self._model, self._prefixes = model, prefixes

    async def index(self, _: Request) -> Response:
        return JSONResponse([{"name": self._model.name, **row} for row in rows(self._model.residents)])

    async def metadata(self, request: Request) -> Response:
        residents, version = self._model.residents, request.path_params.get("version")
        resident = residents.pick("", version) if version else residents.current
        return JSONResponse(
            {
                "name": self._model.name,
                "versions": self._model.versions,
                "platform": "",
                "inputs": input_types(resident.description) if resident else [],
                "outputs": self._model.get_output_types(),
                "residents": rows(residents),
                "pointer": self._model.pointer_state() if self._model.pointer_state else None,
            }
        )

    async def ready(self, request: Request) -> Response:
        resident = self._model.residents.pick("", request.path_params["version"])
        digest = resident.description.digest
        return JSONResponse({"name": self._model.name, "version": resident.version, "ready": True, "digest": digest})

    async def infer(self, request: Request) -> Response:
        headers = dict(request.headers)
        self._model.residents.pick("", request.path_params["version"])  # before the body is read
        asked = await v2_rest.parse_request(await request.body(), headers, self._model.name)
        asked.model_version = request.path_params["version"]
        return v2_rest.render_response(await self._model.predict(asked, headers), {})

    async def load(self, request: Request) -> Response:
        asked, residents = await _parameters(request, LoadParameters), self._model.residents
        if asked.uri is not None:
            if asked.digest is None:
                raise InputRefused("parameter digest: missing; nothing loads unpinned")
            check_allowed(asked.uri, self._prefixes)
        elif asked.version not in self._model.versions:
            raise NotFound(f"expected a version that is resident, or a uri, seen {asked.version!r} without one")
        source = Source(asked.version, asked.uri or "", asked.digest)
        await residents.load(source, percent=asked.percent, drain_and_swap=asked.drain_and_swap)
        return JSONResponse({"name": self._model.name, "load": True, "residents": rows(residents)})

    async def unload(self, request: Request) -> Response:
        asked = await _parameters(request, UnloadParameters)
        await self._model.residents.unload(asked.version)
        return JSONResponse({"name": self._model.name, "unload": True, "residents": rows(self._model.residents)})


async def _parameters(request: Request, kind: type[Parameters]) -> Parameters:
    try:
        document = orjson.loads(await request.body())
        return kind.model_validate(document["parameters"])
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InputRefused("parameters: " + "; ".join(faults)) from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InputRefused('expected {"parameters": {"version": ..., ...}}') from None
