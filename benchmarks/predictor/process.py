"""A predictor as a process of its own, and the request that makes it load a version."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from clients import answer_of, v2_binary
from peers.process import end, free_ports
from predictor.measured import IMAGE

from whimbrel.core.package import Package
from whimbrel.core.settings import environment_name

START_SECONDS = 180.0


@dataclass(frozen=True)
class Served:
    port: int
    seconds_to_first_answer: float


@contextmanager
def predictor(
    package: Package, settings: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """A predictor of the package in float32 that has answered once. `settings`: more, or others, of its settings, an
    empty one for none; `environment`: more that it needs."""
    (port,) = free_ports(1)
    options = {
        "model_name": "m",
        "model_uri": package.folder.as_uri(),
        "model_digest": package.digest,
        "model_version": "0",
        "dtype": "float32",
        "http_port": str(port),
        "grpc_port": "0",
        "repository_api": "true",
        "allowed_uri_prefixes": package.folder.as_uri(),
        "drain_seconds": "0",
        "log_level": "warning",
        **(settings or {}),
    }
    variables = {environment_name(name): value for name, value in options.items() if value}
    started, form = time.perf_counter(), v2_binary(IMAGE)
    process = subprocess.Popen(
        [sys.executable, "-m", "whimbrel.predictors"], env={**os.environ, **variables, **(environment or {})}
    )
    try:
        while answer_of(form, port) is None:
            assert process.poll() is None, "the predictor has ended"
            assert time.perf_counter() - started < START_SECONDS, "the predictor does not get ready"
            time.sleep(0.005)
        yield Served(port, time.perf_counter() - started)
    finally:
        end(process)


def load(port: int, package: Package, version: str) -> None:
    """Make this version of the package the current one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    parameters = {"version": version, "uri": package.folder.as_uri(), "digest": package.digest}
    connection.request("POST", "/v2/repository/models/m/load", json.dumps({"parameters": parameters}))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def computing_of(port: int) -> str:
    """How the current version computes: its dtype, and whether by compiled code."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v2/repository/index", "{}")
    rows = json.loads(connection.getresponse().read())
    connection.close()
    current = next(row for row in rows if row["role"] == "current")
    return f"{current['dtype']}, {current['code']}"
