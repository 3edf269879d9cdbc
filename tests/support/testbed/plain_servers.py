"""Servers that speak only the plain V1 or V2 protocol, and answer by rule from exactly the tensor that they expect.

The rule is a model of six classes: the mean of red, green and blue in the left half of the picture, then in the right
half. So the answer tells the order of the channels, the layout, the datatype and the normalisation.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from whimbrel.core.kserve_sdk import (
    InferOutput,
    InferRequest,
    InferResponse,
    add_GRPCInferenceServiceServicer_to_server,
)

HEIGHT, WIDTH = 16, 32
LABELS = ("left-red", "left-green", "left-blue", "right-red", "right-green", "right-blue")


class Refused(Exception):
    """The client sent another tensor than this server takes."""


@dataclass
class Plain:
    """A running server: `address` is HOST:PORT, `headers` are those of the last request that it answered (whoever was
    at its port before may still be asked here), `seen` the paths of all."""

    address: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)


def scores(tensor: NDArray[Any]) -> list[float]:
    """(1, H, W, 3) -> the six means."""
    if tensor.shape != (1, HEIGHT, WIDTH, 3):
        raise Refused(f"expected shape {(1, HEIGHT, WIDTH, 3)}, got {tensor.shape}")
    halves = tensor[0].astype(np.float64).reshape(HEIGHT, 2, WIDTH // 2, 3).mean(axis=(0, 2))
    return [float(mean) for mean in halves.reshape(-1)]


@contextmanager
def plain_v1(output: str | None = None, instance: str | None = None) -> Iterator[Plain]:
    """TF-Serving's `:predict` of a model `plain`: NHWC lists, under a name where one is given."""

    def answer(path: str, _: Mapping[str, str], body: bytes) -> Any:
        if path != "/v1/models/plain:predict":
            raise LookupError(path)
        rows = [row if instance is None else row[instance] for row in json.loads(body)["instances"]]
        found = scores(np.array(rows))
        return {"predictions": [found if output is None else {output: found, "other": [0.0]}]}

    with _serving(answer) as plain:
        yield plain


@contextmanager
def plain_v2(datatype: str, *, binary: bool, channels_first: bool) -> Iterator[Plain]:
    """A V2 server of a model `plain` with the input `pixels` and the output `means`, answering in JSON."""

    def answer(path: str, headers: Mapping[str, str], body: bytes) -> Any:
        if path != "/v2/models/plain/infer":
            raise LookupError(path)
        length = int(headers.get("inference-header-content-length", len(body)))
        document = json.loads(body[:length])
        (tensor,) = document["inputs"]
        if (tensor["name"], tensor["datatype"]) != ("pixels", datatype):
            raise Refused(f"expected pixels of {datatype}, got {tensor['name']} of {tensor['datatype']}")
        if binary != ("binary_data_size" in tensor.get("parameters", {})):
            raise Refused("expected the other encoding")
        dtype = {"UINT8": np.uint8, "FP16": np.float16, "FP32": np.float32}[datatype]
        values = np.frombuffer(body[length:], dtype) if binary else np.array(tensor["data"], dtype)
        values = values.reshape(tensor["shape"])
        found = scores(values.transpose(0, 2, 3, 1) if channels_first else values)
        outputs = [
            {"name": name["name"], "datatype": "FP32", "shape": [1, 6], "data": found} for name in document["outputs"]
        ]
        return {"model_name": "plain", "model_version": "3", "outputs": outputs}

    with _serving(answer) as plain:
        yield plain


@contextmanager
def plain_grpc() -> Iterator[Plain]:
    """The same over gRPC: FP32, NCHW."""
    plain = Plain()

    class Servicer:
        def ModelInfer(self, message: Any, context: Any) -> Any:
            plain.headers = {key: str(value) for key, value in context.invocation_metadata()}
            request = InferRequest.from_grpc(message)
            (pixels,) = request.inputs
            if (pixels.name, pixels.datatype, message.model_name) != ("pixels", "FP32", "plain"):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected pixels of FP32 for plain")
            found = np.array([scores(pixels.as_numpy().transpose(0, 2, 3, 1))], np.float32)
            output = InferOutput(message.outputs[0].name, [1, 6], "FP32")
            output.set_data_from_numpy(found, binary_data=True)
            return InferResponse("1", "plain", [output], model_version="3").to_grpc()

    class Methods(Servicer):
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(Methods(), server)
    plain.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield plain
    finally:
        server.stop(None).wait()


@contextmanager
def _serving(answer: Callable[[str, Mapping[str, str], bytes], Any]) -> Iterator[Plain]:
    plain = Plain()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            plain.seen.append(self.path)
            try:
                status, content = 200, answer(self.path, headers, body)
                plain.headers = headers
            except Refused as refused:
                status, content = 400, {"error": str(refused)}
            except LookupError as missing:
                status, content = 404, {"error": f"no such model: {missing}"}
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Answers) as server:
        plain.address = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield plain
        finally:
            server.shutdown()
