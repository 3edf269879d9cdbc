"""An ensemble: how members' answers become one, what it refuses, and what its members' swaps do to it."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from testbed.predictors import Predictor, null_images, running_predictor, v2_document, v2_outputs
from testbed.processes import running
from whimbrel.core.errors import NotFound, PackageRefused, PresetMismatch, Unavailable
from whimbrel.core.kserve_sdk import InferInput, InferRequest
from whimbrel.core.package import Preset, write_manifest
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.combining import Voice, check_combines, combined, digest_of
from whimbrel.predictors.ensemble import EnsembleModel
from whimbrel.predictors.inference_requests import RequestLimits
from whimbrel.predictors.model import PredictorModel
from whimbrel.predictors.named_models import Rule
from whimbrel.predictors.network import Description
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source
from whimbrel.predictors.start import serving

DIGEST = null_network("null:10").description.digest
OTHER, LARGER = "null:10,other", "null:10,16x16"
THIRD = Fraction(1, 3)


def voice(scores: Sequence[Sequence[float]], share: Fraction = THIRD) -> Voice:
    """`scores` by class."""
    order = np.argsort(-np.array(scores), axis=1, kind="stable")
    return Voice({"indices": order, "scores": np.take_along_axis(np.array(scores, np.float32), order, 1)}, share)


def labelled(rule: Rule, voices: Sequence[Voice], top_k: int = 3) -> list[dict[int, float]]:
    outputs = combined(rule, voices, 3, top_k)
    rows = zip(outputs["indices"].tolist(), outputs["scores"].tolist(), strict=True)
    return [dict(zip(indices, (round(score, 6) for score in scores), strict=True)) for indices, scores in rows]


def test_scores_are_averaged_by_class_and_ranked() -> None:
    voices = [
        voice([[0.6, 0.3, 0.1], [0, 1, 0]]),
        voice([[0.1, 0.5, 0.4], [0, 1, 0]]),
        voice([[0.2, 0.7, 0.1], [1, 0, 0]]),
    ]

    answer = labelled("average", voices)

    assert [list(row) for row in answer] == [[1, 0, 2], [1, 0, 2]]
    assert answer == [{1: 0.5, 0: 0.3, 2: 0.2}, {1: 0.666667, 0: 0.333333, 2: 0.0}]
    assert labelled("average", voices, top_k=1) == [{1: 0.5}, {1: 0.666667}]


def test_weights_count() -> None:
    voices = [voice([[1, 0, 0]], Fraction(1, 4)), voice([[0, 0, 1]], Fraction(3, 4))]

    assert labelled("average", voices) == [{2: 0.75, 0: 0.25, 1: 0.0}]
    assert labelled("vote", voices) == [{2: 0.75, 0: 0.25, 1: 0.0}]


def test_the_majority_wins_and_a_tie_goes_to_the_higher_scores() -> None:
    majority = [voice([[0.5, 0.4, 0.1]]), voice([[0.5, 0.4, 0.1]]), voice([[0, 0, 1]])]
    half = Fraction(1, 2)
    tied = [voice([[0.6, 0.4, 0]], half), voice([[0.1, 0, 0.9]], half)]
    equal = [voice([[1, 0, 0]], half), voice([[0, 1, 0]], half)]

    assert labelled("vote", majority) == [{0: 0.666667, 2: 0.333333, 1: 0.0}]
    assert list(labelled("vote", tied)[0]) == [2, 0, 1]
    assert list(labelled("vote", equal)[0]) == [0, 1, 2]


def test_its_digest_is_of_rule_members_and_shares_in_any_order() -> None:
    one, two, half = "sha256:" + "1" * 64, "sha256:" + "2" * 64, Fraction(1, 2)
    digest = digest_of("average", ((one, half), (two, half)))

    assert digest == digest_of("average", ((two, half), (one, half)))
    others = {
        digest_of("vote", ((one, half), (two, half))),
        digest_of("average", ((one, half), (one, half))),
        digest_of("average", ((one, THIRD), (two, 2 * THIRD))),
        digest_of("average", ((one, 2 * THIRD), (two, THIRD))),
    }
    assert len(others | {digest}) == 5


PLAIN = Description("classification", Preset(height=8, width=8), ("a", "b"), DIGEST)


@pytest.mark.parametrize(
    ("arriving", "line"),
    [
        (Description("detection", PLAIN.preset, PLAIN.labels, DIGEST), "expected members for classification, seen two"),
        (Description(PLAIN.task, PLAIN.preset, ("a", "c"), DIGEST), "seen one and two with labels[1] 'b' and 'c'"),
        (Description(PLAIN.task, PLAIN.preset, ("a",), DIGEST), "seen one and two with 2 and 1 labels"),
        (Description(PLAIN.task, Preset(height=8, width=9), PLAIN.labels, DIGEST), "with preset.width 8 and 9"),
    ],
)
def test_what_cannot_be_combined_is_refused_with_what_differs(arriving: Description, line: str) -> None:
    with pytest.raises(PackageRefused) as refused:
        check_combines("both", ("one", PLAIN), ("two", arriving))
    assert line in str(refused.value)


@asynccontextmanager
async def both(rule: str = "average", **options: Any) -> AsyncIterator[tuple[EnsembleModel, dict[str, PredictorModel]]]:
    """The ensemble `both` over `a` and `b`, as the predictor's process has it."""
    names = ("a", "b")
    settings = PredictorSettings(model=[f"{name}=null:10" for name in names], ensemble=[f"both={rule}:a,b"], **options)
    limits = RequestLimits(10, 3)
    models = {name: PredictorModel(name, limits) for name in names}
    ensemble = EnsembleModel(settings.ensemble[0], models, limits)
    async with serving(models, [ensemble], settings):
        yield ensemble, models


