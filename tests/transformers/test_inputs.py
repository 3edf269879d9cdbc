"""Every way in: V1 references, V2 BYTES tensors over REST and gRPC, and object events at KServe's own V1 path."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import numpy as np
import pytest

from testbed.images import object_event, png
from testbed.predictors import Predictor, v2_outputs
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer
from whimbrel.core import cloudevent
from whimbrel.core.errors import InputRefused, PresetMismatch, Unavailable
from whimbrel.core.kserve_sdk import GRPCInferenceServiceStub, InferInput, InferRequest, InferResponse
from whimbrel.core.references import ObjectRef
from whimbrel.core.results import PREDICTION_TYPE, parse_result
from whimbrel.local.state import free_port
from whimbrel.transformers.inputs import AskedImage, Url, images_of_v1, images_of_v2

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def encoded(pixel: int) -> str:
    return base64.b64encode(png(pixel)).decode()


class ImageServer:
    """Serves `/N.png`, the image that the null predictor answers with `class-N`."""

    def __init__(self, port: int) -> None:
        self.url, self.port = f"http://127.0.0.1:{port}", port


@pytest.fixture(scope="module")
def image_server() -> Iterator[ImageServer]:
    class Images(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = png(int(self.path.strip("/").removesuffix(".png")))
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Images) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield ImageServer(server.server_address[1])
        server.shutdown()


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def open_transformer(
    store: Store, logs: Path, predictor: Predictor, image_server: ImageServer, grpc_port: int
) -> Iterator[Transformer]:
    """With references allowed, over gRPC too."""
    allowed = ("--reference-buckets", "*", "--url-hosts", "127.0.0.1", "--url-networks", "127.0.0.0/8")
    ports = ("--url-ports", str(image_server.port), "--grpc-port", str(grpc_port))
    host, log = predictor.url.removeprefix("http://"), logs / "open.log"
    with running_transformer(log, store, host, *allowed, *ports, "--top-k", "2") as running:
        yield running


@pytest.fixture(scope="module")
def client(open_transformer: Transformer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_transformer.url, timeout=30) as client:
        yield client


def predict(client: httpx.Client, *instances: dict[str, str]) -> httpx.Response:
    return client.post("/v1/models/digits:predict", json={"instances": instances})


def test_base64_urls_and_references_may_stand_in_one_request(
    client: httpx.Client, image_server: ImageServer, s3: S3Client, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="größe 1+2.png", Body=png(5))
    reference = ObjectRef(bucket, "größe 1+2.png").uri
    response = predict(client, {"b64": encoded(3)}, {"url": f"{image_server.url}/4.png"}, {"s3": reference})
    assert response.status_code == 200, response.text
    assert [labels[0]["label"] for labels in response.json()["predictions"]] == ["class-3", "class-4", "class-5"]
    assert response.headers["x-whimbrel-model-version"] == "null"
    assert response.headers["x-whimbrel-model-digest"].startswith("sha256:")


def test_one_bad_instance_fails_the_request_and_is_named(client: httpx.Client, bucket: str) -> None:
    text = {"b64": base64.b64encode(b"text").decode()}
    response = predict(client, {"b64": encoded(1)}, text, {"b64": encoded(2)})
    assert (response.status_code, response.json()["reason"]) == (415, "UnsupportedImage")
    assert response.json()["error"].startswith("instances[1]: expected an image as")

    response = predict(client, {"b64": encoded(1)}, {"s3": f"s3://{bucket}/none.png"})
    assert (response.status_code, response.json()["reason"]) == (404, "NotFound")
    assert response.json()["error"].startswith("instances[1]: deleted since")


def test_hosts_and_buckets_that_no_setting_allows_are_refused(
    transformer: Transformer, image_server: ImageServer, bucket: str
) -> None:
    url = f"{transformer.url}/v1/models/digits:predict"
    response = httpx.post(url, json={"instances": [{"s3": f"s3://{bucket}/a.png"}]})
    assert response.status_code == 400
    assert "set WHIMBREL_REFERENCE_BUCKETS to allow it" in response.json()["error"]
    response = httpx.post(url, json={"instances": [{"url": f"{image_server.url}/4.png"}]})
    assert response.status_code == 400
    assert "the host '127.0.0.1' is not allowed" in response.json()["error"]


def bytes_tensor(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_v2_request_in_json_holds_base64_and_is_answered_by_tensors(client: httpx.Client, shape: list[int]) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "data": [encoded(7), encoded(9)]}
    response = client.post("/v2/models/digits/infer", json={"id": "walk", "inputs": [tensor]})
    assert response.status_code == 200, response.text
    answer = response.json()
    outputs = v2_outputs(answer)
    assert (outputs["indices"], outputs["scores"]) == ([[7, 8], [9, 0]], [[0.5, 0.25], [0.5, 0.25]])
    assert outputs["names"] == [["class-7", "class-8"], ["class-9", "class-0"]]
    assert (outputs["model_versions"], len(outputs["model_digests"])) == (["null", "null"], 2)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("walk", "digits", "null")
    assert answer["parameters"] == {"model_version": "null", "model_digest": outputs["model_digests"][0]}


def test_a_v2_request_with_a_binary_tensor_holds_the_images_as_they_are(client: httpx.Client) -> None:
    content = bytes_tensor(png(6), png(2))
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    response = client.post("/v2/models/digits/infer", content=head + content, headers=headers)
    assert response.status_code == 200, response.text
    json_length = int(response.headers["inference-header-content-length"])
    answer = InferResponse.from_bytes(response.content, json_length)
    outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    assert outputs["indices"] == [[6, 7], [2, 3]]
    assert outputs["names"] == [["class-6", "class-7"], ["class-2", "class-3"]]


def test_the_metadata_describe_both_sides(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/digits").json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]][:3] == ["indices", "scores", "names"]


@pytest.mark.parametrize("raw", [True, False])
def test_a_v2_request_over_grpc_is_answered_over_grpc(
    open_transformer: Transformer, grpc_port: int, *, raw: bool
) -> None:
    tensor = InferInput("image", [2], "BYTES")
    if raw:
        tensor.set_data_from_numpy(np.array([png(1), png(3)], dtype=np.object_), binary_data=True)
    else:
        tensor = InferInput("image", [2], "BYTES", data=[png(1), png(3)])
    request = InferRequest("digits", [tensor], request_id="walk")
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        message = GRPCInferenceServiceStub(channel).ModelInfer(request.to_grpc(), timeout=30)
    answer = InferResponse.from_grpc(message)
    outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    assert outputs["indices"] == [[1, 2], [3, 4]]
    assert [[bytes(name) for name in row] for row in outputs["names"]] == [
        [b"class-1", b"class-2"],
        [b"class-3", b"class-4"],
    ]
    assert (message.id, message.parameters["model_version"].string_param) == ("walk", "null")


@pytest.mark.parametrize(
    ("inputs", "status", "reason"),
    [
        ([{"name": "a", "datatype": "UINT8", "shape": [1], "data": [1]}], 400, "expected one input of datatype BYTES"),
        ([{"name": "a", "datatype": "BYTES", "shape": [1], "data": ["!"]}], 400, "a[0]: expected base64"),
        ([{"name": "a", "datatype": "BYTES", "shape": [0], "data": []}], 400, "a: expected 1 to 256 images"),
        ([{"name": "a", "datatype": "BYTES", "shape": [1], "data": ["dGV4dA=="]}], 415, "a[0]: expected an image as"),
    ],
)
def test_a_wrong_v2_request_is_refused(
    client: httpx.Client, inputs: list[dict[str, Any]], status: int, reason: str
) -> None:
    response = client.post("/v2/models/digits/infer", json={"inputs": inputs})
    assert (response.status_code, reason in response.json()["error"]) == (status, True), response.text


@pytest.mark.parametrize("mode", [cloudevent.binary, cloudevent.structured])
@pytest.mark.parametrize("charset", ["", "; charset=utf-8"])
def test_an_object_event_at_the_v1_path_is_answered_by_an_event(
    client: httpx.Client, s3: S3Client, bucket: str, mode: Any, charset: str
) -> None:
    s3.put_object(Bucket=bucket, Key="8.png", Body=png(8))
    headers, body = mode(object_event(bucket, "8.png"))
    headers |= {name: value + charset for name, value in headers.items() if name.lower() == "content-type"}
    response = client.post("/v1/models/digits:predict", headers=headers, content=body)
    assert response.status_code == 200, response.text
    (reply,) = cloudevent.parse(response.headers, response.content)
    assert reply.type == PREDICTION_TYPE
    assert parse_result(reply.data or b"").predictions[0].label == "class-8"
    assert client.post("/v1/models/birds:predict", headers=headers, content=body).status_code == 404


def test_an_event_about_something_else_is_refused_there_too(client: httpx.Client) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "dev.whimbrel.prediction.v1"}
    response = client.post("/v1/models/digits:predict", headers=headers, json={"instances": [{"b64": encoded(1)}]})
    assert response.status_code == 400
    assert "expected an event of type com.amazonaws.s3." in response.json()["error"]


def test_clients_of_the_tutorial_are_answered_in_its_shape(store: Store, logs: Path, predictor: Predictor) -> None:
    host = predictor.url.removeprefix("http://")
    with running_transformer(logs / "uid.log", store, host, "--reply-format", "data-uid", "--top-k", "2") as running:
        url = f"{running.url}/v1/models/digits:predict"
        headers = {"content-type": "image/png", "x-request-id": "walk-2"}
        response = httpx.post(url, content=png(4), headers=headers)
        assert response.json() == {
            "data": [["class-4", 0.5, [0, 0, 0, 0]], ["class-5", 0.25, [0, 0, 0, 0]]],
            "uid": "walk-2",
            "success": True,
        }
        two = httpx.post(url, json={"instances": [{"b64": encoded(1)}] * 2})
        assert (two.status_code, "at most 1 images a request" in two.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("instance", "source"),
    [
        ({"b64": "aGk="}, b"hi"),
        ({"url": "https://example.org/a.png"}, Url("https://example.org/a.png")),
        ({"s3": "s3://photos/a%20b.png"}, ObjectRef("photos", "a b.png")),
    ],
)
def test_an_instance_says_where_its_image_is(instance: dict[str, str], source: object) -> None:
    assert images_of_v1({"instances": [instance]}, {}) == [AskedImage("instances[0]", source)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ({"url": "file:///etc/passwd"}, r"instances\[0\]\.url: expected a URL that starts with http"),
        ({"url": 5}, r"instances\[0\]: expected \{"),
        ({"s3": "photos/a.png"}, r"instances\[0\]\.s3: expected an object reference s3://BUCKET/KEY"),
        ({"s3": "s3://[/a.png"}, r"instances\[0\]\.s3"),
        ({"b64": "aGk=", "url": "http://x"}, r"instances\[0\]: expected \{"),
        ({}, r"instances\[0\]: expected \{"),
    ],
)
def test_a_wrong_instance_is_named(instance: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        images_of_v1({"instances": [instance]}, {})


@pytest.mark.parametrize("content", [b"\x05\x00\x00\x00abc", b"\x01"])
def test_a_tensor_that_contradicts_itself_is_refused(content: bytes) -> None:
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
    tensor._raw_data = content
    with pytest.raises(InputRefused, match="image: expected BYTES elements"):
        images_of_v2(InferRequest("digits", [tensor]))


def test_an_error_is_located_in_its_own_copy() -> None:
    image = AskedImage("instances[3]", b"")
    mismatch = PresetMismatch("another", preset={"height": 1}, model_digest="sha256:0")
    located = image.located(mismatch)
    assert (str(located), located.body()["preset"]) == ("instances[3]: another", {"height": 1})
    assert str(mismatch) == "another"
    assert image.located(Unavailable("away", retry_after_seconds=7)).headers() == {"retry-after": "7"}
