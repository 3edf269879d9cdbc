"""Asks another maker's predictor over REST: V1 as TF-Serving speaks it, V2 as Triton does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from whimbrel.core.errors import Unavailable
from whimbrel.core.v2_rest import JSON_LENGTH_HEADER
from whimbrel.transformers.contract import DATATYPES, Contract
from whimbrel.transformers.predictor_http import PredictorHttp

_JSON = {"content-type": "application/json"}
_BINARY = {"content-type": "application/octet-stream"}


class V1Exchange:
    """`POST /v1/models/NAME:predict` with `{"instances": [tensor]}`, or the tensor under the input's name."""

    def __init__(self, http: PredictorHttp, contract: Contract, model_name: str) -> None:
        self._http, self._contract, self._path = http, contract, f"/v1/models/{model_name}:predict"

    async def ask(self, tensor: NDArray[Any], key: str) -> tuple[NDArray[Any], str | None]:
        content = await asyncio.to_thread(self._request, tensor)
        return self._scores(await self._http.post(self._path, content, _JSON, key)), None

    async def close(self) -> None:
        await self._http.close()

    def _request(self, tensor: NDArray[Any]) -> bytes:
        values = tensor[0].astype(np.float32) if tensor.dtype == np.float16 else tensor[0]
        instance = values if self._contract.input is None else {self._contract.input: values}
        return orjson.dumps({"instances": [instance]}, option=orjson.OPT_SERIALIZE_NUMPY)

    def _scores(self, content: bytes) -> NDArray[Any]:
        output = self._contract.output
        try:
            (prediction,) = json.loads(content)["predictions"]
            return np.asarray(prediction if output is None else prediction[output], np.float64)
        except (ValueError, KeyError, TypeError, RecursionError):
            where = "a list of scores" if output is None else f"an object with {output!r}"
            raise Unavailable(
                f'expected {{"predictions": [{where}]}} from the predictor, seen {content[:120]!r}; see'
                " predictor_contract"
            ) from None


class V2Exchange:
    """`POST /v2/models/NAME/infer` with one tensor, binary or in JSON; the answer in JSON."""

    def __init__(self, http: PredictorHttp, contract: Contract, model_name: str) -> None:
        self._http, self._contract, self._path = http, contract, f"/v2/models/{model_name}/infer"

    async def ask(self, tensor: NDArray[Any], key: str) -> tuple[NDArray[Any], str | None]:
        content, headers = await asyncio.to_thread(self._request, tensor, key)
        return self._scores(await self._http.post(self._path, content, headers, key))

    async def close(self) -> None:
        await self._http.close()

    def _request(self, tensor: NDArray[Any], key: str) -> tuple[bytes, Mapping[str, str]]:
        described = {
            "name": self._contract.input,
            "shape": list(tensor.shape),
            "datatype": DATATYPES[self._contract.dtype],
        }
        document = {"id": key, "outputs": [{"name": self._contract.output}]}
        if not self._contract.binary_tensors:
            content = {**document, "inputs": [{**described, "data": tensor.reshape(-1)}]}
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), _JSON
        body = tensor.tobytes()
        head = orjson.dumps({**document, "inputs": [{**described, "parameters": {"binary_data_size": len(body)}}]})
        return head + body, {**_BINARY, JSON_LENGTH_HEADER: str(len(head))}

    def _scores(self, content: bytes) -> tuple[NDArray[Any], str | None]:
        try:
            document = json.loads(content)
            (found,) = [output for output in document["outputs"] if output["name"] == self._contract.output]
            return np.asarray(found["data"], np.float64), document.get("model_version")
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            raise Unavailable(
                f"expected a V2 answer in JSON with the output {self._contract.output!r} from the predictor, seen"
                f" {content[:120]!r}; see predictor_contract"
            ) from None
