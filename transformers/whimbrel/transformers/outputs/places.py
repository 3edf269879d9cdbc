"""Where the outputs of one result lie, and whether they have to be written: never over what is newer or another's."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.conditional_puts import ConditionalPuts, Content
from whimbrel.core.errors import InputRefused
from whimbrel.core.results import Result, ResultEvent
from whimbrel.core.s3 import as_whimbrel_error, is_missing
from whimbrel.transformers.outputs.settings import EXTENSION, OutputsSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_EVENT, _DIGEST = "whimbrel-event", "whimbrel-model-digest"  # the metadata of an output


@dataclass(frozen=True, slots=True)
class OutputPlaces:
    """The outputs of one bucket. Blocking; thread-safe. Methods raise NotFound or Unavailable when the store fails."""

    puts: ConditionalPuts
    settings: OutputsSettings

    def key(self, kind: str, result: Result) -> str:
        """Raises InputRefused where the output would be the result's own object, or lie among its inputs."""
        ref = result.object.ref
        values = {
            "bucket": ref.bucket,
            "key": ref.key,
            "version": ref.version,
            "digest": result.model.digest.removeprefix("sha256:"),
            "model": result.model.name,
            "model_version": result.model.version,
            EXTENSION: self.settings.extension(kind),
        }
        key = self.settings.template.key(values)
        prefix = self.settings.template.prefix(self.puts.bucket)
        if ref.bucket == self.puts.bucket and (key == ref.key or (prefix and ref.key.startswith(prefix))):
            raise InputRefused(
                f"expected the result of an object that is no output, seen {ref.uri}; outputs go to {prefix}* of this"
                " bucket (WHIMBREL_OUTPUTS_BUCKET, WHIMBREL_OUTPUTS_KEY): name another place"
            )
        return key

    def are_written(self, result: Result) -> bool:
        """Whether all outputs of this result lie there, or newer ones: then nothing has to be drawn."""
        return not any(self._is_wanted(self.key(kind, result), result) for kind in self.settings.outputs)

    def put(self, kind: str, body: bytes, content_type: str, result: Result) -> bool:
        """False where what lies there stays. Raises InputRefused where it is nothing of ours."""
        key = self.key(kind, result)
        content = Content(body, content_type, _stamp(result))
        try:
            return self.puts.put_newest(key, content, lambda stored: self._gives_way(key, stored.metadata, result))
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"writing {key!r} to bucket {self.puts.bucket!r}") from error

    def _is_wanted(self, key: str, result: Result) -> bool:
        try:
            metadata = self.puts.client.head_object(Bucket=self.puts.bucket, Key=key).get("Metadata", {})
        except ClientError as error:
            if is_missing(error):
                return True
            raise as_whimbrel_error(error, f"looking at {key!r} in bucket {self.puts.bucket!r}") from error
        except BotoCoreError as error:
            raise as_whimbrel_error(error, f"looking at {key!r} in bucket {self.puts.bucket!r}") from error
        return self._gives_way(key, metadata, result)

    def _gives_way(self, key: str, metadata: Mapping[str, str], result: Result) -> bool:
        try:
            written = ResultEvent.model_validate_json(metadata[_EVENT])
        except (KeyError, ValueError):
            raise InputRefused(
                f"expected an output of ours or nothing at {key!r} in bucket {self.puts.bucket!r}, seen another object,"
                " which stays; name another place with WHIMBREL_OUTPUTS_BUCKET or WHIMBREL_OUTPUTS_KEY"
            ) from None
        ours = _hashed(result.event)
        if ours.is_older_than(written):
            return False
        return ours.id != written.id or metadata.get(_DIGEST) != result.model.digest


def _stamp(result: Result) -> dict[str, str]:
    return {_EVENT: _hashed(result.event).model_dump_json(exclude_none=True), _DIGEST: result.model.digest}


def _hashed(event: ResultEvent) -> ResultEvent:
    """Ids and sources may hold any character at any length, metadata 2 KB of ASCII."""
    short = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("id", event.id), ("s", event.source))}
    return event.model_copy(update={"id": short["id"], "source": short["s"]})
