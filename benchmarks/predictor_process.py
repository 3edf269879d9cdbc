"""A predictor as a process of its own, and clients that cost little beside it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from whimbrel.core.package import Package
from whimbrel.core.settings import environment_name

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
START_SECONDS = 180.0
_TENSOR = {"name": "images", "datatype": "UINT8", "shape": list(IMAGE.shape)}
_HEAD = json.dumps({"inputs": [_TENSOR | {"parameters": {"binary_data_size": IMAGE.nbytes}}]}).encode()
_HEADERS, _BODY = {"inference-header-content-length": str(len(_HEAD))}, _HEAD + IMAGE.tobytes()


@dataclass(frozen=True)
class Answered:
    """`at`: when it was sent; `status` 0: no answer."""

    at: float
    seconds: float
    status: int


@dataclass(frozen=True)
class Served:
    port: int
    seconds_to_first_answer: float


@contextmanager
def predictor(package: Package) -> Iterator[Served]:
    """A predictor of the package that has answered once."""
    port = _free_port()
    options = {
        "model_name": "m",
        "model_uri": package.folder.as_uri(),
        "model_digest": package.digest,
        "model_version": "0",
        "http_port": str(port),
        "grpc_port": "0",
        "repository_api": "true",
        "allowed_uri_prefixes": package.folder.as_uri(),
        "drain_seconds": "0",
        "log_level": "warning",
    }
    environment = os.environ | {environment_name(name): value for name, value in options.items()}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "whimbrel.predictors"], env=environment)
    try:
        while not _answers(port):
            assert process.poll() is None, "the predictor has ended"
            assert time.perf_counter() - started < START_SECONDS, "the predictor does not get ready"
            time.sleep(0.005)
        yield Served(port, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(60)


def asked(port: int, clients: int, seconds: float, beside: Callable[[], None] | None = None) -> list[Answered]:
    """What `clients` saw that send one image after another for so many seconds, then while `beside` runs."""
    answers: list[Answered] = []
    stop = threading.Event()
    threads = [threading.Thread(target=_client, args=(port, stop, answers)) for _ in range(clients)]
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


def load(port: int, package: Package, version: str) -> None:
    """Make this version of the package the current one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    parameters = {"version": version, "uri": package.folder.as_uri(), "digest": package.digest}
    connection.request("POST", "/v2/repository/models/m/load", json.dumps({"parameters": parameters}))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def _client(port: int, stop: threading.Event, answers: list[Answered]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not stop.is_set():
        sent = time.perf_counter()
        try:
            status = _ask(connection)
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        answers.append(Answered(sent, time.perf_counter() - sent, status))
    connection.close()


def _ask(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/v2/models/m/infer", body=_BODY, headers=_HEADERS)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return _ask(connection) == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
