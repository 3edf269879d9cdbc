"""Where the objects of the embedded store are announced, and where their outcomes go, as the manifests say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from whimbrel.local.embedded import StoreContents

_CREATED = "s3:ObjectCreated:"


@dataclass(frozen=True, slots=True)
class Settling:
    """An object of a bucket among `announced` (bucket, queue) is settled by a result or a dead letter."""

    announced: tuple[tuple[str, str], ...]
    results_bucket: str
    results_prefix: str = "{bucket}"
    dead_letters_bucket: str | None = None
    dead_letters_prefix: str = ""


def settling(contents: StoreContents, environments: Iterable[Mapping[str, str]]) -> Settling | None:
    """None where nothing is announced, or where not exactly one bucket of results is told by the sinks' settings."""
    each = list(environments)
    results = {
        (found["WHIMBREL_RESULTS_BUCKET"], found.get("WHIMBREL_RESULTS_PREFIX") or "{bucket}")
        for found in each
        if found.get("WHIMBREL_RESULTS_BUCKET")
    }
    letters = {
        (found["WHIMBREL_DEAD_LETTERS_BUCKET"], found.get("WHIMBREL_DEAD_LETTERS_PREFIX", ""))
        for found in each
        if found.get("WHIMBREL_DEAD_LETTERS_BUCKET")
    }
    announced = tuple(
        dict.fromkeys(
            (entry.bucket, entry.queue)
            for entry in contents.notifications
            if any(event.startswith(_CREATED) for event in entry.events)
        )
    )
    if not announced or len(results) != 1 or len(letters) > 1:
        return None
    return Settling(announced, *next(iter(results)), *next(iter(letters), (None, "")))
