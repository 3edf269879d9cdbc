"""Looks up what became of one object version: what the listing of the results was too early, or too late, to tell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from whimbrel.core.cloudevent import STRUCTURED, Event, parse
from whimbrel.core.errors import InputRefused
from whimbrel.core.records import object_event
from whimbrel.core.references import ObjectRef
from whimbrel.core.results import (
    GONE_NAME,
    GONE_TYPE,
    PREDICTION_TYPE,
    dead_letter_folder,
    parse_dead_letter,
    parse_gone,
    parse_result,
    version_folder,
)
from whimbrel.eventing.listing import entries, read
from whimbrel.eventing.reconcile.objects import Listed
from whimbrel.eventing.reconcile.survey import Outcome

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Places:
    """Where results and dead letters lie. `results_prefix` may hold `{bucket}`.

    With `model_digest` only the results of that model count.
    """

    results_bucket: str
    results_prefix: str = "{bucket}"
    dead_letters_bucket: str | None = None
    dead_letters_prefix: str = ""
    model_digest: str | None = None

    def prefix_of(self, bucket: str) -> str:
        return self.results_prefix.replace("{bucket}", bucket)

    def folder_of(self, ref: ObjectRef) -> str:
        return version_folder(self.prefix_of(ref.bucket), ref)

    def settles(self, outcome: Outcome | None, ref: ObjectRef) -> bool:
        """Whether it is settled by what its folder holds.

        Without versions an object can come again as it was: one that is listed is there, whatever a record says.
        """
        return outcome is not None and not (outcome is Outcome.GONE and ref.version_id is None)

    def settled_by(self, name: str) -> Outcome | None:
        """What a record of this name, in the folder of an object version, says about it."""
        if name == GONE_NAME:
            return Outcome.GONE
        if self.model_digest is None or name == f"{self.model_digest.removeprefix('sha256:')}.json":
            return Outcome.RESULT
        return None


def look(client: S3Client, places: Places, listed: Listed) -> Outcome:
    """RESULT, GONE, DEAD_LETTER or MISSING. Blocking. Raises NotFound or Unavailable when the store fails."""
    folder = places.folder_of(listed.ref)
    for entry in entries(client, places.results_bucket, f"{folder}/"):
        settled = places.settled_by(entry.key[len(folder) + 1 :])
        if settled is not None and places.settles(settled, listed.ref):
            return settled
    return Outcome.DEAD_LETTER if _is_dead_letter(client, places, listed) else Outcome.MISSING


def _is_dead_letter(client: S3Client, places: Places, listed: Listed) -> bool:
    if places.dead_letters_bucket is None:
        return False
    folder = dead_letter_folder(places.dead_letters_prefix, listed.ref.key)
    for entry in entries(client, places.dead_letters_bucket, folder):
        if "/" in entry.key[len(folder) :]:  # a longer key with this one as its head
            continue
        found = read(client, places.dead_letters_bucket, entry.key)
        if found is not None and _is_about(found[0], listed):
            return True
    return False


def _is_about(content: bytes, listed: Listed) -> bool:
    """Whether a dead letter is about this version of the object, and not about another one of its key."""
    try:
        letter = parse_dead_letter(content)
        (event,) = parse({"content-type": STRUCTURED}, json.dumps(letter.event).encode())
        ref, happened = _object_of(event)
    except InputRefused:
        return False
    if ref.version_id is None and ref.etag is None:  # RGW's pull mode tells the object's mtime alone
        return happened.replace(microsecond=0) == listed.modified.replace(microsecond=0)
    return (ref.bucket, ref.version) == (listed.ref.bucket, listed.ref.version)


def _object_of(event: Event) -> tuple[ObjectRef, datetime]:
    """Of an object event, or of a reply that its sink did not take; with the time of the object event."""
    if event.type in (PREDICTION_TYPE, GONE_TYPE):
        read_reply = parse_result if event.type == PREDICTION_TYPE else parse_gone
        reply = read_reply(event.data or b"")
        return reply.object.ref, reply.event.time
    happened = object_event(event)
    return happened.object, happened.time
