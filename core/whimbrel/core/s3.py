"""The S3 client that every room uses, and what its failures mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import NotFound, Unavailable, WhimbrelError
from whimbrel.core.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

NOT_FOUND_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404", "NotFound"})
PRECONDITION_CODES = frozenset({"PreconditionFailed", "412"})


def s3_client(settings: S3Settings, *, connections: int = 32, credentials: tuple[str, str] | None = None) -> S3Client:
    """A thread-safe client with at most `connections` connections; timeouts and retries from the settings.

    `credentials` are access key and secret key; None is botocore's own chain.
    """
    access_key, secret_key = credentials or (None, None)
    return boto3.client(
        "s3",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        verify=settings.s3_ca_bundle or settings.s3_verify_tls,
        config=client_config(settings, connections),
    )


def sqs_client(
    settings: S3Settings, endpoint: str | None, *, connections: int = 32, credentials: tuple[str, str] | None = None
) -> SQSClient:
    """A client of the queue that the store notifies; same region, timeouts, retries and `credentials`."""
    access_key, secret_key = credentials or (None, None)
    return boto3.client(
        "sqs",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        verify=settings.s3_ca_bundle or settings.s3_verify_tls,
        config=client_config(settings, connections),
    )


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    return error_code(error) in NOT_FOUND_CODES


def is_precondition_failure(error: ClientError) -> bool:
    """Whether a conditional write lost: the object exists, or is no longer the one that was read.

    409 ConditionalRequestConflict is none: another request was at work on the key, and which won is not said.
    """
    return error_code(error) in PRECONDITION_CODES


def as_whimbrel_error(error: BotoCoreError | ClientError, doing: str) -> WhimbrelError:
    """The failure of an S3 call as one of ours: missing is 404, all else 503 (the store may come back).

    A permission error is 503 as well: it is the operator's to mend, and the input is not at fault.
    """
    if isinstance(error, ClientError):
        if is_missing(error):
            return NotFound(f"{doing}: the store answered {error_code(error)}")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return Unavailable(f"{doing}: the store answered {status} {error_code(error)}", retry_after_seconds=5)
    return Unavailable(f"{doing}: the store does not answer ({error})", retry_after_seconds=5)


def client_config(settings: S3Settings, connections: int) -> Config:
    """For clients of services beside S3 and SQS that a store offers too."""
    return Config(
        connect_timeout=settings.s3_connect_timeout_seconds,
        read_timeout=settings.s3_read_timeout_seconds,
        retries={"total_max_attempts": settings.s3_max_attempts, "mode": "standard"},
        max_pool_connections=connections,
        s3={"addressing_style": "path" if settings.s3_path_style else "virtual"},
        # Stores that are not AWS refuse the checksums that newer SDKs add unasked.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
