"""How much a load test may send at most: nothing starts without an end."""

from __future__ import annotations

from pydantic import Field

from whimbrel.core.settings import ComponentSettings


class LimitSettings(ComponentSettings):
    """Upper limits of a load test."""

    loadtest_max_requests: int = Field(
        default=100_000, ge=1, le=1_000_000, description="most requests at one concurrency; hey itself keeps a million"
    )
    loadtest_max_seconds: float = Field(
        default=600.0, gt=0, le=86_400, description="longest time at one concurrency; what is left is stopped then"
    )
    loadtest_max_concurrency: int = Field(default=500, ge=1, le=10_000, description="most requests at once")
    loadtest_max_bodies: int = Field(default=64, ge=1, le=1000, description="most different bodies")
    loadtest_max_body_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1, le=1024 * 1024 * 1024, description="most bytes of one body"
    )
