"""Starting, refusing to start, overload, cancellation and the drain of real predictor processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest

from testbed.dripping_store import dripping_store
from testbed.predictors import Predictor, listening_ports, null_images, running_predictor, v2_document
from testbed.processes import environment, running, wait_for
from testbed.stores import CREDENTIALS, Store
from whimbrel.core.package import digest_of_json
from whimbrel.local.state import free_port

DIGEST = "sha256:" + "1" * 64
PORTS = {"WHIMBREL_HTTP_PORT": "0", "WHIMBREL_GRPC_PORT": "0"}
ENDLESS = {
    "schema": "whimbrel.dev/model/v1",
    "task": "classification",
    "architecture": "pt2",
    "preset": {"height": 8, "width": 8},
    "labels": ["a"],
    "files": {"model.pt2": {"sha256": "1" * 64, "size": 2**30}},
}


def refused_start(*arguments: str, **extra: str) -> tuple[int, list[str]]:
    """The exit status and the lines of a predictor that does not start."""
    options = ("--model-name", "digits", "--http-port", "0", "--grpc-port", "0")
    ended = subprocess.run(
        [sys.executable, "-m", "whimbrel.predictors", *options, *arguments],
        env=environment(**CREDENTIALS, **extra),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr.strip().splitlines()


def test_a_package_is_never_loaded_unpinned() -> None:
    status, lines = refused_start("--model-uri", "s3://models/digits/1")

    assert (status, len(lines)) == (2, 1)
    assert "WHIMBREL_MODEL_DIGEST (--model-digest): missing" in lines[0]


def test_a_missing_bucket_ends_the_start_with_one_line(store: Store) -> None:
    status, lines = refused_start(
        "--model-uri", "s3://no-such-bucket/m", "--model-digest", DIGEST, WHIMBREL_S3_ENDPOINT=store.endpoint
    )

    assert status == 1
    assert "NoSuchBucket" in json.loads(lines[-1])["message"]


def test_a_store_that_does_not_answer_is_waited_for_with_a_bound() -> None:
    status, lines = refused_start(
        *("--model-uri", "s3://models/m", "--model-digest", DIGEST),
        *("--start-timeout-seconds", "0.5", "--s3-max-attempts", "1"),
        WHIMBREL_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}",
    )

    messages = [json.loads(line)["message"] for line in lines]
    assert status == 1
    assert any(message.startswith("not loaded yet: ") for message in messages)
    assert messages[-1].startswith("cannot start: ")


def test_a_registry_uri_without_a_registry_names_the_setting() -> None:
    status, lines = refused_start("--model-uri", "models:/digits@champion")

    assert status == 2
    assert "WHIMBREL_MLFLOW_TRACKING_URI" in json.loads(lines[-1])["message"]


def test_a_taken_port_names_the_setting(tmp_path: Path) -> None:
    with running_predictor(tmp_path / "log") as first:
        http_port, grpc_port = first.url.rpartition(":")[2], first.grpc_target.rpartition(":")[2]
        http = refused_start("--model-uri", "null:2", "--http-port", http_port)
        over_grpc = refused_start("--model-uri", "null:2", "--grpc-port", grpc_port)

    assert http[0] == over_grpc[0] == 2
    assert "WHIMBREL_HTTP_PORT" in http[1][-1]
    assert "WHIMBREL_GRPC_PORT" in over_grpc[1][-1]


def test_it_is_live_but_not_ready_while_it_loads_and_stops_at_once(tmp_path: Path) -> None:
    silent = f"http://127.0.0.1:{free_port()}"
    options = ("--model-uri", "s3://models/m", "--model-digest", DIGEST, "--s3-max-attempts", "1")
    ports = ("--http-port", "0", "--grpc-port", "0")
    extra = {**CREDENTIALS, "WHIMBREL_S3_ENDPOINT": silent}
    with running(
        "whimbrel.predictors", "--model-name", "digits", *options, *ports, log=tmp_path / "log", **extra
    ) as it:
        it.wait_until(lambda: listening_ports(it), "the ports")
        found = listening_ports(it)
        assert found is not None
        url = f"http://127.0.0.1:{found[0]}"
        statuses = {
            path: httpx.get(url + path).status_code
            for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/v1/models/digits")
        }
        early = httpx.post(f"{url}/v2/models/digits/infer", json=v2_document(null_images(1)))
        with grpc.insecure_channel(f"127.0.0.1:{found[1]}") as channel, pytest.raises(grpc.RpcError) as over_grpc:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\x0a\x06digits", timeout=10)

        assert it.stop() == 0

    assert statuses == {
        "/v2/health/live": 200,
        "/v2/health/ready": 503,
        "/v2/models/digits/ready": 503,
        "/v1/models/digits": 503,
    }
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert over_grpc.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.torch
def test_a_download_in_progress_ends_with_the_signal(tmp_path: Path) -> None:
    digest = digest_of_json(ENDLESS)
    options = ("--model-uri", "s3://models/endless", "--model-digest", digest, "--model-cache", str(tmp_path / "cache"))
    with dripping_store(json.dumps(ENDLESS).encode()) as store:
        extra = {**CREDENTIALS, "WHIMBREL_S3_ENDPOINT": store.url}
        with running(
            "whimbrel.predictors", "--model-name", "m", *options, log=tmp_path / "log", **PORTS, **extra
        ) as it:
            it.wait_until(store.dripping.is_set, "the download", 120)

            assert it.stop(60) == 0  # a thread that imports torch meanwhile comes to its end first
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert left == []


def test_a_full_queue_is_a_503_with_retry_after(tmp_path: Path) -> None:
    small = ("--max-batch-size", "1", "--max-images-per-request", "1", "--max-queued-images", "1")
    with (
        running_predictor(tmp_path / "log", *small, "--null-delay-seconds", "0.2") as predictor,
        ThreadPoolExecutor(8) as clients,
    ):
        answers = list(clients.map(lambda _: predictor.infer(v2_document(null_images(1))), range(8)))

    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.json()["reason"] for answer in refused} == {"Unavailable"}


def test_a_request_whose_client_left_is_not_computed(tmp_path: Path) -> None:
    options = ("--max-batch-size", "1", "--null-delay-seconds", "0.3")
    with running_predictor(tmp_path / "log", *options) as predictor, ThreadPoolExecutor(4) as clients:
        staying = [clients.submit(predictor.infer, v2_document(null_images(1))) for _ in range(2)]
        leaving = [clients.submit(leave, predictor) for _ in range(2)]

        assert [answer.result().status_code for answer in staying] == [200, 200]
        for left in leaving:
            left.result()
        predictor.infer(v2_document(null_images(1)))
        counted = batches(predictor)

    # the three that were answered, and at most one that had begun when its client left
    assert 3 <= counted <= 4


def leave(predictor: Predictor) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{predictor.url}/v2/models/digits/infer",
            json=v2_document(null_images(1)),
            timeout=httpx.Timeout(5, read=0.2),
        )


def batches(predictor: Predictor) -> float:
    for line in httpx.get(f"{predictor.url}/metrics").text.splitlines():
        if line.startswith('whimbrel_predictor_batch_size_count{model="digits",'):
            return float(line.split()[-1])
    raise AssertionError("no batches counted")


class Client(threading.Thread):
    """Sends on one kept connection until the server closes it, or asks it to be closed."""

    def __init__(self, predictor: Predictor, stop: threading.Event) -> None:
        super().__init__()
        self._url, self._stop_event = f"{predictor.url}/v2/models/digits/infer", stop
        self.statuses: list[int] = []
        self.failure: Exception | None = None
        self.told_to_leave = False

    def run(self) -> None:
        try:
            with httpx.Client(timeout=30) as connection:
                while not self._stop_event.is_set() and not self.told_to_leave:
                    answer = connection.post(self._url, json=v2_document(null_images(1)))
                    self.statuses.append(answer.status_code)
                    self.told_to_leave = answer.headers.get("connection") == "close"
        except httpx.HTTPError as error:
            self.failure = error


def test_the_drain_answers_everything_under_load(tmp_path: Path) -> None:
    options = ("--drain-seconds", "1.5", "--null-delay-seconds", "0.02", "--max-batch-size", "4")
    with running_predictor(tmp_path / "log", *options) as predictor:
        stop = threading.Event()
        clients = [Client(predictor, stop) for _ in range(16)]
        for client in clients:
            client.start()
        wait_for(lambda: all(len(client.statuses) >= 3 for client in clients), "requests in flight")
        ready = f"{predictor.url}/v2/health/ready"

        predictor.process.process.terminate()
        wait_for(lambda: httpx.get(ready).status_code == 503, "readiness to go")
        for client in clients:
            client.join(30)
        stop.set()
        exit_status = predictor.process.process.wait(60)

    assert [client.failure for client in clients] == [None] * 16
    assert {status for client in clients for status in client.statuses} == {200}
    assert all(client.told_to_leave for client in clients)
    assert exit_status == 0


class Gateway:
    """Gives each connection to the backend that is in turn, one that was told to be ready; bytes pass as they are."""

    def __init__(self, ready: list[int]) -> None:
        self.ready, self._turn, self.port = ready, itertools.count(), 0
        self._started, self._stopping = threading.Event(), asyncio.Event()

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()

    def __enter__(self) -> Gateway:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()))
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = list(self.ready)
        backend = await asyncio.open_connection("127.0.0.1", ready[next(self._turn) % len(ready)])
        await asyncio.gather(_copy(reader, backend[1]), _copy(backend[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.close()


def test_a_rolling_restart_of_two_predictors_fails_no_request(tmp_path: Path) -> None:
    """As Knative rolls: the new one is ready before the old one leaves the gateway and gets its SIGTERM."""
    options = ("--drain-seconds", "0.5", "--null-delay-seconds", "0.01")
    with ExitStack() as stack:
        backends = [stack.enter_context(running_predictor(tmp_path / f"{number}", *options)) for number in range(2)]
        gateway = stack.enter_context(Gateway([port_of(backend) for backend in backends]))
        stop, exits = threading.Event(), []
        clients = [RollingClient(gateway.port, stop) for _ in range(4)]
        for client in clients:
            client.start()
        for number in range(2):
            replacement = stack.enter_context(running_predictor(tmp_path / f"new-{number}", *options))
            gateway.ready = [
                port_of(replacement),
                *(port for port in gateway.ready if port != port_of(backends[number])),
            ]
            exits.append(backends[number].process.stop())
        answered = sum(len(client.statuses) for client in clients)
        wait_for(lambda: sum(len(client.statuses) for client in clients) > answered + 100, "answers of the new ones")
        stop.set()
        for client in clients:
            client.join(30)

    assert exits == [0, 0]
    assert [client.failure for client in clients] == [None] * 4
    assert {status for client in clients for status in client.statuses} == {200}


def port_of(predictor: Predictor) -> int:
    return int(predictor.url.rpartition(":")[2])


class RollingClient(threading.Thread):
    """Sends without pause; a connection that it is told to close is opened anew."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__()
        self._url, self._stop_event = f"http://127.0.0.1:{port}/v2/models/digits/infer", stop
        self.statuses: list[int] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=30) as connection:
                while not self._stop_event.is_set():
                    self.statuses.append(connection.post(self._url, json=v2_document(null_images(1))).status_code)
        except httpx.HTTPError as error:
            self.failure = error


