"""What is written down about an object: its result, that it was gone, or why it is a dead letter; pure.

`result_store` and the sinks do the writing.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.core.package import Digest
from whimbrel.core.references import ObjectRef, path_of_key

RESULT_SCHEMA: Final = "whimbrel.dev/result/v1"
GONE_SCHEMA: Final = "whimbrel.dev/gone/v1"
DEAD_LETTER_SCHEMA: Final = "whimbrel.dev/dead-letter/v1"

# The types of the transformer's reply events; their data is a `Result` or a `Gone`.
PREDICTION_TYPE = "dev.whimbrel.prediction.v1"
GONE_TYPE = "dev.whimbrel.gone.v1"

# Of a result's `timing_ms`, beside the stages: what the version that answered took itself, as the transformer saw it.
ANSWER = "answer"

BY_VERSION = "by-version"
GONE_NAME = "gone.json"

Record = TypeVar("Record", bound=BaseModel)

_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ResultObject(BaseModel):
    model_config = _FROZEN

    bucket: str
    key: str
    etag: str | None = None
    version_id: str | None = None
    size: int | None = None

    @classmethod
    def of(cls, ref: ObjectRef) -> ResultObject:
        return cls(bucket=ref.bucket, key=ref.key, etag=ref.etag, version_id=ref.version_id, size=ref.size)

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.bucket, self.key, self.etag, self.version_id, self.size)


class ResultEvent(BaseModel):
    """The object event that caused the result. `sequencer` as in `whimbrel.core.records.ObjectEvent`."""

    model_config = _FROZEN

    id: str
    source: str
    time: AwareDatetime
    sequencer: int | None = None

    def is_older_than(self, other: ResultEvent) -> bool:
        """By the sequencers where both have one from the same source, else by time."""
        if self.source == other.source and self.sequencer is not None and other.sequencer is not None:
            return self.sequencer < other.sequencer
        return self.time < other.time


class ResultModel(BaseModel):
    model_config = _FROZEN

    name: str
    version: str
    digest: Digest


class Prediction(BaseModel):
    """One label (design contract 4). `box` is x, y, width, height in pixels of the original image."""

    model_config = _FROZEN

    label: str
    index: int
    score: float
    box: tuple[float, float, float, float] | None = None
    keypoints: tuple[tuple[float, float, float], ...] | None = None


class Result(BaseModel):
    """`whimbrel.dev/result/v1` (design contract 5). `predictions` best first; `timing_ms` by stage, and `ANSWER`.

    `recorded` is when the result was written down; the sink sets it.
    """

    model_config = _FROZEN

    schema_: Literal["whimbrel.dev/result/v1"] = Field(default=RESULT_SCHEMA, alias="schema")
    object: ResultObject
    event: ResultEvent
    model: ResultModel
    predictions: tuple[Prediction, ...]
    timing_ms: dict[str, float] = Field(default_factory=dict)
    recorded: AwareDatetime | None = None


class Gone(BaseModel):
    """The object version of an event was no longer there when it was read: recorded, not a failure."""

    model_config = _FROZEN

    schema_: Literal["whimbrel.dev/gone/v1"] = Field(default=GONE_SCHEMA, alias="schema")
    object: ResultObject
    event: ResultEvent
    reason: str
    recorded: AwareDatetime | None = None


class DeadLetterError(BaseModel):
    """The last failure: Knative's `knativeerrorcode`, `knativeerrordest` and `knativeerrordata`, decoded.
    `model_digest`: of the package whose failure it was, where it was one's."""

    model_config = _FROZEN

    code: int | None = None
    destination: str | None = None
    reason: str | None = None
    message: str | None = None
    model_digest: Digest | None = None


class DeadLetter(BaseModel):
    """An event that was refused or whose attempts are exhausted. `event` is its structured JSON form.

    `attempts` is None where the broker does not tell. `replays` counts how often it was sent again by hand.
    """

    model_config = _FROZEN

    schema_: Literal["whimbrel.dev/dead-letter/v1"] = Field(default=DEAD_LETTER_SCHEMA, alias="schema")
    event: dict[str, Any]
    error: DeadLetterError
    attempts: int | None = None
    replays: int = 0
    received: AwareDatetime


def dump(record: Result | Gone | DeadLetter) -> bytes:
    return record.model_dump_json(by_alias=True, exclude_none=True).encode()


def parse_result(content: bytes) -> Result:
    """Raises InputRefused that names each wrong field."""
    return _parsed(Result, content)


def parse_gone(content: bytes) -> Gone:
    return _parsed(Gone, content)


def parse_dead_letter(content: bytes) -> DeadLetter:
    return _parsed(DeadLetter, content)


def result_key(prefix: str, ref: ObjectRef, model_digest: str) -> str:
    """Where the result of one object version under one model is written, once."""
    return f"{version_folder(prefix, ref)}/{model_digest.removeprefix('sha256:')}.json"


def version_folder(prefix: str, ref: ObjectRef) -> str:
    """What all that is written about one object version lies under, whatever the model; without a closing slash."""
    return f"{_folder(prefix)}{BY_VERSION}/{path_of_key(ref.key)}/{path_of_key(ref.version)}"


def gone_key(prefix: str, ref: ObjectRef) -> str:
    return f"{version_folder(prefix, ref)}/{GONE_NAME}"


def latest_key(prefix: str, key: str) -> str:
    """Where the latest result of a key lies, replaced by newer events only."""
    path = path_of_key(key)
    if path.split("/")[0] == BY_VERSION:
        path = "%62" + path[1:]
    return f"{_folder(prefix)}{path}.json"


def dead_letter_folder(prefix: str, subject: str) -> str:
    """What the dead letters of events with this subject lie under, with a closing slash."""
    return f"{_folder(prefix)}{path_of_key(subject)}/"


def dead_letter_key(prefix: str, event: Event) -> str:
    """One place for one event, however often it fails.

    Who did not take it is in the record only: brokers name the destination of an answer, but none of a timeout.
    """
    identity = "\x00".join((event.source, event.id))
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return f"{dead_letter_folder(prefix, event.subject or event.type)}{name}.json"


def replaces(new: Result, old: Result) -> bool:
    """Whether `new` becomes the latest result of its key in place of `old`: never by an older event."""
    if new.event.is_older_than(old.event):
        return False
    return new.event.id != old.event.id or new.model.digest != old.model.digest


def _folder(prefix: str) -> str:
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _parsed(schema: type[Record], content: bytes) -> Record:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        raise InputRefused(f"expected a {schema.__name__}; " + "; ".join(faults)) from None
