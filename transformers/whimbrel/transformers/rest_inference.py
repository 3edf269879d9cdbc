"""Asks the predictor over V2 REST: the image as a binary tensor, the answer as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import Unavailable
from whimbrel.core.tensors import IMAGES
from whimbrel.core.v2_rest import JSON_LENGTH_HEADER
from whimbrel.transformers.answers import Answer, answer_of
from whimbrel.transformers.predictor_http import PredictorHttp


class RestInference:
    """One pool of connections to one predictor; `close` it."""

    def __init__(
        self,
        base_url: str,
        model_name: str,
        *,
        timeout_seconds: float,
        connections: int,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._path, self._model_name, self._headers = f"/v2/models/{model_name}/infer", model_name, headers or {}
        self._http = PredictorHttp(base_url, timeout_seconds=timeout_seconds, connections=connections)

    async def infer(
        self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], key: str, *, twice: bool = False
    ) -> Answer:
        head, content = _request(tensor, parameters, key)
        headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head)), **self._headers}
        return self._answer(await self._http.post(self._path, head + content, headers, key, twice=twice))

    async def close(self) -> None:
        await self._http.close()

    def _answer(self, content: bytes) -> Answer:
        try:
            document = json.loads(content)
            outputs = {output["name"]: _array(output) for output in document["outputs"]}
            parameters = document.get("parameters")
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            raise Unavailable(f"expected a V2 answer in JSON from the predictor of {self._model_name!r}") from None
        return answer_of(self._model_name, outputs, parameters)


def _request(tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], key: str) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a V2 request (KServe's binary tensor data extension)."""
    content = tensor.tobytes()
    image = {
        "name": IMAGES,
        "shape": list(tensor.shape),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(content)},
    }
    return json.dumps({"id": key, "parameters": dict(parameters), "inputs": [image]}).encode(), content


def _array(output: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.object_ if output["datatype"] == "BYTES" else None
    return np.asarray(output["data"], dtype=dtype).reshape(output["shape"])
