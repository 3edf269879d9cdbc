from __future__ import annotations

from typing import TYPE_CHECKING

from whimbrel.core.result_store import ResultStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_a_store_with_conditional_puts_is_recognised(s3: S3Client, bucket: str) -> None:
    assert ResultStore(s3, bucket).supports_conditional_puts()
