"""The settings of the one-machine engine."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from whimbrel.core.settings import ComponentSettings, Port, Seconds


class EngineSettings(ComponentSettings):
    """Runs the manifests as processes of this machine, on loopback only. Port 0: the last one, else any free one."""

    state: Path = Field(default=Path(".whimbrel"), description="folder that everything is kept in")
    manifests: Path = Field(default=Path("manifests/overlays/local"), description="kustomization to run")
    gateway_port: Port = Field(default=0, description="port that routes by host name")
    api_port: Port = Field(default=0, description="port of the Kubernetes API")
    s3_port: Port = Field(default=0, description="port of the embedded S3 store")
    mlflow_port: Port = Field(default=0, description="port of the MLflow server")
    gateway_wait_seconds: Seconds = Field(default=45, description="longest wait of a request for a starting process")
    gateway_max_in_flight: int = Field(
        default=1024, ge=1, le=100_000, description="requests not yet answered; 503 beyond"
    )
    start_seconds: Seconds = Field(default=120, description="longest wait for the embedded services to be ready")
    stop_seconds: Seconds = Field(default=30, description="longest wait for one process after SIGTERM, then SIGKILL")
    stable_window_seconds: Seconds = Field(
        default=60,
        description="the autoscaler's window, where no annotation gives one: idle for so long, it goes to zero",
    )
    most_replicas: int = Field(
        default=0, ge=0, le=64, description="most processes of one revision; 0: as many as there are cores, at least 2"
    )
