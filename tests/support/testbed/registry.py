"""A real MLflow server in a process of its own, its artifacts in the S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from testbed.processes import answers, running
from testbed.stores import CREDENTIALS, Store
from whimbrel.local.state import free_port

SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else ten processes of 250 MB
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Webhooks to this machine, none of them tried again, and no minute until a new one is known.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "dGVzdCBrZXkgb2YgdGhlIHdlYmhvb2tzIG9mIGEgYmE=",
}


@contextmanager
def mlflow_server(folder: Path, store: Store, bucket: str) -> Iterator[str]:
    """The tracking URI of a server whose artifacts lie in `bucket` of `store`; it starts in 5 to 10 s."""
    port = free_port()
    arguments = [
        *("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--default-artifact-root", f"s3://{bucket}/mlflow", "--no-serve-artifacts"),
    ]
    environment = {**SETTINGS, **CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": store.endpoint}
    with running("whimbrel.local.registry", *arguments, log=folder / "mlflow.log", **environment) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/health"), "the MLflow server", 240)
        yield url


def tag_version(tracking_uri: str, name: str, version: str, key: str, value: str) -> None:
    """What anybody may do in MLflow's page."""
    document = {"name": name, "version": version, "key": key, "value": value}
    httpx.post(f"{tracking_uri}/api/2.0/mlflow/model-versions/set-tag", json=document, timeout=30).raise_for_status()
