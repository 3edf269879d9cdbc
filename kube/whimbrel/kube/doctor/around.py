"""Looks at what stands around the cluster: the store with its buckets and notifications, and the registry; reads only.

From this machine, which may not reach what the cluster reaches: then that is what it says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.s3 import error_code, is_missing, s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown, warning

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SECONDS = 5.0
_S3, _MLFLOW = "WHIMBREL_S3_ENDPOINT", "WHIMBREL_MLFLOW_TRACKING_URI"
_INSIDE = (".svc", ".cluster.local")
_NO_NOTIFICATIONS = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})
_CREATED = "s3:ObjectCreated:"


@dataclass(frozen=True, slots=True)
class Buckets:
    """What the function or the manifests name."""

    photos: str = "photos"
    results: str = "results"
    dead_letters: str = "dead-letters"


def store(settings: Mapping[str, str], buckets: Buckets, credentials: tuple[str, str] | None) -> list[Finding]:
    """`settings` are those of the ConfigMap; this process's environment goes before them. Blocking."""
    endpoint = os.environ.get(_S3) or settings.get(_S3)
    if not endpoint:
        return [unknown("store", "no address known", f"set {_S3} as the store is reached from here")]
    if _is_inside(endpoint):
        return [unknown("store", f"{endpoint} is reached from inside the cluster only", _forward(_S3))]
    region = os.environ.get("WHIMBREL_S3_REGION") or settings.get("WHIMBREL_S3_REGION") or "us-east-1"
    try:
        client = s3_client(_settings(endpoint, region), connections=2, credentials=credentials)
    except ValueError:
        return [missing("store", f"{endpoint!r} is no address", f"mend {_S3}: http://HOST:PORT, without a user")]
    try:
        return list(_buckets(client, endpoint, buckets))
    except (BotoCoreError, ClientError) as error:
        return [missing("store", f"{endpoint} does not answer: {error}", "start the store, or mend its address")]
    finally:
        client.close()


def _settings(endpoint: str, region: str) -> S3Settings:
    return S3Settings(
        s3_endpoint=endpoint,
        s3_region=region,
        s3_connect_timeout_seconds=_SECONDS,
        s3_read_timeout_seconds=_SECONDS,
        s3_max_attempts=1,
    )


def registry(settings: Mapping[str, str]) -> list[Finding]:
    """MLflow's own health page. Blocking."""
    uri = os.environ.get(_MLFLOW) or settings.get(_MLFLOW)
    if not uri:
        return [unknown("registry", "no address known", f"set {_MLFLOW} as MLflow is reached from here")]
    if _is_inside(uri):
        return [unknown("registry", f"{uri} is reached from inside the cluster only", _forward(_MLFLOW))]
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [missing("registry", f"{uri} does not answer: {error!r:.120}", "start MLflow, or mend its address")]
    if answer.status_code != httpx.codes.OK:
        return [missing("registry", f"{uri} answered {answer.status_code} for /health", "is that MLflow?")]
    return [ok("registry", uri)]


def _buckets(client: S3Client, endpoint: str, buckets: Buckets) -> Iterator[Finding]:
    for name in dict.fromkeys((buckets.photos, buckets.results, buckets.dead_letters)):
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            yield _bucket_fault(name, endpoint, error)
        else:
            yield ok("store", f"bucket {name} of {endpoint}")
    yield from _notifications(client, buckets.photos, endpoint)


def _bucket_fault(name: str, endpoint: str, error: ClientError) -> Finding:
    if is_missing(error):
        make = f"aws --endpoint-url {endpoint} s3 mb s3://{name}"
        return missing("store", f"no bucket {name} at {endpoint}", make)
    answered = error_code(error)
    return unknown("store", f"bucket {name}: the store answered {answered}", "give these credentials read access to it")


def _notifications(client: S3Client, bucket: str, endpoint: str) -> Iterator[Finding]:
    try:
        found = client.get_bucket_notification_configuration(Bucket=bucket)
    except ClientError as error:
        if is_missing(error):
            return
        if error_code(error) in _NO_NOTIFICATIONS:
            yield unknown("notifications", "the store does not tell; RGW's pubsub keeps them elsewhere")
            return
        yield unknown("notifications", f"of bucket {bucket}: the store answered {error_code(error)}")
        return
    set_up = [entry for each in found.values() if isinstance(each, list) for entry in each if isinstance(entry, dict)]
    if any(_announces(entry) for entry in set_up):
        yield ok("notifications", f"bucket {bucket} announces new objects")
    elif set_up:
        seen = f"bucket {bucket} announces something, but no {_CREATED}*"
        yield warning("notifications", seen, _notify(bucket, endpoint))
    else:
        yield missing(
            "notifications", f"bucket {bucket} announces nothing: no image is ever seen", _notify(bucket, endpoint)
        )


def _announces(entry: Mapping[str, Any]) -> bool:
    return any(str(event).startswith(_CREATED) for event in entry.get("Events") or ())


def _notify(bucket: str, endpoint: str) -> str:
    wanted = '{"QueueConfigurations":[{"QueueArn":"ARN","Events":["s3:ObjectCreated:*"]}]}'
    return (
        f"aws --endpoint-url {endpoint} s3api put-bucket-notification-configuration --bucket {bucket} "
        f"--notification-configuration '{wanted}'"
    )


def _forward(variable: str) -> str:
    return f"kubectl port-forward it, and set {variable} to http://localhost:PORT here"


def _is_inside(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(_INSIDE)