def request(*indices: int, key: str = "", **parameters: Any) -> InferRequest:
    images = null_images(*indices)
    tensor = InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return InferRequest("both", [tensor], request_id=key, parameters=parameters)


async def asked(ensemble: EnsembleModel, *indices: int, **options: Any) -> Any:
    return await ensemble.predict(request(*indices, **options))


async def load(model: PredictorModel, version: str, uri: str = "null:10", percent: float = 100.0) -> None:
    await model.residents.load(Source(version, uri, None), percent=percent)


@pytest.mark.anyio
async def test_a_swap_of_a_member_is_seen_in_the_version_and_by_nobody_else() -> None:
    async with both() as (ensemble, models):
        before = await asked(ensemble, 3)
        await load(models["a"], "2")
        after = await asked(ensemble, 3)

        assert (before.parameters["model_version"], after.parameters["model_version"]) == (
            "a:null+b:null",
            "a:2+b:null",
        )
        assert before.parameters["model_digest"] == after.parameters["model_digest"]  # the same packages
        assert after.get_output_by_name("names").as_numpy().tolist() == [["class-3", "class-4", "class-5"]]
        assert ensemble.versions == ["a:2+b:null"]
        assert ensemble.digest_of("a:2+b:null") == after.parameters["model_digest"]
        with pytest.raises(NotFound, match=r"expected the version a:2\+b:null"):
            await asked(ensemble, 3, model_version="a:null+b:null")


@pytest.mark.anyio
@pytest.mark.parametrize("uri", [OTHER, LARGER])
async def test_a_version_that_cannot_be_combined_is_refused_and_the_others_go_on(uri: str) -> None:
    async with both("vote") as (ensemble, models):
        for percent in (100.0, 20.0):
            with pytest.raises(PackageRefused, match="ensemble 'both'"):
                await load(models["a"], "2", uri, percent)

        assert models["a"].versions == ["null"]
        assert await ensemble.healthy()
        assert (await asked(ensemble, 1)).parameters["model_version"] == "a:null+b:null"


