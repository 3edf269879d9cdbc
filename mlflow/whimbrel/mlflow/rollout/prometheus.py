"""Live traffic as Prometheus has it: one query for the predictors' own counts of answers, failures and durations.

https://prometheus.io/docs/prometheus/latest/querying/api/: an instant vector. Durations are as fine as the histogram's
buckets: each answer counts as slow as its bucket's upper end.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from whimbrel.core.errors import Unavailable
from whimbrel.core.metrics import PREDICTOR_LIVE_FAILURES, PREDICTOR_LIVE_SECONDS
from whimbrel.mlflow.rollout.live import Growth, Live, Requests

TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 8 * 1024 * 1024
_BUCKETS: Final = f"{PREDICTOR_LIVE_SECONDS._name}_bucket"
_FAILURES: Final = f"{PREDICTOR_LIVE_FAILURES._name}_total"
_OF_THE_SERIES: Final = frozenset({"__name__", "version", "le"})
_ALL: Final = "+Inf"


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of the answer. `replica` is what tells it from those of other processes."""

    metric: str
    replica: str
    version: str
    le: str
    value: float


@dataclass
class PrometheusSource:
    """Of the predictors of `model`, below `url`. `versions`: champion and candidate by the names that the predictors
    have for them. `selector`: more matchers, as `namespace="birds"`, where several clusters or namespaces share one."""

    client: httpx.AsyncClient
    url: str
    model: str
    versions: Mapping[str, str]
    selector: str = ""
    _growth: Growth = field(default_factory=Growth)

    async def look(self) -> Live:
        samples = parse_samples(await self._asked())
        return Live(_requests(samples, self.versions), self._fresh(samples))

    async def _asked(self) -> bytes:
        query = f'{{__name__=~"{_BUCKETS}|{_FAILURES}",model="{self.model}"{self.selector and f",{self.selector}"}}}'
        try:
            async with self.client.stream(
                "GET", f"{self.url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=TIMEOUT_SECONDS
            ) as answer:
                content = b""
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > MAX_BYTES:
                        raise Unavailable(
                            f"expected at most {MAX_BYTES} bytes from Prometheus at {self.url}, seen more"
                        )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"expected an answer of Prometheus at {self.url}, seen {str(error) or type(error).__name__}"
            ) from None
        if answer.status_code != httpx.codes.OK:
            seen = f"{answer.status_code}: {content[:200]!r}"
            raise Unavailable(f"expected an answer of Prometheus at {self.url}, seen {seen}")
        return content

    def _fresh(self, samples: list[Sample]) -> dict[str, Counter[float]]:
        """Cumulative buckets as how many answers each had more than the one below it, and more than before."""
        series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for each in samples:
            if each.metric == _BUCKETS and each.version in self.versions:
                series[each.replica, each.version].append((float(each.le), each.value))
        fresh: dict[str, Counter[float]] = {version: Counter() for version in self.versions.values()}
        for (replica, version), buckets in series.items():
            below = 0.0
            for le, value in sorted(buckets):
                grown = int(self._growth.of((replica, version, le), value - below))
                below = value
                if grown > 0:
                    fresh[self.versions[version]][le * 1000] += grown
        return fresh


def parse_samples(content: bytes) -> list[Sample]:
    """Raises Unavailable for another answer than an instant vector of these metrics."""
    try:
        document = json.loads(content)
        result = document["data"]["result"]
        if document["status"] != "success" or document["data"]["resultType"] != "vector":
            raise ValueError(f"status {document['status']!r}, resultType {document['data']['resultType']!r}")
        return [_sample(each) for each in result]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(
            f"expected an instant vector from Prometheus, seen {content[:200]!r} ({type(error).__name__}: {error})"
        ) from None


def _sample(entry: Any) -> Sample:
    labels, value = entry["metric"], float(entry["value"][1])
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"a count of {value}")
    replica = json.dumps({name: labels[name] for name in sorted(labels.keys() - _OF_THE_SERIES)})
    metric = labels["__name__"]
    le = labels["le"] if metric == _BUCKETS else ""
    if metric == _BUCKETS and not float(le) >= 0:
        raise ValueError(f"a bucket up to {le}")
    return Sample(metric, replica, str(labels["version"]), le, value)


def _requests(samples: list[Sample], versions: Mapping[str, str]) -> Requests:
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for each in samples:
        version = versions.get(each.version)
        if version is None:
            continue
        answered, failed = found[each.replica].get(version, (0, 0))
        if each.metric == _BUCKETS and each.le == _ALL:
            answered = int(each.value)
        elif each.metric == _FAILURES:
            failed = int(each.value)
        found[each.replica][version] = answered, failed
    return found
