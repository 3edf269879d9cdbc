"""Transformer processes before a predictor, started with KServe's spelling of the arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import Running, answers, running
from testbed.stores import Store

START_SECONDS = 120.0  # on a busy machine


@dataclass(frozen=True)
class Transformer:
    """A transformer that is ready; `url` without a path."""

    process: Running
    url: str


@contextmanager
def running_transformer(log: Path, store: Store, predictor_host: str, *arguments: str) -> Iterator[Transformer]:
    """A transformer of the model `digits`, on a port of its own choice, once it is ready."""
    options = ("--model_name", "digits", "--predictor_host", predictor_host, "--http_port", "0", "--workers", "1")
    more = ("--drain-seconds", "0.1", *arguments)
    with running("whimbrel.transformers", *options, *more, log=log, **store.settings_environment) as process:
        process.wait_until(lambda: _port(process), "the port", START_SECONDS)
        url = f"http://127.0.0.1:{_port(process)}"
        process.wait_until(lambda: answers(f"{url}/v2/health/ready"), "readiness", START_SECONDS)
        yield Transformer(process, url)


@contextmanager
def running_outputs(log: Path, store: Store, bucket: str, *arguments: str) -> Iterator[str]:
    """The URL of an outputs sink that writes to `bucket`, once it is ready."""
    options = ("outputs", "--outputs-bucket", bucket, "--http-port", "0", *arguments)
    with running("whimbrel.transformers", *options, log=log, **store.settings_environment) as process:
        process.wait_until(lambda: _port(process), "the port", START_SECONDS)
        url = f"http://127.0.0.1:{_port(process)}"
        process.wait_until(lambda: answers(f"{url}/healthz"), "the sink", START_SECONDS)
        yield url


def _port(process: Running) -> int | None:
    found = re.search(r'"http_port": (\d+)', process.output())
    return int(found[1]) if found else None
