"""Objects and keypoints in every protocol of the predictor; against the null one, which finds what is bright."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.predictors import JSON_LENGTH, Predictor, running_predictor, v2_binary, v2_document, v2_outputs
from whimbrel.core.kserve_sdk import InferInput, InferRequest, InferResponse

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ONE, TWO = [4, 2, 8, 6], [16, 4, 24, 12]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    log = tmp_path_factory.mktemp("objects") / "log"
    with running_predictor(log, "--max-batch-size", "2", uri="null:pose:10,16x32") as ready:
        yield ready


def images(*boxes: list[list[int]]) -> NDArray[np.uint8]:
    """An image for each list of boxes: the first of them has label 3, the next 4."""
    made = np.zeros((len(boxes), 16, 32, 3), np.uint8)
    for row, each in enumerate(boxes):
        for number, (left, top, right, bottom) in enumerate(each):
            made[row, top:bottom, left:right, 1] = 203 + number
    return made


def infer(predictor: Predictor, protocol: str, pixels: NDArray[np.uint8], **parameters: Any) -> dict[str, Any]:
    """The outputs as nested lists."""
    if protocol == "json":
        return v2_outputs(predictor.infer(v2_document(pixels, **parameters)).json())
    if protocol == "binary":
        headers, body = v2_binary(pixels, binary_data_output=True, **parameters)
        answer = httpx.post(f"{predictor.url}/v2/models/digits/infer", content=body, headers=headers, timeout=30)
        read = InferResponse.from_bytes(answer.content, int(answer.headers[JSON_LENGTH]))
    else:
        read = grpc_infer(predictor, pixels, {name: str(value) for name, value in parameters.items()})
    return {output.name: output.as_numpy().tolist() for output in read.outputs}


def grpc_infer(predictor: Predictor, pixels: NDArray[np.uint8], parameters: dict[str, str]) -> InferResponse:
    import grpc
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse

    tensor = InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=True)
    request = InferRequest("digits", [tensor], parameters=parameters).to_grpc()
    with grpc.insecure_channel(predictor.grpc_target) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ModelInferResponse.FromString,
        )
        return InferResponse.from_grpc(call(request, timeout=30))


@pytest.mark.parametrize("protocol", ["json", "binary", "grpc"])
def test_the_objects_of_every_image_are_told(predictor: Predictor, protocol: str) -> None:
    """Three images in batches of two, of which the second holds none: as wide as the widest, the rest filled."""
    outputs = infer(predictor, protocol, images([ONE], [ONE, TWO], []))
    assert outputs["counts"] == [1, 2, 0]
    assert outputs["boxes"] == [[ONE, [0] * 4], [ONE, TWO], [[0] * 4] * 2]
    assert outputs["labels"] == [[3, -1], [3, 4], [-1, -1]]
    assert np.array(outputs["names"]).astype(str).tolist() == [["class-3", ""], ["class-3", "class-4"], ["", ""]]
    assert np.array(outputs["scores"]) == pytest.approx(np.array([[0.9, 0], [0.9, 0.81], [0, 0]]))
    assert outputs["keypoints"][0][0] == [[4, 2, 1], [6, 4, 1], [8, 6, 1]]


@pytest.mark.parametrize("protocol", ["json", "binary", "grpc"])
def test_images_without_an_object_have_outputs_of_no_width(predictor: Predictor, protocol: str) -> None:
    outputs = infer(predictor, protocol, images([ONE], [TWO]), score_threshold=0.95)
    assert outputs == {name: [[], []] for name in ("boxes", "labels", "scores", "names", "keypoints")} | {
        "counts": [0, 0]
    }


def test_v1_tells_boxes_by_corner_and_size(predictor: Predictor) -> None:
    document = {"instances": images([ONE, TWO], []).tolist(), "parameters": {"top_k": 1}}
    assert predictor.predict(document).json()["predictions"] == [
        [
            {
                "label": "class-3",
                "index": 3,
                "score": pytest.approx(0.9),
                "box": [4, 2, 4, 4],
                "keypoints": [[4, 2, 1], [6, 4, 1], [8, 6, 1]],
            }
        ],
        [],
    ]


def test_the_metadata_tell_the_outputs(predictor: Predictor) -> None:
    metadata = httpx.get(f"{predictor.url}/v2/models/digits", timeout=30).json()
    assert [output["name"] for output in metadata["outputs"]] == [
        "boxes",
        "labels",
        "scores",
        "counts",
        "names",
        "keypoints",
    ]
    assert metadata["outputs"][-1] == {"name": "keypoints", "datatype": "FP32", "shape": [-1, -1, 3, 3]}
