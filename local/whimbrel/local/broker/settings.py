"""The broker's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from whimbrel.core.settings import ServerSettings


class BrokerSettings(ServerSettings):
    """Knative's broker for one machine: filters, delivers, retries and dead-letters CloudEvents."""

    config: Path = Field(description="JSON file with the brokers and triggers; read again at SIGHUP")
    max_in_flight: int = Field(default=256, ge=1, le=10_000, description="events not yet answered; 503 beyond")
    max_event_bytes: int = Field(
        default=1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="largest request, and largest reply (413)"
    )
    receive_seconds: float = Field(default=30.0, gt=0, le=600, description="longest wait for a request's body (408)")
    grace_seconds: float = Field(
        default=60.0, ge=0, le=3600, description="longest wait for accepted events after SIGTERM"
    )
