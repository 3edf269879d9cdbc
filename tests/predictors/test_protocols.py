"""One answer in every protocol, and a clear refusal of what is no request; against a real predictor process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from testbed.predictors import (
    JSON_LENGTH,
    Predictor,
    null_images,
    running_predictor,
    v2_binary,
    v2_document,
    v2_outputs,
)
from testbed.processes import environment
from whimbrel.core.kserve_sdk import InferInput, InferRequest, InferResponse
from whimbrel.core.package import Preset
from whimbrel.predictors.null_network import NullNetwork

METHOD = "/inference.GRPCInferenceService/ModelInfer"
DESCRIPTION = NullNetwork(10).description
PRESET = Preset(height=8, width=8)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    log = tmp_path_factory.mktemp("predictor") / "log"
    limits = ("--max-images-per-request", "40", "--max-batch-size", "16", "--max-request-bytes", "100000")
    with running_predictor(log, *limits) as ready:
        yield ready


@pytest.fixture(scope="module")
def slow_predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    log = tmp_path_factory.mktemp("slow") / "log"
    with running_predictor(log, "--null-delay-seconds", "0.1", "--warm-up-seconds", "0") as ready:
        yield ready


def grpc_infer(predictor: Predictor, request: InferRequest) -> InferResponse:
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse

    with grpc.insecure_channel(predictor.grpc_target) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ModelInferResponse.FromString,
        )
        return InferResponse.from_grpc(call(request.to_grpc(), timeout=10))


def grpc_request(images: Any, *, binary: bool = True, **parameters: Any) -> InferRequest:
    tensor = InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    if not binary:
        tensor.parameters = None
    return InferRequest("digits", [tensor], request_id="request-1", parameters=parameters)


def test_v1_answers_labels_best_first(predictor: Predictor) -> None:
    answer = predictor.predict({"instances": null_images(7, 2).tolist()})

    assert answer.status_code == 200
    first, second = answer.json()["predictions"]
    assert [label["label"] for label in first] == ["class-7", "class-8", "class-9", "class-0", "class-1"]
    assert second[0] == {"label": "class-2", "index": 2, "score": 0.5}
    assert answer.headers["x-whimbrel-model-version"] == "null"
    assert answer.headers["x-whimbrel-model-digest"] == DESCRIPTION.digest


def test_v1_is_read_as_json_whatever_its_content_type(predictor: Predictor) -> None:
    body = json.dumps({"instances": null_images(3).tolist(), "parameters": {"top_k": 1}})

    answer = httpx.post(
        f"{predictor.url}/v1/models/digits:predict",
        content=body,
        headers={"content-type": "application/json; charset=utf-8"},
    )

    assert answer.json() == {"predictions": [[{"label": "class-3", "index": 3, "score": 0.5}]]}


def test_v2_json_answers_tensors_with_the_version(predictor: Predictor) -> None:
    answer = predictor.infer(v2_document(null_images(7, 2), top_k=2, preset_digest=PRESET.digest)).json()

    assert v2_outputs(answer) == {
        "indices": [[7, 8], [2, 3]],
        "scores": [[0.5, 0.25], [0.5, 0.25]],
        "names": [["class-7", "class-8"], ["class-2", "class-3"]],
    }
    assert answer["parameters"] == {"model_version": "null", "model_digest": DESCRIPTION.digest}
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("request-1", "digits", "null")


def test_v2_binary_in_and_out(predictor: Predictor) -> None:
    headers, body = v2_binary(null_images(9), binary_data_output=True, top_k=3)

    answer = httpx.post(f"{predictor.url}/v2/models/digits/infer", content=body, headers=headers)

    read = InferResponse.from_bytes(answer.content, int(answer.headers[JSON_LENGTH]))
    assert read.get_output_by_name("indices").as_numpy().tolist() == [[9, 0, 1]]
    assert read.get_output_by_name("scores").as_numpy().dtype == np.float32
    assert read.get_output_by_name("names").data == ["class-9", "class-0", "class-1"]


def test_v2_answers_the_outputs_that_were_asked_for(predictor: Predictor) -> None:
    document = v2_document(null_images(4), top_k=1) | {"outputs": [{"name": "names"}]}

    assert v2_outputs(predictor.infer(document).json()) == {"names": [["class-4"]]}
    assert predictor.infer(document | {"outputs": [{"name": "logits"}]}).status_code == 400


@pytest.mark.parametrize("binary", [True, False])
def test_v2_grpc(predictor: Predictor, binary: bool) -> None:
    answer = grpc_infer(predictor, grpc_request(null_images(6, 1), binary=binary, top_k=2))

    assert answer.get_output_by_name("indices").as_numpy().tolist() == [[6, 7], [1, 2]]
    assert answer.parameters["model_digest"].string_param == DESCRIPTION.digest
    assert answer.parameters["model_version"].string_param == "null"


def test_one_request_may_be_larger_than_a_batch(predictor: Predictor) -> None:
    indices = [index % 10 for index in range(37)]

    answer = predictor.infer(v2_document(null_images(*indices), top_k=1)).json()

    assert [row[0] for row in v2_outputs(answer)["indices"]] == indices


@pytest.mark.parametrize("header", ["0", "1"])
def test_a_deadline_of_the_header_or_the_request_is_kept(slow_predictor: Predictor, header: str) -> None:
    by_header = slow_predictor.infer(v2_document(null_images(1)), headers={"x-envoy-expected-rq-timeout-ms": header})
    by_parameter = slow_predictor.infer(v2_document(null_images(1), timeout=1000))
    in_time = slow_predictor.infer(v2_document(null_images(1), timeout=30_000_000))

    assert (by_header.status_code, by_header.json()["reason"]) == (504, "DeadlinePassed")
    assert by_parameter.status_code == 504
    assert in_time.status_code == 200


def test_top_k_is_capped_by_the_classes(predictor: Predictor) -> None:
    answer = predictor.infer(v2_document(null_images(0), top_k=5000)).json()

    assert np.array(v2_outputs(answer)["indices"]).shape == (1, 10)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (v2_document(np.zeros((1, 1, 1, 3), np.uint8)), "8 x 8, seen 1 x 1"),
        (v2_document(null_images(1), preset_digest="sha256:other"), "seen sha256:other"),
    ],
)
def test_another_preset_is_answered_with_the_right_one(
    predictor: Predictor, document: dict[str, Any], named: str
) -> None:
    answer = predictor.infer(document)

    assert answer.status_code == 409
    assert answer.json()["reason"] == "PresetMismatch"
    assert named in answer.json()["error"]
    assert Preset.model_validate(answer.json()["preset"]) == PRESET
    assert answer.json()["model_digest"] == DESCRIPTION.digest


def changed(**fields: Any) -> dict[str, Any]:
    """A request for one image whose input has other fields; None removes one."""
    document = v2_document(null_images(1))
    document["inputs"][0] = {k: v for k, v in (document["inputs"][0] | fields).items() if v is not None}
    return document


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"inputs": None},
        {"inputs": "images"},
        {"inputs": [1]},
        {"inputs": []},
        {"inputs": v2_document(null_images(1))["inputs"] * 2},
        changed(name="pictures"),
        changed(name=None),
        changed(datatype="FP32"),
        changed(datatype="UINT9"),
        changed(shape=[1, 8, 8, 4]),
        changed(shape=[-1, 8, 8, 3]),
        changed(shape=[1, 8, 24]),
        changed(shape=[0, 8, 8, 3], data=[]),
        changed(shape=[2**30] * 8),
        changed(shape=None),
        changed(data=None),
        changed(data=[1, 2, 3]),
        changed(data=[256] * 192),
        changed(data=[-1] * 192),
        changed(data=[0.5] * 192),
        changed(data=["a"] * 192),
        changed(data=[[1, 2], [3]] * 64),
        changed(parameters={"binary_data_size": 10**9}),
        changed(parameters={"binary_data_size": "192"}),
        changed(parameters=[]),
        v2_document(null_images(1), top_k=0),
        v2_document(null_images(1), top_k="3"),
        v2_document(null_images(1), timeout=0),
        v2_document(null_images(1), timeout="1s"),
        v2_document(null_images(1), top_k=True),
        v2_document(null_images(*[1] * 41)),
        v2_document(null_images(1)) | {"id": 7},
    ],
    ids=lambda document: repr(document)[:70],
)
def test_a_malformed_v2_request_is_a_400(predictor: Predictor, document: Any) -> None:
    answer = predictor.infer(document)

    assert (answer.status_code, answer.json()["reason"]) == (400, "InputRefused"), answer.text


@pytest.mark.parametrize("length", ["x", "-1", "99999", "5"])
def test_a_wrong_json_length_is_a_400(predictor: Predictor, length: str) -> None:
    headers, body = v2_binary(null_images(1))

    answer = httpx.post(
        f"{predictor.url}/v2/models/digits/infer", content=body, headers=headers | {JSON_LENGTH: length}
    )

    assert answer.status_code == 400


def test_binary_tensors_of_another_length_are_a_400(predictor: Predictor) -> None:
    headers, body = v2_binary(null_images(1))

    for content in (body[:-1], body + b"x"):
        answer = httpx.post(f"{predictor.url}/v2/models/digits/infer", content=content, headers=headers)
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "document",
    [
        [],
        "text",
        {},
        {"instances": {}},
        {"instances": []},
        {"instances": [[]]},
        {"instances": [1]},
        {"instances": [{"b64": "aGVsbG8="}]},
        {"instances": [[[[300, 0, 0]] * 8] * 8]},
        {"instances": [[[[1.5, 0, 0]] * 8] * 8]},
        {"instances": [[[[0, 0]] * 8] * 8]},
        {"instances": null_images(1).tolist(), "parameters": [1]},
    ],
    ids=lambda document: repr(document)[:70],
)
def test_a_malformed_v1_request_is_a_400(predictor: Predictor, document: Any) -> None:
    answer = predictor.predict(document)

    assert (answer.status_code, answer.json()["reason"]) == (400, "InputRefused"), answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000])
@pytest.mark.parametrize("path", ["/v1/models/digits:predict", "/v2/models/digits/infer"])
def test_a_body_that_is_no_json_is_a_400(predictor: Predictor, path: str, body: bytes) -> None:
    answer = httpx.post(predictor.url + path, content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["reason"]) == (400, "InputRefused")


def test_grpc_errors_carry_the_same_body(predictor: Predictor) -> None:
    images = np.zeros((1, 1, 1, 3), np.uint8)
    with pytest.raises(grpc.RpcError) as mismatch:
        grpc_infer(predictor, grpc_request(images))
    with pytest.raises(grpc.RpcError) as malformed:
        grpc_infer(predictor, grpc_request(null_images(1), top_k=0))
    short = grpc_request(null_images(1))
    short.inputs[0].shape = [2, 8, 8, 3]
    with pytest.raises(grpc.RpcError) as truncated:
        grpc_infer(predictor, short)
    elsewhere = grpc_request(null_images(1))
    elsewhere.model_name = "letters"
    with pytest.raises(grpc.RpcError) as missing:
        grpc_infer(predictor, elsewhere)

    codes = [raised.value.code() for raised in (mismatch, malformed, truncated, missing)]
    assert codes == [
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
    ]
    assert Preset.model_validate(json.loads(mismatch.value.details())["preset"]) == PRESET
    assert json.loads(malformed.value.details())["reason"] == "InputRefused"


def test_too_much_is_a_413_and_over_grpc_resource_exhausted(predictor: Predictor) -> None:
    url = f"{predictor.url}/v2/models/digits/infer"

    declared = httpx.post(url, content=bytes(200_000))
    streamed = httpx.post(url, content=(bytes(10_000) for _ in range(20)))
    with pytest.raises(grpc.RpcError) as over_grpc:
        grpc_infer(predictor, grpc_request(np.zeros((1, 200, 200, 3), np.uint8)))

    assert (declared.status_code, declared.json()["reason"]) == (413, "PayloadTooLarge")
    assert streamed.status_code == 413
    assert over_grpc.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/models/digits", 200),
        ("GET", "/v2/models/digits/ready", 200),
        ("GET", "/v1/models/digits", 200),
        ("GET", "/v2/models/letters/ready", 404),
        ("POST", "/v2/models/letters/infer", 404),
        ("POST", "/v1/models/letters:predict", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/digits/infer", 405),
        ("POST", "/v2/repository/models/digits/unload", 501),
        ("POST", "/v2/repository/models/digits/load", 501),
    ],
)
def test_paths_of_the_protocol(predictor: Predictor, method: str, path: str, status: int) -> None:
    assert httpx.request(method, predictor.url + path).status_code == status


def test_metadata_tells_the_input_and_the_version(predictor: Predictor) -> None:
    metadata = httpx.get(f"{predictor.url}/v2/models/digits").json()

    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert metadata["versions"] == ["null"]


def test_a_request_id_is_kept_or_given(predictor: Predictor) -> None:
    kept = predictor.infer(v2_document(null_images(1)), headers={"x-request-id": "abc"})
    given = predictor.infer(v2_document(null_images(1)))

    assert kept.headers["x-request-id"] == "abc"
    assert len(given.headers["x-request-id"]) == 32


def test_metrics_tell_batches_and_images_by_version(predictor: Predictor) -> None:
    predictor.infer(v2_document(null_images(1)))
    predictor.infer(v2_document(null_images(1), top_k=0))

    text = httpx.get(f"{predictor.url}/metrics").text

    assert 'whimbrel_predictor_images_total{model="digits",outcome="answered",version="null"}' in text
    assert 'whimbrel_predictor_images_total{model="digits",outcome="InputRefused",version="null"}' in text
    assert 'whimbrel_predictor_batch_size_count{model="digits",version="null"}' in text


def test_the_null_predictor_imports_no_torch() -> None:
    program = """
import sys
from whimbrel.core.kserve_sdk import Model
from whimbrel.predictors import __main__, sources
from whimbrel.predictors.settings import PredictorSettings
settings = PredictorSettings(model_name="m", model_uri="null:3")
sources.build(sources.locate(sources.source_of(settings.models[0]), settings), settings)
print([name for name in ("torch", "torchvision", "safetensors", "pyarrow") if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"
