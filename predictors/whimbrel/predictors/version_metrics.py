"""The resident versions as metrics: role, share, memory, requests; what has left is no longer exposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import Counter, Gauge, Histogram

from whimbrel.core.metrics import (
    PREDICTOR_COMPUTING,
    PREDICTOR_IMAGES,
    PREDICTOR_LIVE_FAILURES,
    PREDICTOR_LIVE_SECONDS,
    PREDICTOR_REQUESTS,
    PREDICTOR_RESIDENT_BYTES,
    PREDICTOR_ROLE,
    PREDICTOR_SHARE,
)
from whimbrel.predictors.network import Computing

SERVERS_FAULT = HTTPStatus.INTERNAL_SERVER_ERROR


@dataclass(frozen=True, slots=True)
class Shown:
    """What is exposed of one resident version."""

    version: str
    needed_bytes: int
    computing: Computing


class VersionMetrics:
    """Remembers what it exposed of one model, so that it can withdraw it."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._exposed: set[tuple[Gauge, tuple[str, ...]]] = set()
        self._counted: set[tuple[Counter | Histogram, tuple[str, ...]]] = set()  # with all but the model
        self.requests: dict[str, tuple[int, int]] = {}  # live, by version: answered, and failed by our fault

    def show(self, roles: Mapping[str, Shown], candidate_share: float) -> None:
        """`candidate_share`: 0 to 1."""
        share = candidate_share if "candidate" in roles else 0.0
        shares = {"current": 1.0 - share, "candidate": share}
        shown: dict[tuple[Gauge, tuple[str, ...]], float] = {}
        for role, resident in roles.items():
            names = (self._model_name, resident.version)
            shown[PREDICTOR_ROLE, (*names, role)] = 1.0
            shown[PREDICTOR_SHARE, names] = shares.get(role, 0.0)
            shown[PREDICTOR_RESIDENT_BYTES, names] = float(resident.needed_bytes)
            shown[PREDICTOR_COMPUTING, (*names, resident.computing.dtype, resident.computing.code)] = 1.0
        for gauge, labels in self._exposed - shown.keys():
            gauge.remove(*labels)
        for (gauge, labels), value in shown.items():
            gauge.labels(*labels).set(value)
        self._exposed = set(shown)

    def count(
        self, version: str, *, status: int, outcome: str, images: int, live: bool = True, seconds: float = 0.0
    ) -> None:
        """One request that this version was given; `live`: by its share, not by its name. `seconds`: of an answer."""
        for counter, label, amount in (
            (PREDICTOR_REQUESTS, str(status), 1),
            (PREDICTOR_IMAGES, outcome, images),
        ):
            counter.labels(self._model_name, version, label).inc(amount)
            self._counted.add((counter, (version, label)))
        if live:
            self._count_live(version, status, seconds)

    def _count_live(self, version: str, status: int, seconds: float) -> None:
        for metric in (PREDICTOR_LIVE_SECONDS, PREDICTOR_LIVE_FAILURES):
            metric.labels(self._model_name, version)  # at zero before the first: what reads it sees the first too
            self._counted.add((metric, (version,)))
        answered, failed = self.requests.get(version, (0, 0))
        if status == HTTPStatus.OK:
            answered += 1
            PREDICTOR_LIVE_SECONDS.labels(self._model_name, version).observe(seconds)
        elif status >= SERVERS_FAULT:
            failed += 1
            PREDICTOR_LIVE_FAILURES.labels(self._model_name, version).inc()
        self.requests[version] = answered, failed

    def forget(self, version: str) -> None:
        """What was counted of a version that has left."""
        self.requests.pop(version, None)
        for metric, labels in [each for each in self._counted if each[1][0] == version]:
            metric.remove(self._model_name, *labels)
            self._counted.remove((metric, labels))
