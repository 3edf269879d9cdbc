"""The Prometheus metrics that the rooms share: each name is defined here, once."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

SOURCE_EVENTS = Counter(
    "whimbrel_source_events",
    "Object events by what became of them (accepted, refused, exhausted, returned, unreadable)",
    ["source", "outcome"],
)
SOURCE_IN_FLIGHT = Gauge("whimbrel_source_in_flight", "Events delivered and not yet answered", ["source"])
SOURCE_WINDOW = Gauge(
    "whimbrel_source_window", "Events that may be in flight at once, as the sink bears it", ["source"]
)
DELIVERY_SECONDS = Histogram(
    "whimbrel_delivery_seconds",
    "From the first attempt to the sink's answer",
    ["source"],
    buckets=_STAGE_BUCKETS,
)
DELIVERY_ATTEMPTS = Counter(
    "whimbrel_delivery_attempts", "Attempts by HTTP status (0: no answer)", ["source", "status"]
)

PUSH_REQUESTS = Counter(
    "whimbrel_push_requests",
    "Requests to a source that is posted to, by how they ended (delivered, joined, remembered, empty, late, refused)",
    ["source", "outcome"],
)
PUSH_WAITING = Gauge("whimbrel_push_waiting", "Requests that wait for the sink's answer now", ["source"])

TRANSFORMER_STAGE_SECONDS = Histogram(
    "whimbrel_transformer_stage_seconds",
    "Time of one image by stage (fetch, decode, predict, all)",
    ["stage"],
    buckets=_STAGE_BUCKETS,
)
TRANSFORMER_IMAGES = Counter("whimbrel_transformer_images", "Images by outcome (the reason where refused)", ["outcome"])

PREDICTOR_BATCH_SIZE = Histogram(
    "whimbrel_predictor_batch_size", "Images a batch", ["model", "version"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
PREDICTOR_QUEUE_SECONDS = Histogram(
    "whimbrel_predictor_queue_seconds",
    "From acceptance to the start of the batch",
    ["model", "version"],
    buckets=_STAGE_BUCKETS,
)
PREDICTOR_DEVICE_SECONDS = Histogram(
    "whimbrel_predictor_device_seconds", "One batch on the device", ["model", "version"], buckets=_STAGE_BUCKETS
)
PREDICTOR_REQUESTS = Counter(
    "whimbrel_predictor_requests", "Requests by HTTP status (499: the client left)", ["model", "version", "status"]
)
PREDICTOR_LIVE_SECONDS = Histogram(
    "whimbrel_predictor_live_seconds",
    "From the arrival of a request to its answer, of those that came by the version's share and not by its name",
    ["model", "version"],
    buckets=_STAGE_BUCKETS,
)
PREDICTOR_LIVE_FAILURES = Counter(
    "whimbrel_predictor_live_failures",
    "Requests by the version's share that failed by the server's fault",
    ["model", "version"],
)
PREDICTOR_IMAGES = Counter("whimbrel_predictor_images", "Images by outcome", ["model", "version", "outcome"])
PREDICTOR_ROLE = Gauge(
    "whimbrel_predictor_role",
    "1 for each resident version (current, candidate, previous)",
    ["model", "version", "role"],
)
PREDICTOR_SHARE = Gauge(
    "whimbrel_predictor_share_ratio", "Part of the requests that the version answers", ["model", "version"]
)
PREDICTOR_RESIDENT_BYTES = Gauge(
    "whimbrel_predictor_resident_bytes",
    "Memory that the version's weights and largest batch need",
    ["model", "version"],
)
PREDICTOR_COMPUTING = Gauge(
    "whimbrel_predictor_computing",
    "1 for how each resident version computes: its dtype, and code (eager, compiled)",
    ["model", "version", "dtype", "code"],
)
PREDICTOR_FREE_BYTES = Gauge("whimbrel_predictor_free_bytes", "Memory that one more version of any model may take")
PREDICTOR_DEVICE_FAILING = Gauge(
    "whimbrel_predictor_device_failing", "1 while the device does not compute: neither ready nor live", ["model"]
)
PREDICTOR_QUEUED_IMAGES = Gauge("whimbrel_predictor_queued_images", "Images that wait now", ["model", "version"])
PREDICTOR_LOADS = Counter(
    "whimbrel_predictor_loads", "Loads of versions by outcome (loaded, failed)", ["model", "outcome"]
)
PREDICTOR_SWAP_SECONDS = Histogram(
    "whimbrel_predictor_swap_seconds",
    "From the wish for a version to its share of the requests",
    ["model"],
    buckets=(0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
PREDICTOR_POINTER_SYNCED = Gauge(
    "whimbrel_predictor_pointer_synced", "1 where the replica holds what its model pointer says", ["model"]
)

SINK_RECORDS = Counter("whimbrel_sink_records", "Records by sink and outcome (new, duplicate)", ["sink", "outcome"])


def exposition() -> tuple[bytes, str]:
    """The body and the content type of an answer to `GET /metrics`."""
    return generate_latest(), CONTENT_TYPE_LATEST
