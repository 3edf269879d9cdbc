"""One MLflow server for the room's tests, its artifacts in the S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.registry import mlflow_server
from testbed.stores import Store

REGISTRY_BUCKET = "models-of-the-registry"


@pytest.fixture(scope="session")
def tracking_uri(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store.s3().create_bucket(Bucket=REGISTRY_BUCKET)
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), store, REGISTRY_BUCKET) as url:
        yield url
