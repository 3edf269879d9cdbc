"""Preset discovery and mismatch: every image is prepared by the preset of the version that answers it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.answering import Answer as HttpAnswer
from testbed.answering import answering
from whimbrel.core.errors import PresetMismatch, TryAgain, Unavailable, UndecodableImage
from whimbrel.core.package import Preset
from whimbrel.core.results import Prediction, ResultModel
from whimbrel.core.settings import load
from whimbrel.core.tensors import PRESET_DIGEST, TOP_K
from whimbrel.local.state import free_port
from whimbrel.transformers import predictor_http
from whimbrel.transformers.answers import Answer, Inference, Named, answer_of, error_of
from whimbrel.transformers.connect import addressed, predictor_of
from whimbrel.transformers.grpc_inference import GrpcInference
from whimbrel.transformers.predictor import MAX_TRIES, PATIENCE, Predictor
from whimbrel.transformers.rest_inference import RestInference
from whimbrel.transformers.settings import TransformerSettings

pytestmark = pytest.mark.anyio

SMALL, LARGE = Preset(height=2, width=2), Preset(height=4, width=6)


class Versions:
    """The contract of a predictor service behind a split: request i goes to `presets[i]`, the last one stays."""

    def __init__(self, *presets: Preset) -> None:
        self._presets: Sequence[Preset] = presets
        self.asked: list[tuple[tuple[int, ...], str]] = []
        self.failing = 0

    async def infer(
        self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], request_id: str, *, twice: bool = False
    ) -> Answer:
        preset = self._presets[min(len(self.asked), len(self._presets) - 1)]
        self.asked.append((tensor.shape, str(parameters[PRESET_DIGEST])))
        await asyncio.sleep(0)
        if self.failing > 0:
            self.failing -= 1
            raise Unavailable("starting")
        if parameters[PRESET_DIGEST] != preset.digest:
            raise PresetMismatch("another", preset=preset.model_dump(mode="json"), model_digest="sha256:0")
        assert (tensor.shape, parameters[TOP_K]) == ((1, preset.height, preset.width, 3), 3)
        model = ResultModel(name="digits", version=preset.digest, digest="sha256:" + "0" * 64)
        return Answer((Prediction(label=request_id, index=0, score=1.0),), model)

    async def close(self) -> None:
        pass


class Preparing:
    def __init__(self) -> None:
        self.presets: list[Preset] = []

    async def __call__(self, preset: Preset) -> NDArray[np.uint8]:
        self.presets.append(preset)
        return np.zeros((preset.height, preset.width, 3), np.uint8)


def test_a_tag_is_a_host_of_its_own_and_a_header_where_the_host_is_a_number() -> None:
    assert addressed("finches-predictor.birds", None) == ("finches-predictor.birds", {})
    header = {"knative-serving-tag": "latest"}
    assert addressed("finches-predictor.birds", "latest") == ("latest-finches-predictor.birds", header)
    assert addressed("127.0.0.1:8080", "latest") == ("127.0.0.1:8080", header)


async def test_a_named_version_is_asked_by_its_tag_with_the_preset_that_it_had_before() -> None:
    first, second, preparing = Versions(SMALL), Versions(LARGE), Preparing()
    predictor = Predictor(first, top_k=3, tagged={"latest": second})
    for _ in range(2):
        await predictor.classify(preparing, "live")
        assert (await predictor.classify(preparing, "asked", Named("2", "latest"))).model.version == LARGE.digest
    assert preparing.presets == [SMALL, SMALL, LARGE, SMALL, LARGE]
    assert [digest for _, digest in second.asked] == [SMALL.digest, LARGE.digest, LARGE.digest]


def test_the_package_that_failed_is_passed_on() -> None:
    body = json.dumps({"model_digest": "sha256:7", "error": "no", "reason": "ModelFailed"})
    assert list(error_of(500, body, None).body()) == ["model_digest", "error", "reason"]


async def test_learns_the_preset_by_one_question_however_many_ask() -> None:
    versions, preparing = Versions(SMALL), Preparing()
    predictor = Predictor(versions, top_k=3)
    answers = await asyncio.gather(*(predictor.classify(preparing, f"request-{n}") for n in range(5)))
    assert [answer.predictions[0].label for answer in answers] == [f"request-{n}" for n in range(5)]
    assert preparing.presets == [SMALL] * 5
    assert versions.asked == [((1, 1, 1, 3), "unknown")] + [((1, 2, 2, 3), SMALL.digest)] * 5


async def test_a_failed_discovery_fails_who_waited_and_is_tried_by_the_next() -> None:
    versions = Versions(SMALL)
    versions.failing = 1
    predictor = Predictor(versions, top_k=3)
    outcomes = await asyncio.gather(
        *(predictor.classify(Preparing(), "request") for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert len(versions.asked) == 1
    assert (await predictor.classify(Preparing(), "later")).predictions[0].label == "later"


async def test_who_leaves_during_the_discovery_does_not_end_it_for_the_others() -> None:
    predictor = Predictor(Versions(SMALL), top_k=3)
    leaving = asyncio.create_task(predictor.classify(Preparing(), "leaving"))
    staying = asyncio.create_task(predictor.classify(Preparing(), "staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).predictions[0].label == "staying"


async def test_another_versions_preset_is_adopted_and_the_image_prepared_again() -> None:
    versions, preparing = Versions(SMALL, SMALL, LARGE), Preparing()
    predictor = Predictor(versions, top_k=3)
    assert (await predictor.classify(preparing, "1")).model.version == SMALL.digest
    assert (await predictor.classify(preparing, "2")).model.version == LARGE.digest
    assert (await predictor.classify(preparing, "3")).model.version == LARGE.digest
    assert preparing.presets == [SMALL, SMALL, LARGE, LARGE]


async def test_a_split_that_flips_costs_tries_but_no_second_preparation() -> None:
    versions, preparing = Versions(SMALL, LARGE, SMALL, LARGE, LARGE), Preparing()
    answer = await Predictor(versions, top_k=3).classify(preparing, "1")
    assert answer.model.version == LARGE.digest
    assert preparing.presets == [SMALL, LARGE]


async def test_the_version_that_was_met_first_answers_however_seldom_it_is_met() -> None:
    versions, preparing = Versions(SMALL, LARGE, *[SMALL] * (PATIENCE - 2), LARGE, SMALL), Preparing()
    answer = await Predictor(versions, top_k=3).classify(preparing, "1")
    assert answer.model.version == LARGE.digest
    assert preparing.presets == [SMALL, LARGE]


async def test_a_version_that_went_after_it_was_met_is_given_up() -> None:
    versions, preparing = Versions(SMALL, LARGE, SMALL), Preparing()
    answer = await Predictor(versions, top_k=3).classify(preparing, "1")
    assert answer.model.version == SMALL.digest
    assert preparing.presets == [SMALL, LARGE, SMALL]
    assert len(versions.asked) == 1 + 1 + PATIENCE + 1


async def test_presets_that_never_settle_are_tried_again_later() -> None:
    versions = Versions(*(Preset(height=1, width=width) for width in range(1, 2 + MAX_TRIES)))
    with pytest.raises(PresetMismatch):
        await Predictor(versions, top_k=3).classify(Preparing(), "1")
    assert len(versions.asked) == 1 + MAX_TRIES


@pytest.mark.parametrize(
    ("status", "error", "answered_status"),
    [
        (404, "NotFound", 404),
        (409, "TryAgain", 503),
        (422, "Unavailable", 503),
        (429, "QuotaExceeded", 429),
        (503, "Unavailable", 503),
        (400, "InputRefused", 400),
        (401, "Unavailable", 503),
        (403, "Unavailable", 503),
        (500, "Unavailable", 503),
        (502, "CutOff", 502),
        (504, "Unavailable", 503),
    ],
)
async def test_a_predictors_status_passes_through(status: int, error: str, answered_status: int) -> None:
    seen = error_of(status, b'{"error": "the reason", "reason": "X"}', "7")
    assert (seen.reason, seen.status, str(seen)) == (error, answered_status, "predictor: the reason")
    assert seen.headers() == {"retry-after": "7"}


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (422, "UndecodableImage", "UndecodableImage"),
        (422, "InputRefused", "UndecodableImage"),
        (422, "PackageRefused", "Unavailable"),
        (400, "PackageRefused", "Unavailable"),  # gRPC has one code for both
        (400, "InputRefused", "InputRefused"),
        (500, "ModelFailed", "Unavailable"),
        (422, ["?"], "Unavailable"),
    ],
)
async def test_a_model_that_fails_is_not_the_images_fault(status: int, reason: object, error: str) -> None:
    assert error_of(status, json.dumps({"error": "no", "reason": reason}), None).reason == error


async def test_a_mismatch_without_a_usable_preset_is_tried_again() -> None:
    assert type(error_of(409, b"{}", None)) is TryAgain
    assert str(error_of(502, b"<html>bad gateway", None)) == "predictor: <html>bad gateway"

    class Broken(Versions):
        async def infer(self, *_: object, twice: bool = False) -> Answer:
            raise PresetMismatch("another", preset={"height": 0, "width": 1}, model_digest="sha256:0")

    with pytest.raises(Unavailable, match="expected a preset from the predictor; height"):
        await Predictor(Broken(SMALL), top_k=3).classify(Preparing(), "1")


@pytest.mark.parametrize("outputs", [{}, {"indices": np.zeros((1, 1)), "scores": np.zeros(3), "names": None}])
async def test_an_answer_in_another_language_is_named(outputs: Mapping[str, NDArray[np.float64] | None]) -> None:
    with pytest.raises(Unavailable, match="expected outputs indices, scores, names and parameters"):
        answer_of("digits", outputs, {"model_version": "1", "model_digest": "sha256:" + "0" * 64})


async def test_errors_of_the_preparation_pass_through() -> None:
    async def refuse(_: Preset) -> NDArray[np.uint8]:
        raise UndecodableImage("broken")

    with pytest.raises(UndecodableImage):
        await Predictor(Versions(SMALL), top_k=3).classify(refuse, "1")


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
async def test_a_predictor_that_is_away_is_tried_again(protocol: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    asked: Inference = GrpcInference(nobody, "digits", timeout_seconds=10, tls=False)
    if protocol == "v2":
        asked = RestInference(f"http://{nobody}", "digits", timeout_seconds=10, connections=1)
    with pytest.raises(Unavailable, match=rf"the predictor at .*{nobody} does not answer") as away:
        await asked.infer(np.zeros((1, 8, 8, 3), np.uint8), {TOP_K: 1}, "request")
    assert away.value.headers() == {"retry-after": "2"}
    await asked.close()


@pytest.mark.parametrize(("tls", "reads"), [("false", 0), ("true", 1)])
async def test_certificates_are_read_once_for_all_ways_to_predictors_and_only_for_tls(
    tls: str, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two models, each with the ways to its two tags."""
    seen, read = [], ssl.SSLContext.load_verify_locations

    def counted(context: ssl.SSLContext, *arguments: Any, **named: Any) -> None:
        seen.append(context)
        read(context, *arguments, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    predictor_http._trusted.cache_clear()
    named = ["--model-name", "a", "--predictor-host", "digits", "--model", "b=birds"]
    arguments = [*named, "--predictor-use-ssl", tls]
    settings = load(TransformerSettings, arguments, program="transformer")
    for each in [predictor_of(settings, named) for named in settings.predictors]:
        await each.close()
    assert len(settings.predictors) == 2
    assert len(seen) == reads


NAMED, TAGGED = Named("1"), Named("1", "latest")


@pytest.mark.parametrize(
    ("statuses", "named", "status"),
    [
        ([502, 429], None, 429),
        ([502, 502], None, 502),
        ([503], None, 503),
        ([502], NAMED, 502),  # in place: both versions are behind one address
        ([502], TAGGED, 502),
    ],
)
async def test_what_the_end_of_a_process_cut_off_is_asked_once_more_unless_a_version_is_named(
    statuses: list[int], named: Named | None, status: int
) -> None:
    mismatch = PresetMismatch("another", preset=SMALL.model_dump(mode="json"), model_digest="sha256:0")
    answers = [HttpAnswer(409, json.dumps(mismatch.body()).encode()), *(HttpAnswer(each, b"{}") for each in statuses)]
    with answering(lambda index: answers[index]) as server:
        url = server.url.removesuffix("/predict")
        one, other = (RestInference(url, "digits", timeout_seconds=10, connections=1) for _ in range(2))
        predictor = Predictor(one, top_k=3, tagged={"latest": other})
        with pytest.raises(TryAgain) as failed:
            await predictor.classify(Preparing(), "1", named)
        await predictor.close()
    assert (failed.value.status, len(server.received)) == (status, len(answers))
    assert len({received.body for received in server.received[1:]}) == 1
