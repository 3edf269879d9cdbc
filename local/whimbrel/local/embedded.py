"""What stands on one machine for services that a user has elsewhere: the S3 store with its queue, and MLflow."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from whimbrel.core.errors import InputRefused
from whimbrel.core.s3 import error_code, s3_client, sqs_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.workload import Probe, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

STORE_LABEL = "whimbrel.dev/embedded-store"
SETTINGS_NAME = "whimbrel-settings"
CREDENTIALS_NAME = "whimbrel-s3"
REGION = "us-east-1"
# The embedded store asks for none; a client has to sign with something.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "whimbrel", "AWS_SECRET_ACCESS_KEY": "embedded-store"}

_ALREADY_MINE = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
_PROBE = {"period_seconds": 1, "timeout_seconds": 2, "failure_threshold": 5}


class Notification(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: str
    queue: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreContents:
    """The buckets, queues and bucket notifications that the manifests ask of the embedded store."""

    buckets: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    notifications: tuple[Notification, ...] = ()


def store_workload(state: Path, port: int, machine: Mapping[str, str]) -> Workload:
    return Workload(
        name="s3",
        kind="EmbeddedStore",
        module="whimbrel.local.store",
        arguments=("--folder", str(state / "store"), "--http-port", "$(PORT)"),
        environment={**machine, **CREDENTIALS, "AWS_DEFAULT_REGION": REGION},
        probe=Probe("/.whimbrel/healthz", **_PROBE),
        port=port,
    )


def mlflow_workload(state: Path, port: int, s3_port: int, machine: Mapping[str, str]) -> Workload:
    """MLflow on sqlite; its versions' URIs are s3:// ones, which the predictor reads without it."""
    arguments = {
        "--backend-store-uri": f"sqlite:///{state / 'mlflow.db'}",
        "--default-artifact-root": "s3://models/mlflow",
        "--host": "127.0.0.1",
        "--port": "$(PORT)",
        "--workers": "1",
        "--uvicorn-opts": "--no-access-log",
    }
    return Workload(
        name="mlflow",
        kind="EmbeddedRegistry",
        module="whimbrel.local.registry",
        arguments=("server", *(part for pair in arguments.items() for part in pair), "--no-serve-artifacts"),
        environment={
            **machine,
            **CREDENTIALS,
            "AWS_DEFAULT_REGION": REGION,
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else ten processes of 250 MB
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        probe=Probe("/health", **_PROBE),
        port=port,
    )


def settings_environment(s3_port: int, mlflow_port: int) -> dict[str, str]:
    """What ConfigMap `whimbrel-settings` and Secret `whimbrel-s3` hold on one machine, as one environment."""
    return _settings(s3_port, mlflow_port) | CREDENTIALS


def settings_objects(namespace: str, s3_port: int, mlflow_port: int) -> list[dict[str, Any]]:
    """The ConfigMap and the Secret that every container takes its settings from."""
    metadata = {"namespace": namespace}
    settings = _settings(s3_port, mlflow_port)
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"name": SETTINGS_NAME}, "data": settings},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata | {"name": CREDENTIALS_NAME},
            "type": "Opaque",
            "data": {name: b64encode(value.encode()).decode() for name, value in CREDENTIALS.items()},
        },
    ]


def store_contents(objects: Iterable[Mapping[str, Any]]) -> StoreContents:
    """What every ConfigMap with the label asks for. Raises InputRefused, with the key, for what cannot be read."""
    found = [each for each in objects if each.get("kind") == "ConfigMap" and _is_labelled(each)]
    return StoreContents(
        buckets=tuple(name for each in found for name in _data(each, "buckets").split()),
        queues=tuple(name for each in found for name in _data(each, "queues").split()),
        notifications=tuple(entry for each in found for entry in _notifications(each)),
    )


def create(contents: StoreContents, s3_port: int) -> None:
    """Create what is missing; what is there stays as it is. Blocking."""
    endpoint = f"http://127.0.0.1:{s3_port}"
    settings = S3Settings(s3_endpoint=endpoint, s3_region=REGION, s3_max_attempts=5)
    keys = (CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    s3, sqs = s3_client(settings, credentials=keys), sqs_client(settings, endpoint, credentials=keys)
    for bucket in contents.buckets:
        _create_bucket(s3, bucket)
    queues = {queue: _create_queue(sqs, queue) for queue in contents.queues}
    for bucket in {entry.bucket for entry in contents.notifications}:
        _notify(s3, bucket, [entry for entry in contents.notifications if entry.bucket == bucket], queues)


def _settings(s3_port: int, mlflow_port: int) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{s3_port}"
    return {
        "WHIMBREL_S3_ENDPOINT": endpoint,
        "WHIMBREL_S3_REGION": REGION,
        "WHIMBREL_SQS_ENDPOINT": endpoint,
        "AWS_ENDPOINT_URL_SQS": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "WHIMBREL_MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }


def _is_labelled(found: Mapping[str, Any]) -> bool:
    return (found["metadata"].get("labels") or {}).get(STORE_LABEL) == "true"


def _data(found: Mapping[str, Any], key: str) -> str:
    return str((found.get("data") or {}).get(key, ""))


def _notifications(found: Mapping[str, Any]) -> list[Notification]:
    where = f"ConfigMap {found['metadata']['name']!r}: data.notifications"
    try:
        entries = yaml.safe_load(_data(found, "notifications") or "[]")
        return [Notification.model_validate(entry) for entry in entries]
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise InputRefused(f"{where}: expected a list of bucket, queue and events; {error}") from None


def _create_bucket(s3: S3Client, bucket: str) -> None:
    try:
        s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error_code(error) not in _ALREADY_MINE:
            raise


def _create_queue(sqs: SQSClient, queue: str) -> str:
    """Its ARN."""
    url = sqs.create_queue(QueueName=queue)["QueueUrl"]
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _notify(s3: S3Client, bucket: str, wanted: list[Notification], queues: Mapping[str, str]) -> None:
    """Set what `wanted` says, unless it is set already: each setting sends a test event."""
    configurations = [_configuration(entry, queues) for entry in wanted]
    present = s3.get_bucket_notification_configuration(Bucket=bucket).get("QueueConfigurations", [])
    if _comparable(present) != _comparable(configurations):
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": configurations}
        )


def _configuration(entry: Notification, queues: Mapping[str, str]) -> Any:
    if entry.queue not in queues:
        raise InputRefused(f"notification of bucket {entry.bucket!r}: no queue {entry.queue!r} among the queues")
    return {"QueueArn": queues[entry.queue], "Events": list(entry.events)}


def _comparable(configurations: Any) -> set[tuple[str, tuple[str, ...]]]:
    return {(each["QueueArn"], tuple(sorted(each["Events"]))) for each in configurations}
