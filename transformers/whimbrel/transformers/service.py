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
from whimbrel.transformers.decode import Limits
from whimbrel.transformers.decoder import Decoder
from whimbrel.transformers.events import CloudEventRoute, ObjectEvents
from whimbrel.transformers.fetch import ObjectReader
from whimbrel.transformers.known import KnownAnswers
from whimbrel.transformers.model import TransformerModel
from whimbrel.transformers.replies import CODECS
from whimbrel.transformers.settings import TransformerSettings
from whimbrel.transformers.sources import Images
from whimbrel.transformers.urls import UrlFetcher


def run(settings: TransformerSettings) -> None:
    """Serve until SIGTERM."""
    held_bytes = Budget(settings.byte_budget, "bytes of images", max_wait_seconds=settings.wait_seconds)
    decoder, reader, predictor = _decoder(settings), _reader(settings), predictor_of(settings)
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
        TransformerModel(settings.model_name, images, classifier, CODECS[settings.reply_format]),
        settings,
        routes=[
            Route("/events", events.endpoint, methods=["POST"]),
            CloudEventRoute("/v1/models/{model_name}:predict", events.model_endpoint, methods=["POST"]),
        ],
        lifespan=lifespan,
    )


def _decoder(settings: TransformerSettings) -> Decoder:
    limits = Limits(settings.image_formats, settings.image_max_bytes, settings.image_max_pixels, settings.background)
    budget = Budget(settings.decode_budget, "bytes of memory for decoding", max_wait_seconds=settings.wait_seconds)
    return Decoder(limits, budget, threads=settings.decode_threads, max_seconds=settings.decode_seconds)


def _reader(settings: TransformerSettings) -> ObjectReader:
    return ObjectReader(
        s3_client(settings, connections=settings.fetch_threads),
        threads=settings.fetch_threads,
        max_bytes=settings.image_max_bytes,
        max_seconds=settings.fetch_seconds,
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
