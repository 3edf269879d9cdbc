"""Several models in one process: each by its name in every protocol, loaded, swapped and computed beside the others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import httpx
import numpy as np
import pytest

from testbed.packages import packaged
from testbed.predictors import Predictor, null_images, running_predictor, v2_document, v2_outputs
from testbed.processes import running, wait_for
from testbed.stores import Store
from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.core.kserve_sdk import InferInput, InferRequest
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.settings import load
from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.batcher import batching, device_threads
from whimbrel.predictors.memory import Taken
from whimbrel.predictors.named_models import NamedModel
from whimbrel.predictors.network import Images, Outputs
from whimbrel.predictors.null_network import NullNetwork, null_network
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DIGEST = "sha256:" + "1" * 64
LETTERS, SHAPES = "null:26,letter", "null:3,16x16,shape"
OTHER = "null:26,other"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """`digits` by the short form, and two more."""
    options = ("--model", f"letters={LETTERS}", "--model", f"shapes={SHAPES}")
    repository = ("--repository-api", "true", "--allowed-uri-prefixes", "null:")
    with running_predictor(tmp_path_factory.mktemp("several") / "log", *options, *repository) as ready:
        yield ready


def test_each_model_answers_by_its_name_over_v1_and_v2(predictor: Predictor) -> None:
    documents = {"digits": null_images(7), "letters": null_images(7), "shapes": np.full((1, 16, 16, 3), 7, np.uint8)}
    over_v1 = {
        name: httpx.post(
            f"{predictor.url}/v1/models/{name}:predict", json={"instances": images.tolist()}, timeout=30
        ).json()
        for name, images in documents.items()
    }
    over_v2 = {
        name: httpx.post(f"{predictor.url}/v2/models/{name}/infer", json=v2_document(images), timeout=30).json()
        for name, images in documents.items()
    }

    best = {"digits": "class-7", "letters": "letter-7", "shapes": "shape-1"}
    assert {name: answer["predictions"][0][0]["label"] for name, answer in over_v1.items()} == best
    assert {name: v2_outputs(answer)["names"][0][0] for name, answer in over_v2.items()} == best
    assert {name: answer["model_name"] for name, answer in over_v2.items()} == {name: name for name in best}


def test_each_model_answers_by_its_name_over_grpc(predictor: Predictor) -> None:
    tensor = InferInput("images", [1, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(null_images(2))
    with grpc.insecure_channel(predictor.grpc_target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        ask = {name: InferRequest(name, [tensor]).to_grpc().SerializeToString() for name in ("letters", "none")}

        assert b"letter-2" in call(ask["letters"], timeout=30)
        with pytest.raises(grpc.RpcError) as absent:
            call(ask["none"], timeout=30)
    assert absent.value.code() == grpc.StatusCode.NOT_FOUND


def test_lists_and_readiness_have_all_of_them(predictor: Predictor) -> None:
    names = ["digits", "letters", "shapes"]
    ready = [
        httpx.get(f"{predictor.url}{path}", timeout=30).status_code
        for path in ("/v2/health/ready", *map(_ready, names))
    ]
    rows = httpx.post(f"{predictor.url}/v2/repository/index", json={}, timeout=30).json()

    assert ready == [200] * 4
    assert [(row["name"], row["state"], row["role"]) for row in rows] == [(name, "READY", "current") for name in names]
    assert sorted(httpx.get(f"{predictor.url}/v2/models", timeout=30).json()["models"]) == names
    assert sorted(httpx.get(f"{predictor.url}/v1/models", timeout=30).json()["models"]) == names
    assert httpx.get(f"{predictor.url}/v2/models/none", timeout=30).status_code == 404
    assert httpx.get(f"{predictor.url}/v2/models/shapes", timeout=30).json()["inputs"][0]["shape"] == [-1, 16, 16, 3]


def _ready(name: str) -> str:
    return f"/v2/models/{name}/ready"


def test_one_model_is_swapped_and_the_others_are_as_they_were(predictor: Predictor) -> None:
    digest = null_network(OTHER).description.digest
    parameters = {"version": "2", "uri": OTHER, "digest": digest, "percent": 40}
    url = f"{predictor.url}/v2/repository/models/letters"
    loaded = httpx.post(f"{url}/load", json={"parameters": parameters}, timeout=30)
    rows = httpx.post(f"{predictor.url}/v2/repository/index", json={}, timeout=30).json()
    shares = httpx.get(f"{predictor.url}/metrics", timeout=30).text
    httpx.post(f"{url}/unload", json={"parameters": {"version": "2"}}, timeout=30).raise_for_status()

    assert (loaded.status_code, loaded.json()["name"]) == (200, "letters")
    assert [(row["name"], row["version"], row["percent"]) for row in rows] == [
        ("digits", "null", 100.0),
        ("letters", "null", 60.0),
        ("letters", "2", 40.0),
        ("shapes", "null", 100.0),
    ]
    assert 'whimbrel_predictor_share_ratio{model="letters",version="2"} 0.4' in shares
    assert 'whimbrel_predictor_share_ratio{model="digits",version="null"} 1.0' in shares
    assert "\nwhimbrel_predictor_free_bytes " in shares  # of the process


def pointed(version: str) -> PointedVersion:
    uri = f"null:10,v{version}"
    return PointedVersion(version=version, uri=uri, digest=null_network(uri).description.digest)


def test_each_model_follows_its_own_pointer(store: Store, s3: S3Client, bucket: str, tmp_path: Path) -> None:
    stores = {name: PointerStore(s3, ObjectRef(bucket, f"{name}/pointer.json")) for name in ("a", "b")}
    etags = {name: pointers.write(Pointer(current=pointed(f"{name}1")), None) for name, pointers in stores.items()}
    options = [f"--model={name}=pointer+{pointers.place.uri}" for name, pointers in stores.items()]

    def held() -> dict[str, list[tuple[str, bool]]]:
        """By the reports beside each pointer: versions, and whether they are what the pointer says."""
        return {
            name: [(report.versions[0]["version"], report.pointer_etag == etags[name]) for report in found]
            for name, found in ((name, pointers.live_replicas()) for name, pointers in stores.items())
        }

    with running_predictor(
        tmp_path / "log", *options, "--pointer-poll-seconds", "0.2", **store.settings_environment
    ) as predictor:
        wait_for(lambda: held() == {"a": [("a1", True)], "b": [("b1", True)]}, "both reports")
        etags["b"] = stores["b"].write(Pointer(current=pointed("b2")), etags["b"])
        wait_for(lambda: held() == {"a": [("a1", True)], "b": [("b2", True)]}, "the swap of one")
        rows = httpx.post(f"{predictor.url}/v2/repository/index", json={}, timeout=30).json()
        answer = httpx.post(
            f"{predictor.url}/v2/models/b/infer", json=v2_document(null_images(3), top_k=1), timeout=30
        ).json()

    current = [(row["name"], row["version"]) for row in rows if row["role"] == "current"]
    assert current == [("digits", "null"), ("a", "a1"), ("b", "b2")]
    assert v2_outputs(answer)["names"] == [["vb2-3"]]
    assert held() == {"a": [], "b": []}  # taken back at the end


def test_a_model_that_cannot_be_loaded_ends_the_start_and_is_named(tmp_path: Path) -> None:
    options = ("--model", "digits=null:10", "--model", f"letters={LETTERS}@{DIGEST}", "--http-port", "0")
    with running("whimbrel.predictors", *options, "--grpc-port", "0", log=tmp_path / "log") as it:
        status = it.process.wait(60)
    lines = [json.loads(line)["message"] for line in it.output().splitlines()]

    assert status == 1
    assert lines[-1].startswith(f"cannot start: model 'letters': expected the model package {DIGEST}")
    assert "ready" not in lines


def settings(*arguments: str) -> PredictorSettings:
    return load(PredictorSettings, arguments, program="whimbrel.predictors")


def test_models_are_named_by_options_by_lines_and_by_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--model", "b=models:/letters@champion", "--model", f"c=s3://models/c/1@{DIGEST}")
    by_options = settings("--model-name", "a", "--model-uri", "models:/digits/3", *more).models
    monkeypatch.setenv(
        "WHIMBREL_MODEL", f"a=models:/digits/3\n  b=models:/letters@champion\n\nc=s3://models/c/1@{DIGEST}\n"
    )

    assert settings().models == by_options
    assert by_options == (
        NamedModel("a", "models:/digits/3"),
        NamedModel("b", "models:/letters@champion"),
        NamedModel("c", "s3://models/c/1", DIGEST),
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "WHIMBREL_MODEL_URI (--model-uri): missing; or name models by --model NAME=URI"),
        (("--model-uri", "null:2"), "WHIMBREL_MODEL_NAME (--model-name): missing"),
        (("--model", "a=null:2", "--model-name", "b"), "WHIMBREL_MODEL_URI (--model-uri): missing"),
        (("--model", "a=null:2", "--model-digest", DIGEST), "expected beside a model_uri, seen alone"),
        (("--model", "null:2"), "expected NAME=URI or NAME=URI@sha256:DIGEST"),
        (("--model", "a=http://models/a"), "expected NAME=URI or NAME=URI@sha256:DIGEST"),
        (("--model", "a=null:2", "--model", "a=null:3"), "expected each name once, seen 'a' again"),
        (("--model", "a=s3://models/a/1"), "model 'a': expected the digest of 's3://models/a/1'"),
        (("--model", f"a=pointer+s3://models/a/p.json@{DIGEST}"), "which names its own"),
        (("--model", "a=pointer+s3://m/a.json", "--model", "b=pointer+s3://m/b.json"), "in a folder of its own"),
        (("--model", "a=null:2", "--ensemble", "e=average:a"), "expected two members or more, each once"),
        (("--model", "a=null:2", "--ensemble", "e=average:a,a"), "expected two members or more, each once"),
        (("--model", "a=null:2", "--ensemble", "e=median:a,b"), "expected NAME=average|vote:MEMBER[*WEIGHT]"),
        (("--model", "a=null:2", "--ensemble", "e=vote:a,b*0"), "the weight above 0"),
        (("--model", "a=null:2", "--ensemble", "e=vote:a,b"), "members among the models a, seen 'b'"),
        (("--model", "a=null:2", "--model", "b=null:2", "--ensemble", "a=vote:a,b"), "each name once, seen 'a'"),
    ],
)
def test_what_names_no_models_is_refused_in_one_line(arguments: Sequence[str], line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(*arguments)
    assert line in str(refused.value)


class Gate:
    """Where all computing waits until it opens."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._open.wait(30)

    def open(self) -> None:
        self._open.set()


