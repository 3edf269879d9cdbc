"""Replicas follow a model pointer in a real store: they arrive, they stay when it is away, they come back to it."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.packages import packaged
from testbed.predictors import running_predictor
from testbed.processes import environment, wait_for
from testbed.stores import Store
from whimbrel.core.errors import PackageRefused, SettingsError
from whimbrel.core.metrics import exposition
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore, Replica
from whimbrel.core.package import MANIFEST, write_manifest
from whimbrel.core.package_transfer import upload
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings, load
from whimbrel.local.state import free_port
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.memory import ran_short
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.pointer import ATTEMPTS, PointerFollower
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPLICAS = 10


def version(name: str, digest: str | None = None) -> PointedVersion:
    uri = f"null:10,v{name}"
    return PointedVersion(version=name, uri=uri, digest=digest or null_network(uri).description.digest)


WRONG = version("3", "sha256:" + "1" * 64)


@pytest.fixture
def pointer(s3: S3Client, bucket: str) -> PointerStore:
    return PointerStore(s3, ObjectRef(bucket, "digits/pointer.json"))


@asynccontextmanager
async def replica(pointer: PointerStore, **options: Any) -> AsyncIterator[tuple[PointerFollower, Residents]]:
    settings = PredictorSettings(**{"model_name": "m", "model_uri": "null:2"} | options)
    with device_threads() as threads:
        residents = Residents(settings.models[0].name, settings, threads)
        follower = PointerFollower(pointer, residents, settings)
        await follower.start()
        yield follower, residents
        await residents.close()


def endpoint_of(pointer: PointerStore) -> str:
    return str(pointer._client.meta.endpoint_url)


def held(residents: Residents) -> dict[str, str]:
    return {role: resident.version for role, resident in residents.roles.items()}


@pytest.mark.anyio
async def test_all_replicas_arrive_and_report_it(pointer: PointerStore) -> None:
    etag = pointer.write(Pointer(current=version("1")), None)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(pointer)) for _ in range(REPLICAS)]
        for wanted, roles in (
            (Pointer(current=version("1"), candidate=version("2"), share=20), {"current": "1", "candidate": "2"}),
            (Pointer(current=version("1"), candidate=version("2"), share=50), {"current": "1", "candidate": "2"}),
            (Pointer(current=version("2")), {"current": "2", "previous": "1"}),
            (Pointer(current=version("1")), {"current": "1", "previous": "2"}),
        ):
            etag = pointer.write(wanted, etag)
            await asyncio.gather(*(follower.round() for follower, _ in replicas))

            assert all(held(residents) == roles for _, residents in replicas)
            reports = pointer.live_replicas()
            assert len(reports) == REPLICAS
            assert {(report.synced, report.pointer_etag) for report in reports} == {(True, etag)}
            assert {residents.candidate_percent for _, residents in replicas if wanted.candidate} <= {wanted.share}


@pytest.mark.anyio
async def test_a_candidate_that_is_withdrawn_leaves(pointer: PointerStore) -> None:
    etag = pointer.write(Pointer(current=version("1"), candidate=version("2"), share=20), None)
    async with replica(pointer) as (follower, residents):
        await follower.round()
        assert held(residents) == {"current": "1", "candidate": "2"}
        pointer.write(Pointer(current=version("1")), etag)
        await follower.round()
        assert held(residents) == {"current": "1"}


@pytest.mark.torch
@pytest.mark.anyio
async def test_a_candidate_without_room_leaves_the_current_version_alone(pointer: PointerStore, tmp_path: Path) -> None:
    first, second = (packaged(tmp_path / name, name) for name in ("1", "2"))
    etag = pointer.write(Pointer(current=first, drain_and_swap=True), None)
    async with replica(pointer, model_memory_bytes=100_000, max_batch_size=1) as (follower, residents):
        pointer.write(Pointer(current=first, candidate=second, share=20, drain_and_swap=True), etag)
        for _ in range(2):
            await follower.round()

            assert held(residents) == {"current": "1"}
            assert "free memory" in str(follower.state()["error"])


@pytest.mark.torch
@pytest.mark.anyio
async def test_memory_is_compared_before_the_weights_are_read(pointer: PointerStore, tmp_path: Path) -> None:
    made, bucket = packaged(tmp_path / "2", "2"), pointer.place.bucket
    pointer._client.upload_file(str(tmp_path / "2" / MANIFEST), bucket, f"2/{MANIFEST}")
    without_weights = PointedVersion(version="2", uri=f"s3://{bucket}/2", digest=made.digest)
    etag = pointer.write(Pointer(current=version("1")), None)
    options: dict[str, Any] = {"s3_endpoint": endpoint_of(pointer), "model_cache": tmp_path / "cache"}
    async with replica(pointer, model_memory_bytes=1000, **options) as (follower, residents):
        pointer.write(Pointer(current=without_weights), etag)
        await follower.round()

        assert "bytes of free memory" in str(follower.state()["error"])
        assert held(residents) == {"current": "1"}


@pytest.mark.torch
@pytest.mark.anyio
async def test_modules_are_kept_out_of_later_collections_and_networks_are_not(tmp_path: Path) -> None:
    made = packaged(tmp_path / "2", "2")
    with device_threads() as threads:
        residents = Residents("m", PredictorSettings(model_name="m", model_uri="null:2", max_batch_size=1), threads)
        await residents.load(Source("1", "null:2", None))
        await residents.load(Source("2", made.uri, made.digest), percent=0)
        module = weakref.ref(residents.roles["candidate"].batcher._network.module)  # type: ignore[attr-defined]
        await residents.unload("2")

        assert gc.get_freeze_count() > 50_000
        assert module() is None
        await residents.close()


@pytest.mark.torch
@pytest.mark.anyio
@pytest.mark.parametrize(("drain_and_swap", "attempts"), [(False, ATTEMPTS), (True, 1)])
async def test_a_version_that_does_not_compute_is_tried_a_few_times(
    pointer: PointerStore, tmp_path: Path, drain_and_swap: bool, attempts: int
) -> None:
    broken = packaged(tmp_path / "2", "2", labels=9)
    etag = pointer.write(Pointer(current=version("1")), None)
    name = f"tried-{attempts}"
    async with replica(pointer, model_name=name, max_batch_size=1) as (follower, residents):
        pointer.write(Pointer(current=broken, drain_and_swap=drain_and_swap), etag)
        for _ in range(ATTEMPTS + 2):
            await follower.round()

        assert held(residents) == {"current": "1"}
        assert "expected a network with output" in str(follower.state()["error"])
        line = f'whimbrel_predictor_loads_total{{model="{name}",outcome="failed"}} {attempts}.0'
        assert line in exposition()[0].decode().splitlines()


@pytest.mark.anyio
async def test_a_candidate_that_does_not_load_is_reported_and_changes_nothing(pointer: PointerStore) -> None:
    etag = pointer.write(Pointer(current=version("1")), None)
    async with replica(pointer) as (follower, residents):
        etag = pointer.write(Pointer(current=version("1"), candidate=WRONG, share=20), etag)
        for _ in range(2):
            await follower.round()
        (report,) = pointer.live_replicas()
        assert held(residents) == {"current": "1"}
        assert not report.synced
        assert WRONG.digest in str(report.error)

        pointer.write(Pointer(current=version("1"), candidate=version("2"), share=20), etag)
        await follower.round()
        assert held(residents) == {"current": "1", "candidate": "2"}
        assert follower.state()["synced"]


@pytest.mark.anyio
@pytest.mark.torch
async def test_a_disk_that_fails_is_reported_and_the_load_tried_again(pointer: PointerStore, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "model.safetensors").write_bytes(b"no weights")
    fields = {
        "task": "classification",
        "architecture": "torchvision:squeezenet1_0",
        "preset": {"height": 8, "width": 8},
        "labels": ["a", "b"],
    }
    package = write_manifest(tmp_path / "package", fields, ["model.safetensors"])
    uri = f"s3://{pointer.place.bucket}/two"
    upload(package.folder, uri, pointer._client)
    two = PointedVersion(version="2", uri=uri, digest=package.digest)
    etag = pointer.write(Pointer(current=version("1")), None)
    async with replica(pointer, model_cache=cache, s3_endpoint=endpoint_of(pointer)) as (follower, residents):
        pointer.write(Pointer(current=two), etag)
        await follower.round()
        (report,) = pointer.live_replicas()
        assert str(cache) in str(report.error)

        cache.unlink()
        await follower.round()

        assert "expected safetensors in" in str(follower.state()["error"])
        assert held(residents) == {"current": "1"}


class SlowStore(PointerStore):
    """Its reports take until they are let go."""

    def __init__(self, store: PointerStore) -> None:
        super().__init__(store._client, store.place)
        self.begun, self.let_go = threading.Event(), threading.Event()

    def report(self, replica: Replica) -> None:
        self.begun.set()
        self.let_go.wait(30)
        super().report(replica)


@pytest.mark.anyio
async def test_no_report_comes_after_the_end(pointer: PointerStore) -> None:
    pointer.write(Pointer(current=version("1")), None)
    slow = SlowStore(pointer)
    async with replica(slow) as (follower, _):
        following = asyncio.create_task(follower.run())
        await asyncio.to_thread(slow.begun.wait, 30)
        following.cancel()
        await asyncio.wait([following])
        stopping = asyncio.create_task(follower.stop())
        asyncio.get_running_loop().call_soon(slow.let_go.set)
        await stopping

        assert pointer.live_replicas() == []


@pytest.mark.torch
@pytest.mark.anyio
async def test_a_version_that_was_brought_back_is_exposed_and_one_that_left_is_not(
    pointer: PointerStore, tmp_path: Path
) -> None:
    first, wrong = packaged(tmp_path / "1", "1"), packaged(tmp_path / "2", "2", labels=9)
    etag = pointer.write(Pointer(current=first), None)
    options: dict[str, Any] = {"model_name": "exposed", "model_memory_bytes": 100_000, "max_batch_size": 1}
    async with replica(pointer, **options) as (follower, residents):
        pointer.write(Pointer(current=wrong, drain_and_swap=True), etag)
        await follower.round()

        lines = [line for line in exposition()[0].decode().splitlines() if 'model="exposed"' in line]
        assert held(residents) == {"current": "1"}
        assert 'whimbrel_predictor_role{model="exposed",role="current",version="1"} 1.0' in lines
        assert not [line for line in lines if 'version="2"' in line]


@pytest.mark.anyio
async def test_a_refusal_keeps_its_reason(pointer: PointerStore) -> None:
    etag = pointer.write(Pointer(current=version("1")), None)
    away = s3_client(S3Settings(s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_max_attempts=1))
    async with replica(pointer) as (follower, _):
        pointer.write(Pointer(current=version("1"), candidate=WRONG, share=20), etag)
        await follower.round()
        refused = follower.state()["error"]
        follower._store = PointerStore(away, pointer.place)
        await follower.round()
        follower._store = pointer
        await follower.round()

        assert WRONG.digest in str(refused)
        assert follower.state()["error"] == refused


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (FileNotFoundError(errno.ENOENT, "none"), False),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_what_ran_short_is_told_from_what_is_broken(error: Exception, short: bool) -> None:
    refused = PackageRefused("expected the model to compute")
    refused.__cause__ = error

    assert ran_short(refused) is short


@pytest.mark.anyio
async def test_the_last_good_state_stays_while_the_store_is_away(pointer: PointerStore) -> None:
    pointer.write(Pointer(current=version("1")), None)
    away = s3_client(S3Settings(s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_max_attempts=1))
    async with replica(pointer) as (follower, residents):
        follower._store = PointerStore(away, pointer.place)
        await follower.round()

        assert held(residents) == {"current": "1"}
        assert "does not answer" in str(follower.state()["error"])
        follower._store = pointer
        await follower.round()
        assert follower.state()["error"] is None


def test_a_process_killed_in_the_middle_of_its_swap_comes_back_on_the_pointers_state(
    store: Store, pointer: PointerStore, tmp_path: Path
) -> None:
    etag = pointer.write(Pointer(current=version("1")), None)
    options = ("--pointer-poll-seconds", "0.2", "--warm-up-seconds", "0")
    uri, slow = f"pointer+{pointer.place.uri}", ("--null-delay-seconds", "2")  # the swap takes 16 s
    with running_predictor(tmp_path / "slow", *options, *slow, uri=uri, **store.settings_environment) as predictor:
        assert metadata(predictor.url)["versions"] == ["1"]
        pointer.write(Pointer(current=version("1"), candidate=version("2"), share=30), etag)
        wait_for(lambda: ("2", "LOADING") in states(predictor.url), "the swap")
        predictor.process.process.kill()
        predictor.process.process.wait(60)

    with running_predictor(tmp_path / "log", *options, uri=uri, **store.settings_environment) as predictor:
        wait_for(lambda: metadata(predictor.url)["pointer"]["synced"], "the pointer's state")

        rows = {row["version"]: (row["role"], row["percent"]) for row in metadata(predictor.url)["residents"]}
        assert rows == {"1": ("current", 70.0), "2": ("candidate", 30.0)}
        alive = len(pointer.live_replicas())
        assert predictor.process.stop() == 0
        assert len(pointer.live_replicas()) == alive - 1


BROKEN_FOLLOWER = """
import sys
from whimbrel.predictors import __main__, pointer