@pytest.mark.anyio
async def test_members_take_their_candidates_for_the_same_keys() -> None:
    async with both() as (ensemble, models):
        for model in models.values():
            await load(model, "2", percent=50)
        seen = {(await asked(ensemble, 1, key=f"event-{number}")).parameters["model_version"] for number in range(40)}
        again = [(await asked(ensemble, 1, key="event-7")).parameters["model_version"] for _ in range(2)]

    assert seen == {"a:null+b:null", "a:2+b:2"}
    assert len(set(again)) == 1


@pytest.mark.anyio
async def test_swaps_under_load_cost_no_answer() -> None:
    async with both("vote") as (ensemble, models):
        seen: set[str] = set()
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                seen.add((await asked(ensemble, 1)).parameters["model_version"])

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for version in ("2", "3", "4"):
            for model in models.values():
                await load(model, version)
        stop.set()
        await asyncio.gather(*clients)

    assert len(seen) > 1


@pytest.mark.anyio
async def test_what_has_left_is_neither_held_nor_counted() -> None:
    async with both() as (ensemble, models):
        current = models["a"].residents.current
        assert current is not None
        left, current = weakref.ref(current.batcher), None
        for version in ("2", "3"):
            await asked(ensemble, 1)
            await load(models["a"], version)
        gc.collect()
        assert left() is None
        await asked(ensemble, 1)

        assert list(ensemble._counted) == ["a:2+b:null", "a:3+b:null"]  # the previous one may come back


@pytest.mark.anyio
async def test_members_batch_with_their_own_requests() -> None:
    options: Any = {"batching": "fixed", "max_batch_size": 2, "max_delay_ms": 1000, "warm_up_seconds": 0}
    async with both(**options) as (ensemble, models):
        await asyncio.gather(asked(ensemble, 1), *(model.predict(request(2)) for model in models.values()))

        for name in models:
            assert _sample("whimbrel_predictor_batch_size_sum", name) == 2
            assert _sample("whimbrel_predictor_batch_size_count", name) == 1


def _sample(name: str, model: str) -> float | None:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(name, {"model": model, "version": "null"})


@pytest.mark.anyio
async def test_another_preset_is_answered_with_the_members() -> None:
    async with both() as (ensemble, _):
        with pytest.raises(PresetMismatch) as mismatch:
            await asked(ensemble, 1, preset_digest="sha256:other")

        assert mismatch.value.preset["height"] == 8
        assert mismatch.value.model_digest == ensemble.digest_of("a:null+b:null") != DIGEST


@pytest.mark.torch
@pytest.mark.anyio
async def test_labels_are_those_of_what_has_loaded(tmp_path: Path) -> None:
    """Not of a version whose load failed; and of two first ones that load at once, the second is refused."""
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    fields = {"task": "classification", "architecture": "torchvision:resnet18", "labels": ["only one"]}
    broken = write_manifest(tmp_path, {**fields, "preset": {"height": 8, "width": 8}}, ["model.safetensors"])
    settings = PredictorSettings(model=["a=null:10", "b=null:10"], ensemble=["both=vote:a,b"])
    models = {name: PredictorModel(name, RequestLimits(10, 3)) for name in ("a", "b")}
    ensemble = EnsembleModel(settings.ensemble[0], models, RequestLimits(10, 3))
    with device_threads() as threads:
        for name, model in models.items():
            model.serve(Residents(name, settings, threads, functools.partial(ensemble.admit, name)))
        with pytest.raises(PackageRefused, match="expected safetensors"):
            await models["a"].residents.load(Source("1", tmp_path.as_uri(), broken.digest))
        assert ensemble.get_input_types() == []

        loads = (load(models["a"], "1", OTHER), load(models["b"], "1"))
        refused = [each for each in await asyncio.gather(*loads, return_exceptions=True) if each is not None]
        assert [type(each) for each in refused] == [PackageRefused]
        kind = OTHER if models["a"].versions else "null:10"
        for model in models.values():
            if not model.versions:
                await load(model, "2", kind)
        assert len(ensemble.versions) == 1
        for model in models.values():
            await model.residents.close()