class CountedNetwork(NullNetwork):
    """Writes down whose batch it computes."""

    def __init__(self, name: str, computed: list[str], gate: Gate) -> None:
        super().__init__(10)
        self._name, self._computed, self._gate = name, computed, gate

    def infer(self, images: Images, top_k: int) -> Outputs:
        self._gate.pass_through()
        self._computed.append(self._name)
        return super().infer(images, top_k)


@pytest.mark.anyio
async def test_a_flood_on_one_model_delays_another_by_a_batch_or_two() -> None:
    computed: list[str] = []
    gate, limits = Gate(), BatchLimits(4, 0.0, 10_000, adaptive=False)
    with device_threads() as threads:
        async with AsyncExitStack() as stack:
            flooded, asked = [
                await stack.enter_async_context(
                    batching(CountedNetwork(name, computed, gate), limits, threads, model_name=name, version="1")
                )
                for name in ("flooded", "asked")
            ]
            flood = [asyncio.create_task(flooded.infer(null_images(1, 2, 3, 4), 1)) for _ in range(200)]
            assert await asyncio.to_thread(gate.reached.wait, 30)
            others = [asyncio.create_task(asked.infer(null_images(5, 6, 7, 8), 1)) for _ in range(2)]
            in_line = threads.turns._lines
            await asyncio.to_thread(wait_for, lambda: len(in_line.get("asked", ())) == 2, "both batches of the other")
            gate.open()
            await asyncio.gather(*others)
            before = computed.index("asked")
            await asyncio.gather(*flood)

    assert before <= 2
    assert computed.count("flooded") == 200
    assert computed[before : before + 3].count("asked") == 2  # turn by turn


@pytest.mark.anyio
async def test_of_two_loads_none_counts_on_the_memory_that_the_other_takes() -> None:
    taken = Taken()
    placed: list[tuple[str, int]] = []

    async def load_one(name: str) -> None:
        async with taken.placing:
            placed.append((name, taken.total))
            with taken.holding(100):
                await asyncio.sleep(0)
                placed.append((name, taken.total))

    await asyncio.gather(load_one("a"), load_one("b"))

    assert placed == [("a", 0), ("a", 100), ("b", 0), ("b", 100)]
    assert taken.total == 0


@pytest.mark.torch
@pytest.mark.anyio
async def test_memory_is_accounted_for_the_process(tmp_path: Path) -> None:
    made = packaged(tmp_path / "1", "1")
    source = Source("1", made.uri, made.digest)
    options = PredictorSettings(model=["a=null:2", "b=null:2"], max_batch_size=1, model_memory_bytes=100_000)
    with device_threads() as threads:
        first, second = (Residents(name, options, threads) for name in ("a", "b"))
        await first.load(source)
        with pytest.raises(Unavailable, match="free memory"):
            await second.load(source)
        await first.close()
        await second.load(source)
        await second.close()
        assert threads.taken.total == 0
