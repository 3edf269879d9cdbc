"""Predictor processes, and V2 requests in each of the protocol's three encodings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from testbed.processes import Running, answers, running

NULL_SIDE_PIXELS = 8
START_SECONDS = 120.0  # torch and torchvision on a busy machine
JSON_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Predictor:
    """A predictor that is ready; `url` without a path."""

    process: Running
    url: str
    grpc_target: str

    def infer(self, document: Mapping[str, Any], **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v2/models/digits/infer", json=document, timeout=30, **options)

    def predict(self, document: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/models/digits:predict", json=document, timeout=30, **options)


def listening_ports(process: Running) -> tuple[int, int] | None:
    """The HTTP and gRPC ports that the process chose, from its log."""
    found = re.search(r'"http_port": (\d+), "grpc_port": (\d+)', process.output())
    return (int(found[1]), int(found[2])) if found else None


@contextmanager
def running_predictor(log: Path, *arguments: str, uri: str = "null:10", **extra: str) -> Iterator[Predictor]:
    """A predictor of the model `digits`, on ports of its own choice, once it is ready."""
    options = ("--model-name", "digits", "--model-uri", uri, "--http-port", "0", "--grpc-port", "0")
    with running("whimbrel.predictors", *options, "--drain-seconds", "0.1", *arguments, log=log, **extra) as process:
        process.wait_until(lambda: listening_ports(process), "the ports", START_SECONDS)
        ports = listening_ports(process)
        assert ports is not None
        url = f"http://127.0.0.1:{ports[0]}"
        process.wait_until(lambda: answers(f"{url}/v2/health/ready"), "readiness", START_SECONDS)
        yield Predictor(process, url, f"127.0.0.1:{ports[1]}")


def null_images(*indices: int) -> NDArray[np.uint8]:
    """Images that the null predictor answers with these indices."""
    images = np.zeros((len(indices), NULL_SIDE_PIXELS, NULL_SIDE_PIXELS, 3), np.uint8)
    images[:, 0, 0, 0] = indices
    return images


def v2_document(images: NDArray[np.uint8], **parameters: Any) -> dict[str, Any]:
    return {
        "id": "request-1",
        "parameters": parameters,
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist()}],
    }


def v2_binary(images: NDArray[np.uint8], **parameters: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body with a binary tensor."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    document = {"parameters": parameters, "inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}]}
    head = json.dumps(document).encode()
    return {JSON_LENGTH: str(len(head)), "content-type": "application/octet-stream"}, head + images.tobytes()


def v2_outputs(document: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a JSON answer by name, in their shape."""
    return {
        output["name"]: np.array(output["data"]).reshape(output["shape"]).tolist() for output in document["outputs"]
    }