async def reported(self):
    if self._residents.current is not None:
        raise RuntimeError("a fault of ours")

pointer.PointerFollower._report = reported
sys.exit(__main__.main())
"""


def test_a_replica_that_no_longer_follows_drains_and_ends_with_an_error(
    store: Store, pointer: PointerStore, tmp_path: Path
) -> None:
    pointer.write(Pointer(current=version("1")), None)
    options = ("--model-name", "digits", "--model-uri", f"pointer+{pointer.place.uri}", "--drain-seconds", "0.1")
    ports = ("--http-port", "0", "--grpc-port", "0")
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN_FOLLOWER, *options, *ports],
        env=environment(**store.settings_environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    messages = [json.loads(line)["message"] for line in ended.stderr.splitlines() if line.startswith("{")]
    assert [each for each in messages if each in ("ready", "no longer following the pointer", "draining")] == [
        "ready",
        "no longer following the pointer",
        "draining",
    ]
    assert ended.returncode == 1


def states(url: str) -> list[tuple[str, str]]:
    return [(row["version"], row["state"]) for row in metadata(url)["residents"]]


def metadata(url: str) -> Any:
    return httpx.get(f"{url}/v2/models/digits").json()


def test_the_pointer_alone_decides() -> None:
    with pytest.raises(SettingsError, match="WHIMBREL_REPOSITORY_API"):
        load(
            PredictorSettings,
            ["--model-name", "m", "--model-uri", "pointer+s3://models/p.json", "--repository-api", "true"],
            program="predictors",
        )
