"""KServe's V1 `:predict` of a running transformer: raw and base64 images, their labels, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.images import png
from testbed.predictors import Predictor
from testbed.processes import answers, running, wait_for
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer
from whimbrel.core.tensors import TAG_HEADER, VERSION_HEADER
from whimbrel.local.state import free_port


def predict(transformer: Transformer, **options: Any) -> httpx.Response:
    return httpx.post(f"{transformer.url}/v1/models/digits:predict", timeout=30, **options)


def b64(*first_pixels: int) -> dict[str, Any]:
    return {"instances": [{"b64": base64.b64encode(png(pixel)).decode()} for pixel in first_pixels]}


def best_labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [predictions[0]["label"] for predictions in response.json()["predictions"]]


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/*"])
def test_a_raw_image_is_answered_by_labels(transformer: Transformer, content_type: str) -> None:
    response = predict(transformer, content=png(7), headers={"content-type": content_type})
    (predictions,) = response.json()["predictions"]
    assert predictions[0] == {"label": "class-7", "index": 7, "score": 0.5}
    assert [prediction["label"] for prediction in predictions] == [f"class-{index}" for index in (7, 8, 9, 0, 1)]


def test_base64_images_are_answered_in_their_order(transformer: Transformer) -> None:
    assert best_labels(predict(transformer, json=b64(3, 1, 4, 1, 5))) == [f"class-{n}" for n in (3, 1, 4, 1, 5)]


def test_json_with_a_charset_is_json(transformer: Transformer) -> None:
    response = httpx.post(
        f"{transformer.url}/v1/models/digits:predict",
        content=httpx.Request("POST", "http://x", json=b64(2)).content,
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert best_labels(response) == ["class-2"]


@pytest.mark.parametrize(
    ("request_options", "status", "reason"),
    [
        ({"json": {}}, 400, 'expected {"instances": [...]}'),
        ({"json": []}, 400, "expected"),
        ({"json": {"instances": []}}, 400, "with 1 to 256 images"),
        ({"json": {"instances": [{"b64": "!"}]}}, 400, "instances[0].b64: expected base64"),
        ({"json": {"instances": [{"b64": 5}]}}, 400, 'instances[0]: expected {"b64": "..."}'),
        ({"json": {"instances": [[1, 2], [3]]}}, 400, "instances[0]"),
        ({"json": {"instances": [{"b64": base64.b64encode(b"text").decode()}]}}, 415, "seen text"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, ""),
        ({"content": b"", "headers": {"content-type": "image/png"}}, 415, "seen an empty file"),
        ({"content": b"a,b", "headers": {"content-type": "text/csv"}}, 415, "seen 'text/csv'"),
        ({"content": png(1, side=300)[:200], "headers": {"content-type": "image/png"}}, 422, "truncated"),
        ({"content": b"\x89PNG" * 6_000_000, "headers": {"content-type": "image/png"}}, 413, "at most"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(
    transformer: Transformer, request_options: dict[str, Any], status: int, reason: str
) -> None:
    response = predict(transformer, **request_options)
    assert (response.status_code, reason in response.json()["error"]) == (status, True), response.text


@pytest.mark.parametrize("headers", [{VERSION_HEADER: "1", TAG_HEADER: "next"}, {TAG_HEADER: "latest"}])
def test_a_tag_that_names_no_revision_is_refused(transformer: Transformer, headers: dict[str, str]) -> None:
    answer = predict(transformer, content=png(7), headers={"content-type": "image/png", **headers})
    assert (answer.status_code, TAG_HEADER in answer.json()["error"]) == (400, True)


def test_an_unknown_model_is_not_found(transformer: Transformer) -> None:
    assert httpx.post(f"{transformer.url}/v1/models/birds:predict", json=b64(1)).status_code == 404


def test_the_answer_is_as_long_as_the_setting_says(strict_transformer: Transformer) -> None:
    response = predict(strict_transformer, content=png(8), headers={"content-type": "image/png"})
    assert response.json() == {"predictions": [[{"label": "class-8", "index": 8, "score": 0.5}]]}


def test_metrics_count_the_images_and_their_stages(transformer: Transformer) -> None:
    assert best_labels(predict(transformer, json=b64(6))) == ["class-6"]
    metrics = httpx.get(f"{transformer.url}/metrics").text
    assert 'whimbrel_transformer_images_total{outcome="answered"}' in metrics
    for stage in ("decode", "predict", "all"):
        assert f'whimbrel_transformer_stage_seconds_count{{stage="{stage}"}}' in metrics


def resident_megabytes(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def test_it_idles_under_200_megabytes(store: Store, predictor: Predictor, tmp_path: Path) -> None:
    """One of its own: what other tests sent to a shared one (24 MB in one request) stays in its heap for a while."""
    with running_transformer(tmp_path / "log", store, predictor.url.removeprefix("http://")) as idle:
        assert best_labels(predict(idle, json=b64(9))) == ["class-9"]
        assert resident_megabytes(idle.process.process.pid) < 200


def test_it_is_ready_without_a_predictor_and_goes_on_when_that_comes(store: Store, tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--model-name", "digits", "--model-uri", "null:10", "--http-port", str(port), "--grpc-port", "0"]
    with running_transformer(tmp_path / "log", store, f"127.0.0.1:{port}") as transformer:
        away = predict(transformer, json=b64(1))
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
        assert "does not answer" in away.json()["error"]
        with running("whimbrel.predictors", *arguments, log=tmp_path / "predictor.log") as predictor:
            predictor.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v2/health/ready"), "readiness")
            assert best_labels(predict(transformer, json=b64(1))) == ["class-1"]
            predictor.kill_and_restart()
            wait_for(lambda: predict(transformer, json=b64(2)).status_code == 200, "the restarted predictor")
        assert transformer.process.stop() == 0