@pytest.mark.anyio
async def test_a_member_that_another_one_fails_has_lost_no_client() -> None:
    def left(name: str) -> float:
        from prometheus_client import REGISTRY

        labels = {"model": name, "version": "null", "status": "499"}
        return REGISTRY.get_sample_value("whimbrel_predictor_requests_total", labels) or 0.0

    async with both(null_delay_seconds=0.2) as (ensemble, models):
        current = models["b"].residents.current
        assert current is not None
        before = left("a"), left("both")
        current.batcher._closing = True  # as at its end: it takes no more
        with pytest.raises(Unavailable):
            await asked(ensemble, 1)
        assert (left("a"), left("both")) == before
        current.batcher._closing = False

        asking = asyncio.create_task(asked(ensemble, 1))
        async with asyncio.timeout(60):
            while models["a"].residents.current.users == 0:  # type: ignore[union-attr] # noqa: ASYNC110
                await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert left("a") == before[0] + 1


def test_members_that_cannot_be_combined_end_the_start(tmp_path: Path) -> None:
    models = ("--model", "a=null:10", "--model", f"b={OTHER}", "--ensemble", "both=average:a,b")
    with running("whimbrel.predictors", *models, "--http-port", "0", "--grpc-port", "0", log=tmp_path / "log") as it:
        status = it.process.wait(60)

    assert status == 1
    assert "ensemble 'both': expected members with the same labels and preset, seen " in it.output()
    assert "labels[0]" in it.output()


def test_an_ensemble_is_a_model_like_any_other_to_its_clients(tmp_path: Path) -> None:
    options = ("--model", "b=null:10", "--ensemble", "both=vote:digits*2,b")
    repository = ("--repository-api", "true", "--allowed-uri-prefixes", "null:")
    with running_predictor(tmp_path / "log", *options, *repository) as predictor:
        answer = ask(predictor, "/v2/models/both/infer", v2_document(null_images(4), top_k=2)).json()
        over_v1 = ask(predictor, "/v1/models/both:predict", {"instances": null_images(4).tolist()})
        by_version = ask(predictor, "/v2/models/both/versions/digits:null+b:null/infer", v2_document(null_images(4)))
        unloaded = ask(predictor, "/v2/repository/models/both/unload", {"parameters": {"version": "1"}})
        metadata = httpx.get(f"{predictor.url}/v2/models/both", timeout=30).json()
        ready = httpx.get(f"{predictor.url}/v2/models/both/ready", timeout=30).status_code
        counted = httpx.get(f"{predictor.url}/metrics", timeout=30).text

    assert v2_outputs(answer) == {"indices": [[4, 5]], "scores": [[1.0, 0.0]], "names": [["class-4", "class-5"]]}
    assert answer["parameters"]["model_version"] == "digits:null+b:null"
    assert over_v1.json()["predictions"][0][0] == {"label": "class-4", "index": 4, "score": 1.0}
    assert over_v1.headers["x-whimbrel-model-digest"] == answer["parameters"]["model_digest"] != DIGEST
    assert (by_version.status_code, ready) == (200, 200)
    assert (unloaded.status_code, unloaded.json()["reason"]) == (400, "InputRefused")
    assert metadata["rule"] == "vote"
    assert [(each["name"], round(each["share"], 3)) for each in metadata["members"]] == [
        ("digits", 0.667),
        ("b", 0.333),
    ]
    label = 'model="both",status="200",version="digits:null+b:null"'
    assert f"whimbrel_predictor_requests_total{{{label}}} 3.0" in counted
    assert 'whimbrel_predictor_requests_total{model="b",status="200",version="null"} 3.0' in counted


def ask(predictor: Predictor, path: str, document: Any) -> httpx.Response:
    return httpx.post(predictor.url + path, json=document, timeout=30)
