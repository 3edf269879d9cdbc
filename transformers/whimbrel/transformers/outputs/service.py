"""Puts the sink's parts together, once its bucket is there and would not announce what is written to it."""

from __future__ import annotations

import asyncio
import logging
import time

from whimbrel.core.asgi import serve
from whimbrel.core.conditional_puts import ConditionalPuts
from whimbrel.core.errors import TryAgain, Unavailable
from whimbrel.core.s3 import s3_client
from whimbrel.core.self_trigger import check_not_announced
from whimbrel.transformers.image_settings import decoder_of, reader_of
from whimbrel.transformers.outputs.app import OutputsSink
from whimbrel.transformers.outputs.places import OutputPlaces
from whimbrel.transformers.outputs.settings import OutputsSettings

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


def run(settings: OutputsSettings) -> None:
    """Serve until SIGTERM. Raises SettingsError, or Unavailable when the bucket does not come in time."""
    puts = _bucket(settings)
    for weakness in puts.weaknesses:
        logger.warning("the store of bucket %r: %s", puts.bucket, weakness)
    decoder = decoder_of(settings, max_wait_seconds=settings.wait_seconds)
    sink = OutputsSink(OutputPlaces(puts, settings), reader_of(settings), decoder)
    try:
        asyncio.run(serve(sink.application(), settings, grace_seconds=settings.grace_seconds))
    finally:
        sink.close()


def _bucket(settings: OutputsSettings) -> ConditionalPuts:
    client = s3_client(settings, connections=settings.fetch_threads)
    puts, deadline = ConditionalPuts(client, settings.outputs_bucket), time.monotonic() + settings.startup_wait_seconds
    while True:
        try:
            prefix = settings.template.prefix(puts.bucket)
            for kind in settings.outputs:
                suffix = f".{settings.extension(kind)}" if settings.outputs_key.endswith(".{extension}") else ""
                check_not_announced(client, puts.bucket, "outputs", prefix=prefix, suffix=suffix)
            return puts.probed()
        except TryAgain as error:
            if time.monotonic() > deadline:
                waited = settings.startup_wait_seconds
                raise Unavailable(f"waited {waited:g} s for bucket {puts.bucket!r}; {error}") from error
            logger.warning("waiting: %s", error)
            time.sleep(_AGAIN_SECONDS)
