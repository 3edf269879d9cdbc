"""The broker's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("whimbrel_broker_events", "Events that arrived, by broker and status answered", ["broker", "status"])
IN_FLIGHT = Gauge("whimbrel_broker_in_flight", "Events that are not yet answered")
ATTEMPTS = Counter(
    "whimbrel_broker_attempts",
    "Attempts to deliver, by trigger and what came of it (accepted, the HTTP status, 0: no usable answer)",
    ["trigger", "outcome"],
)
DEAD_LETTERS = Counter("whimbrel_broker_dead_letters", "Dead letters by trigger and outcome", ["trigger", "outcome"])
SECONDS = Histogram(
    "whimbrel_broker_seconds",
    "From an event's arrival to its answer",
    ["broker"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
