"""Clients that send one image after another and cost little beside the server, in the form that each server likes best.

A form knows how its server is asked about one image and how its answer reads: the best class and its score.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.predictors.network import Images

ANSWER_SECONDS = 120.0

Best = tuple[int, float]


class Connection(Protocol):
    def ask(self) -> tuple[int, bytes]:
        """The status, 200 for an answer, and the answer; raises OSError or HTTPException where there is none."""
        ...

    def close(self) -> None: ...


class Form(Protocol):
    def connect(self, port: int) -> Connection: ...

    def best(self, content: bytes) -> Best: ...


@dataclass(frozen=True)
class Answered:
    """`at`: when it was sent; `status` 0: no answer."""

    at: float
    seconds: float
    status: int


def asked(
    form: Form, port: int, clients: int, seconds: float, beside: Callable[[], None] | None = None
) -> list[Answered]:
    """What `clients` saw that send one image after another for so many seconds, then while `beside` runs."""
    answers: list[Answered] = []
    stop = threading.Event()
    threads = [threading.Thread(target=_client, args=(form, port, stop, answers)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(seconds)
        if beside is not None:
            beside()
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    return answers


def rate_of(answers: list[Answered]) -> float:
    """Answers a second, from the first request to the last answer."""
    return len(answers) / (max(each.at + each.seconds for each in answers) - min(each.at for each in answers))


def answer_of(form: Form, port: int) -> Best | None:
    """One answer; None where there is none yet."""
    connection = form.connect(port)
    try:
        status, content = connection.ask()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return form.best(content) if status == 200 else None


def _client(form: Form, port: int, stop: threading.Event, answers: list[Answered]) -> None:
    """One image at the least."""
    connection, goes_on = form.connect(port), True
    while goes_on:
        sent = time.perf_counter()
        try:
            status, _ = connection.ask()
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        answers.append(Answered(sent, time.perf_counter() - sent, status))
        goes_on = not stop.is_set()
    connection.close()


@dataclass(frozen=True)
class HttpForm:
    path: str
    body: bytes
    headers: Mapping[str, str]
    best: Callable[[bytes], Best]

    def connect(self, port: int) -> Connection:
        return _HttpConnection(self, port)


class _HttpConnection:
    def __init__(self, form: HttpForm, port: int) -> None:
        self._form = form
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def ask(self) -> tuple[int, bytes]:
        self._connection.request("POST", self._form.path, body=self._form.body, headers=dict(self._form.headers))
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True)
class GrpcForm:
    """V2 inference over gRPC, the pixels as raw contents."""

    body: bytes

    def connect(self, port: int) -> Connection:
        return _GrpcConnection(self.body, port)

    def best(self, content: bytes) -> Best:
        from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse

        answer = ModelInferResponse.FromString(content)
        raw = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
        return int(np.frombuffer(raw["indices"], np.int64)[0]), float(np.frombuffer(raw["scores"], np.float32)[0])


class _GrpcConnection:
    def __init__(self, body: bytes, port: int) -> None:
        import grpc

        self._body, self._failed = body, grpc.RpcError
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def ask(self) -> tuple[int, bytes]:
        try:
            return 200, self._infer(self._body, timeout=ANSWER_SECONDS)
        except self._failed as error:
            raise ConnectionError(str(error)) from None

    def close(self) -> None:
        self._channel.close()


def v2_binary(image: Images) -> HttpForm:
    """KServe's V2 over REST with binary tensors, as whimbrel answers it. `image`: (1, H, W, 3)."""
    return _v2(image, _best_of_json_tensors)


def v2_binary_of_the_documentation(image: Images) -> HttpForm:
    """As the naive KServe predictor answers: one tensor (1, 2, k), scores above indices."""
    return _v2(image, _best_of_one_tensor)


def v1_base64(content: bytes) -> HttpForm:
    """KServe's V1 with a file in base64, as the page about custom predictors has it."""
    body = json.dumps({"instances": [{"image": {"b64": base64.b64encode(content).decode()}}]}).encode()
    headers = {"content-type": "application/json"}
    return HttpForm("/v1/models/m:predict", body, headers, lambda answer: _best(json.loads(answer)["predictions"][0]))


def image_body(content: bytes) -> HttpForm:
    """A JPEG file as whimbrel's transformer takes it, by KServe's V1 path."""
    return HttpForm("/v1/models/m:predict", content, {"content-type": "image/jpeg"}, _best_label)


def raw_body(image: Images, path: str) -> HttpForm:
    headers = {"content-type": "application/octet-stream"}
    return HttpForm(path, image.tobytes(), headers, lambda answer: _best(json.loads(answer)))


def form_field(field: str, content: bytes, kind: str, path: str, best: Callable[[Any], Any]) -> HttpForm:
    """A file in a multipart form; `best` finds the answer in the JSON that comes back."""
    boundary = "a-boundary-that-no-picture-has"
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"; filename="i"\r\ncontent-type: {kind}\r\n\r\n'
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return HttpForm(path, body, headers, lambda answer: _best(best(json.loads(answer))))


def ppm(image: Images) -> bytes:
    """(1, H, W, 3) as a portable pixmap: a header and the pixels."""
    _, height, width, _ = image.shape
    return f"P6 {width} {height} 255\n".encode() + image.tobytes()


def v2_grpc(image: Images) -> GrpcForm:
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest

    tensor = ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=image.shape)
    request = ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[image.tobytes()])
    return GrpcForm(request.SerializeToString())


def _v2(image: Images, best: Callable[[dict[str, NDArray[Any]]], Best]) -> HttpForm:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(image.shape)}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": image.nbytes}}]}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return HttpForm("/v2/models/m/infer", head + image.tobytes(), headers, lambda answer: best(_tensors(answer)))


def _tensors(answer: bytes) -> dict[str, NDArray[Any]]:
    """Of a V2 answer without binary outputs, which nobody asked for."""
    outputs = json.loads(answer)["outputs"]
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in outputs}


def _best_of_json_tensors(tensors: dict[str, NDArray[Any]]) -> Best:
    return int(tensors["indices"][0, 0]), float(tensors["scores"][0, 0])


def _best_of_one_tensor(tensors: dict[str, NDArray[Any]]) -> Best:
    (scores, indices), *_ = next(iter(tensors.values()))
    return int(indices[0]), float(scores[0])


def _best(answer: Mapping[str, Any]) -> Best:
    return int(answer["indices"][0]), float(answer["scores"][0])


def _best_label(answer: bytes) -> Best:
    best = json.loads(answer)["predictions"][0][0]
    return int(best["index"]), float(best["score"])
