"""The settings of every process of this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.core.key_template import key_template
from whimbrel.core.settings import BucketName, HttpUrl, S3Settings, Seconds, ServerSettings


def _extensions(value: Any) -> Any:
    """Knative's K_CE_OVERRIDES, `{"extensions": {"name": "value"}}`, as the extensions alone."""
    if not isinstance(value, str):
        return value
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('expected JSON such as {"extensions": {"name": "value"}}') from None
    extensions = document.get("extensions", {}) if isinstance(document, dict) else None
    if not isinstance(extensions, dict) or not all(isinstance(text, str) for text in extensions.values()):
        raise ValueError('expected {"extensions": {"name": "value"}} with texts as values')
    try:
        Event(id="-", source="-", type="-", extensions=extensions)
    except InputRefused as error:
        raise ValueError(str(error)) from None
    return extensions


class WaitSettings(ServerSettings):
    """How long a process waits for what it needs, and for its own work at the end; how it listens."""

    startup_wait_seconds: Seconds = Field(default=300, description="longest wait for the store or queue at the start")
    http_tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate chain; HTTPS then"
    )
    http_tls_key: Path | None = Field(default=None, description="PEM file with its key")
    grace_seconds: Seconds = Field(default=20, description="longest wait for the work in flight after SIGTERM")

    @model_validator(mode="after")
    def _key_has_its_certificate(self) -> WaitSettings:
        if self.http_tls_key and not self.http_tls_certificate:
            raise ValueError("expected WHIMBREL_HTTP_TLS_CERTIFICATE beside WHIMBREL_HTTP_TLS_KEY, seen the key alone")
        return self


class DeliverySettings(WaitSettings):
    """Where events go, and how hard it is tried."""

    sink: HttpUrl = Field(
        validation_alias=AliasChoices("WHIMBREL_SINK", "K_SINK"),  # K_SINK is what Knative sets
        description="URL that events are posted to; also K_SINK, as Knative sets it",
    )
    ce_overrides: Annotated[dict[str, str], NoDecode, BeforeValidator(_extensions)] = Field(
        default={},
        validation_alias=AliasChoices("WHIMBREL_CE_OVERRIDES", "K_CE_OVERRIDES"),
        description='extensions for every event, {"extensions": {"name": "value"}}; also K_CE_OVERRIDES',
    )
    dead_letter_sink: HttpUrl | None = Field(
        default=None,
        description="URL for what is unreadable, refused by the sink or exhausted; absent: what is unreadable goes to "
        "the sink, the rest stays in the queue",
    )
    max_in_flight: int = Field(
        default=32, ge=1, le=1000, description="most events posted at once; fewer while the sink is overloaded"
    )
    # Knative's broker answers when it has delivered, retries included, and drops the event when the poster hangs up.
    sink_timeout_seconds: Seconds = Field(default=120, description="longest wait for the sink's answer")
    delivery_attempts: int = Field(
        default=8, ge=1, le=100, description="attempts of one round, then the event goes back"
    )
    max_rounds: int = Field(
        default=16,
        ge=1,
        le=10_000,
        description="rounds after which a dead_letter_sink, where one is set, gets the event",
    )
    backoff_seconds: Seconds = Field(default=0.2, description="pause after the first attempt, doubled after each")
    backoff_max_seconds: Seconds = Field(default=30, description="longest pause between attempts, Retry-After included")


class SinkSettings(WaitSettings, S3Settings):
    """What both sinks have."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024, le=64 << 20, description="largest request body")
    concurrent_writes: int = Field(default=16, ge=1, le=256, description="writes to the store at once")
    queued_writes: int = Field(default=512, ge=1, le=100_000, description="requests waiting to write before a 503")


class ResultsSinkSettings(SinkSettings):
    """Writes prediction events to a bucket, each result once, the latest never by an older event."""

    results_bucket: BucketName = Field(description="bucket that results are written to")
    results_prefix: str = Field(default="{bucket}", description="prefix of the keys; {bucket} is the object's bucket")
    results_latest: bool = Field(
        default=True,
        description="write the latest result of each key too; false: only what tells a duplicate, for who takes the "
        "prediction events themselves",
    )

    @field_validator("results_prefix")
    @classmethod
    def _only_the_bucket_in_it(cls, value: str) -> str:
        return key_template(value.strip("/"), ["bucket"]).text if value.strip("/") else ""


class DeadLetterSinkSettings(SinkSettings):
    """Keeps every event that was refused or whose attempts are exhausted, with its error, ready for a replay."""

    dead_letters_bucket: BucketName = Field(description="bucket that dead letters are written to")
    dead_letters_prefix: str = Field(default="", description="prefix of the keys")
