"""What is read and decoded at all, and within which limits: the same wherever this room decodes images."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, field_validator

from whimbrel.core.budget import Budget
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import CommaSeparated, S3Settings, Seconds, split_commas
from whimbrel.transformers.decode import Limits
from whimbrel.transformers.decoder import Decoder
from whimbrel.transformers.fetch import ObjectReader
from whimbrel.transformers.formats import DECODABLE

MEBI = 1024 * 1024


class ImageSettings(S3Settings):
    """Limits on images."""

    image_formats: CommaSeparated = Field(default=DECODABLE, description="formats to decode, by their content")
    image_max_bytes: int = Field(default=20 * MEBI, ge=1, le=1024 * MEBI, description="largest encoded image")
    image_max_pixels: int = Field(default=50_000_000, ge=1, le=1_000_000_000, description="largest decoded image")
    image_background: str = Field(
        default="#ffffff", pattern="^#[0-9a-fA-F]{6}$", description="what transparent parts are laid over"
    )
    decode_seconds: Seconds = Field(default=10.0, description="most processor time of one decoding")
    decode_threads: int = Field(
        default=min(8, os.cpu_count() or 1), ge=1, le=256, description="images decoded at the same time"
    )
    decode_budget: int = Field(
        default=512 * MEBI, ge=16 * MEBI, le=2**40, description="bytes of memory that decoding may hold at once"
    )
    byte_budget: int = Field(
        default=256 * MEBI, ge=1, le=2**40, description="bytes of encoded images held by all requests"
    )
    fetch_threads: int = Field(default=16, ge=1, le=256, description="objects read at the same time")
    fetch_seconds: Seconds = Field(default=60.0, description="longest time to read one object")

    @field_validator("image_formats", mode="before")
    @classmethod
    def _split_formats(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("image_formats")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= set(DECODABLE):
            raise ValueError(f"expected one or more of {', '.join(DECODABLE)}")
        return value

    @property
    def background(self) -> tuple[int, int, int]:
        red, green, blue = bytes.fromhex(self.image_background[1:])
        return red, green, blue


def decoder_of(settings: ImageSettings, *, max_wait_seconds: float) -> Decoder:
    limits = Limits(settings.image_formats, settings.image_max_bytes, settings.image_max_pixels, settings.background)
    budget = Budget(settings.decode_budget, "bytes of memory for decoding", max_wait_seconds=max_wait_seconds)
    return Decoder(limits, budget, threads=settings.decode_threads, max_seconds=settings.decode_seconds)


def reader_of(settings: ImageSettings) -> ObjectReader:
    return ObjectReader(
        s3_client(settings, connections=settings.fetch_threads),
        threads=settings.fetch_threads,
        max_bytes=settings.image_max_bytes,
        max_seconds=settings.fetch_seconds,
    )
