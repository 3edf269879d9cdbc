"""The settings of the API server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from whimbrel.core.settings import ComponentSettings, Port, Seconds


class ApiSettings(ComponentSettings):
    """Serves a small Kubernetes API on loopback, over objects in one folder. No controllers: nothing runs."""

    state: Path = Field(description="folder for the objects, the token, the certificate and the kubeconfig")
    api_port: Port = Field(default=0, description="port of 127.0.0.1; 0: any free one")
    api_logs: Path | None = Field(
        default=None, description="folder with NAMESPACE/POD/CONTAINER.log; absent: no pod logs"
    )
    api_max_body_bytes: int = Field(
        default=3 << 20, ge=1024, le=64 << 20, description="largest request body; 413 beyond"
    )
    api_max_in_flight: int = Field(
        default=128, ge=1, le=10_000, description="requests at once, without watches; 429 beyond"
    )
    api_max_watches: int = Field(default=512, ge=1, le=10_000, description="watches and followed logs; 429 beyond")
    api_watch_seconds: Seconds = Field(default=1800, description="longest watch that names no timeoutSeconds itself")
    api_bookmark_seconds: Seconds = Field(default=60, description="time between the bookmarks of a quiet watch")
