"""The embedded store's settings."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, field_validator

from whimbrel.core.settings import ServerSettings

MIB = 1024 * 1024


class StoreSettings(ServerSettings):
    """An S3 and SQS server for one machine that keeps its buckets and objects in a folder."""

    folder: Path = Field(description="where the journal lies; made when it is not there")
    max_object_bytes: int = Field(default=256 * MIB, ge=1024, le=900 * MIB, description="largest object or part")
    max_store_bytes: int = Field(
        default=16 * 1024 * MIB, ge=MIB, description="largest journal; a put beyond is refused"
    )
    max_connections: int = Field(default=512, ge=8, le=10_000, description="connections at a time; more wait")
    grace_seconds: float = Field(default=10.0, ge=0, le=600, description="longest wait for requests after SIGTERM")

    @field_validator("http_host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError("expected a loopback address: the store has no authentication")
        return host
