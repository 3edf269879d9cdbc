"""A real Prometheus of its own on loopback, which scrapes what a test runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.processes import Running, answers, environment
from whimbrel.local.state import free_port

_MISSING = "Prometheus is not installed: apt install --no-install-recommends prometheus"
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason=_MISSING)


@dataclass(frozen=True)
class Prometheus:
    url: str
    process: Running

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextmanager
def prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Scrapes `targets` (HOST:PORT) several times a second."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [{"job_name": "predictors", "static_configs": [{"targets": list(targets)}]}]
    configuration = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    started = Running(command, environment(), folder / "prometheus.log")
    try:
        url = f"http://127.0.0.1:{port}"
        started.wait_until(lambda: answers(f"{url}/-/ready"), "readiness", 60)
        yield Prometheus(url, started)
    finally:
        started.stop()
