"""Puts the transformer's parts together from its settings and serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from whimbrel.core import model_server
from whimbrel.core.budget import Budget
from whimbrel.core.result_store import ResultStore
from whimbrel.core.s3 import s3_client
from whimbrel.transformers.classifier import Answering, Classifier
from whimbrel.transformers.connect import predictor_of
from whimbrel.transformers.decoder import Decoder
from whimbrel.transformers.events import ObjectEvents, event_routes
from whimbrel.transformers.fetch import ObjectReader
from whimbrel.transformers.image_settings import decoder_of, reader_of
from whimbrel.transformers.known import KnownAnswers
from whimbrel.transformers.model import TransformerModel
from whimbrel.transformers.named_predictors import NamedPredictor
from whimbrel.transformers.replies import CODECS
from whimbrel.transformers.settings import TransformerSettings
from whimbrel.transformers.sources import Images
from whimbrel.transformers.urls import UrlFetcher


@dataclass(frozen=True, slots=True)
class Shared:
    """What all models of the process share: threads, connections to the store, and the budgets of memory."""

    settings: TransformerSettings
    held_bytes: Budget
    decoder: Decoder
    reader: ObjectReader
    urls: UrlFetcher

    @classmethod
    def of(cls, settings: TransformerSettings) -> Shared:
        held_bytes = Budget(settings.byte_budget, "bytes of images", max_wait_seconds=settings.wait_seconds)
        decoder = decoder_of(settings, max_wait_seconds=settings.wait_seconds)
        return cls(settings, held_bytes, decoder, reader_of(settings), _urls(settings))

    async def close(self) -> None:
        self.decoder.close()
        self.reader.close()
        await self.urls.close()


@dataclass(frozen=True, slots=True)
class Served:
    """One model: its answers to requests and to events."""

    model: TransformerModel
    events: ObjectEvents
    predictor: Answering
    known: KnownAnswers

    @classmethod
    def of(cls, named: NamedPredictor, shared: Shared) -> Served:
        settings, name = shared.settings, named.model_name
        predictor, known = predictor_of(settings, named), _known(settings, name)
        classifier = Classifier(shared.decoder, predictor)
        limits = (shared.held_bytes, settings.image_max_bytes)
        images = Images(shared.reader, shared.urls.fetch, settings.reference_buckets, *limits)
        model = TransformerModel(name, images, classifier, CODECS[settings.reply_format])
        return cls(model, ObjectEvents(name, shared.reader, classifier, *limits, known), predictor, known)

    async def close(self) -> None:
        await self.predictor.close()
        self.known.close()


def run(settings: TransformerSettings) -> None:
    """Serve until SIGTERM."""
    shared = Shared.of(settings)
    served = [Served.of(named, shared) for named in settings.predictors]

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            for each in served:
                await each.close()
            await shared.close()

    routes = event_routes([each.events for each in served])
    model_server.run([each.model for each in served], settings, routes=routes, lifespan=lifespan)


def _known(settings: TransformerSettings, model_name: str) -> KnownAnswers:
    if settings.results_bucket is None:
        return KnownAnswers(None, model_name)
    client = s3_client(settings, connections=settings.fetch_threads)
    return KnownAnswers(ResultStore(client, settings.results_bucket, settings.results_prefix), model_name)


def _urls(settings: TransformerSettings) -> UrlFetcher:
    return UrlFetcher(
        settings.url_rule,
        max_bytes=settings.image_max_bytes,
        max_seconds=settings.url_seconds,
        max_redirects=settings.url_max_redirects,
        connections=settings.url_connections,
        ca_bundle=settings.url_ca_bundle,
    )