def test_the_stages_of_the_start_are_logged(tmp_path: Path) -> None:
    with running_predictor(tmp_path / "log", "--timing") as predictor:
        line = next(line for line in predictor.process.output().splitlines() if "timing: before" in line)

    assert all(stage in line for stage in ("look", "import, fetch and verify", "build", "warm up", "ready after"))


def test_what_was_accepted_is_answered_after_the_drain(tmp_path: Path) -> None:
    options = ("--drain-seconds", "0", "--null-delay-seconds", "0.4", "--max-batch-size", "1")
    with running_predictor(tmp_path / "log", *options) as predictor, ThreadPoolExecutor(1) as client:
        before = batches(predictor)
        answer = client.submit(predictor.infer, v2_document(null_images(7)))
        wait_for(lambda: batches(predictor) > before, "the request to be computed")

        assert predictor.process.stop() == 0
        assert answer.result().status_code == 200


def test_a_grpc_call_in_flight_is_answered_after_the_drain(tmp_path: Path) -> None:
    from kserve import InferInput, InferRequest

    images = null_images(3)
    tensor = InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    message = InferRequest("digits", [tensor]).to_grpc().SerializeToString()
    options = ("--drain-seconds", "0", "--null-delay-seconds", "0.4", "--max-batch-size", "1")
    with running_predictor(tmp_path / "log", *options) as predictor:
        before = batches(predictor)
        with grpc.insecure_channel(predictor.grpc_target) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message, timeout=20)
            wait_for(lambda: batches(predictor) > before, "the call to be computed")
            exit_status = predictor.process.stop()

            assert b"class-3" in call.result()
    assert exit_status == 0
