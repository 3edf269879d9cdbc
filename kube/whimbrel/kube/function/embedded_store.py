"""What the one-machine engine has to make in its own store before a function has anything to do; pure.

On a cluster the store is elsewhere, and its buckets, queues and notifications are its owner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from whimbrel.kube.function.model import Function, Sqs
from whimbrel.kube.function.parts import MANAGED_BY, Object, labels

_LABEL = "whimbrel.dev/embedded-store"


def embedded_store(function: Function) -> Object:
    """The ConfigMap by which the engine makes buckets, and for a queue of its own the queue and the notifications."""
    source, output = function.input.source, function.output
    data = {"buckets": " ".join((function.input.bucket, output.bucket, output.dead_letters))}
    if isinstance(source, Sqs) and source.endpoint is None and "/" not in source.queue:
        entry = {"bucket": function.input.bucket, "queue": source.queue, "events": ["s3:ObjectCreated:*"]}
        data |= {"queues": source.queue, "notifications": yaml.safe_dump([entry])}
    metadata = {"name": f"{function.name}-embedded-store", "labels": labels(function, {_LABEL: "true"})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def is_embedded_store(found: Mapping[str, Any]) -> bool:
    """Whether it is one of these: none of a user's own."""
    own = found["metadata"].get("labels") or {}
    return own.get(_LABEL) == "true" and MANAGED_BY.items() <= own.items()
