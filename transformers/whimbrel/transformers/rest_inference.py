"""Asks the predictor over V2 REST: the image as a binary tensor, the answer as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from whimbrel.core import tracing
from whimbrel.core.errors import Unavailable
from whimbrel.core.tensors import IMAGES, REQUEST_ID_HEADER
from whimbrel.transformers.answers import Answer, answer_of, error_of

JSON_LENGTH_HEADER = "inference-header-content-length"

_CONNECT_SECONDS = 10.0
_RETRY_AFTER_SECONDS = 2.0


class RestInference:
    """One pool of connections to one predictor; `close` it."""

    def __init__(self, base_url: str, model_name: str, *, timeout_seconds: float, connections: int) -> None:
        self._path, self._model_name = f"/v2/models/{model_name}/infer", model_name
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
        )

    async def infer(self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], request_id: str) -> Answer:
        head, content = _request(tensor, parameters)
        headers = {
            "content-type": "application/octet-stream",
            JSON_LENGTH_HEADER: str(len(head)),
            REQUEST_ID_HEADER: request_id,
            **tracing.current(),
        }
        response = await self._post(head + content, headers)
        if response.status_code != 200:
            raise error_of(response.status_code, response.content, response.headers.get("retry-after"))
        return self._answer(response.content)

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        try:
            try:
                return await self._client.post(self._path, content=content, headers=headers)
            except httpx.RemoteProtocolError:
                # A kept connection that the other side closed at the same moment; to infer twice does no harm.
                return await self._client.post(self._path, content=content, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"the predictor at {self._client.base_url} does not answer: {reason}",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            ) from None

    def _answer(self, content: bytes) -> Answer:
        try:
            document = json.loads(content)
            outputs = {output["name"]: _array(output) for output in document["outputs"]}
            parameters = document.get("parameters")
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            raise Unavailable(f"expected a V2 answer in JSON from the predictor of {self._model_name!r}") from None
        return answer_of(self._model_name, outputs, parameters)


def _request(tensor: NDArray[np.uint8], parameters: Mapping[str, str | int]) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a V2 request (KServe's binary tensor data extension)."""
    content = tensor.tobytes()
    image = {
        "name": IMAGES,
        "shape": list(tensor.shape),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(content)},
    }
    return json.dumps({"parameters": dict(parameters), "inputs": [image]}).encode(), content


def _array(output: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.object_ if output["datatype"] == "BYTES" else None
    return np.asarray(output["data"], dtype=dtype).reshape(output["shape"])
