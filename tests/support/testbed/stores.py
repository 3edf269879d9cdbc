"""A real S3 and SQS server (moto's) in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.processes import Running, answers, running
from whimbrel.core.s3 import s3_client, sqs_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

PAGE_KEYS = 100  # a tenth of S3's own: what goes beyond a page is put sooner
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@dataclass(frozen=True)
class Store:
    """`settings_environment` is what a process of ours needs to reach it."""

    endpoint: str
    process: Running

    @property
    def settings_environment(self) -> dict[str, str]:
        return {"WHIMBREL_S3_ENDPOINT": self.endpoint, "AWS_ENDPOINT_URL_SQS": self.endpoint, **CREDENTIALS}

    def s3(self) -> S3Client:
        return s3_client(S3Settings(s3_endpoint=self.endpoint))

    def sqs(self) -> SQSClient:
        return sqs_client(S3Settings(s3_endpoint=self.endpoint), self.endpoint)


@contextmanager
def moto_store(folder: Path) -> Iterator[Store]:
    """Its listings have pages of PAGE_KEYS."""
    port, settings = free_port(), {**CREDENTIALS, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_KEYS)}
    with running("moto.server", "-H", "127.0.0.1", "-p", str(port), log=folder / "moto.log", **settings) as process:
        endpoint = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{endpoint}/moto-api/"), "the S3 server")
        yield Store(endpoint, process)
