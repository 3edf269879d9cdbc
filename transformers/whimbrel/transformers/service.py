"""Puts the transformer's parts together from its settings and serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.routing import Route

from whimbrel.core import model_server
from whimbrel.core.budget import Budget
from whimbrel.core.result_store import ResultStore
from whimbrel.core.s3 import s3_client
from whimbrel.transformers.classifier import Classifier
from whimbrel.transformers.connect import predictor_of
from whimbrel.transformers.events import CloudEventRoute, ObjectEvents
from whimbrel.transformers.image_settings import decoder_of, reader_of
from whimbrel.transformers.known import KnownAnswers
from whimbrel.transformers.model import TransformerModel
from whimbrel.transformers.replies import CODECS
from whimbrel.transformers.settings import TransformerSettings
from whimbrel.transformers.sources import Images
from whimbrel.transformers.urls import UrlFetcher


def run(settings: TransformerSettings) -> None:
    """Serve until SIGTERM."""
    held_bytes = Budget(settings.byte_budget, "bytes of images", max_wait_seconds=settings.wait_seconds)
    decoder = decoder_of(settings, max_wait_seconds=settings.wait_seconds)
    reader, predictor = reader_of(settings), predictor_of(settings)
    classifier = Classifier(decoder, predictor)
    urls = _urls(settings)
    images = Images(reader, urls.fetch, settings.reference_buckets, held_bytes, settings.image_max_bytes)
    known = _known(settings)
    events = ObjectEvents(settings.model_name, reader, classifier, held_bytes, settings.image_max_bytes, known)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await predictor.close()
            decoder.close()
            reader.close()
            known.close()
            await urls.close()

    model_server.run(
        [TransformerModel(settings.model_name, images, classifier, CODECS[settings.reply_format])],
        settings,
        routes=[
            Route("/events", events.endpoint, methods=["POST"]),
            CloudEventRoute("/v1/models/{model_name}:predict", events.model_endpoint, methods=["POST"]),
        ],
        lifespan=lifespan,
    )


def _known(settings: TransformerSettings) -> KnownAnswers:
    if settings.results_bucket is None:
        return KnownAnswers(None)
    client = s3_client(settings, connections=settings.fetch_threads)
    return KnownAnswers(ResultStore(client, settings.results_bucket, settings.results_prefix))


def _urls(settings: TransformerSettings) -> UrlFetcher:
    return UrlFetcher(
        settings.url_rule,
        max_bytes=settings.image_max_bytes,
        max_seconds=settings.url_seconds,
        max_redirects=settings.url_max_redirects,
        connections=settings.url_connections,
        ca_bundle=settings.url_ca_bundle,
    )
