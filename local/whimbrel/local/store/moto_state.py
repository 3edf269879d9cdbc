"""The objects inside moto: what changed, their state read out, and put back without an announcement.

All that this store knows of moto's insides is here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

# Before moto is imported: buckets by path only, and no web page of anywhere may read or write the store.
os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.utils import unix_time
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import FakeAcl, FakeGrant, FakeGrantee, s3_backends
from moto.s3.utils import _VersionedKeyStore
from moto.sqs.models import Message, SQSBackend

from whimbrel.local.store.journal import ObjectState

PARTITION = "aws"


def _is_within_retention(backend: SQSBackend, queue_name: str, message: Message) -> bool:
    """What moto's own method answers, without computing every attribute of the queue, for each message anew.

    That took a receive of ten messages from 6 ms to 427 ms with 300 in the queue.
    """
    retained = backend.get_queue(queue_name).message_retention_period + message.sent_timestamp / 1000
    return bool(retained > unix_time())


SQSBackend.is_message_valid_based_on_retention_period = _is_within_retention


def application(service: str) -> Any:
    """moto's WSGI application for `s3` or `sqs`."""
    app = create_backend_app(service)
    app.debug = False
    return app


class _RecordingKeys(_VersionedKeyStore):  # type: ignore[misc]
    """The keys of one bucket; each that is set or removed is noted."""

    def __init__(self, bucket: str, touched: set[tuple[str, str]]) -> None:
        super().__init__()
        self._bucket, self._touched = bucket, touched

    def setlist(self, key: Any, list_: Any) -> Any:
        self._touched.add((self._bucket, key))
        return super().setlist(key, list_)

    def __setitem__(self, key: str, value: Any) -> Any:
        self._touched.add((self._bucket, key))
        return super().__setitem__(key, value)

    def pop(self, key: str) -> None:
        self._touched.add((self._bucket, key))
        super().pop(key)


class MotoObjects:
    """The objects of moto's S3 in this process. Not thread-safe: its caller's lock orders the calls."""

    def __init__(self) -> None:
        self._backend = s3_backends[DEFAULT_ACCOUNT_ID][PARTITION]
        self._touched: set[tuple[str, str]] = set()

    def record(self) -> None:
        """From here on `touched` tells what changes; buckets made meanwhile are followed too."""
        self._follow_new_buckets()
        self._touched.clear()

    def touched(self) -> set[tuple[str, str]]:
        """(bucket, key) of every object that was set or removed since `record`."""
        return set(self._touched)

    def has_bucket(self, bucket: str) -> bool:
        return bucket in self._backend.buckets

    def count(self) -> tuple[int, int]:
        """How many buckets, how many objects."""
        return len(self._backend.buckets), sum(len(bucket.keys) for bucket in self._backend.buckets.values())

    def creation_time(self, bucket: str) -> str:
        return str(self._backend.buckets[bucket].creation_date.isoformat())

    def set_creation_time(self, bucket: str, time: str) -> None:
        self._backend.buckets[bucket].creation_date = datetime.fromisoformat(time)

    def read(self, bucket: str, key: str) -> tuple[ObjectState, bytes] | None:
        found = self._backend.buckets[bucket].keys.get(key) if self.has_bucket(bucket) else None
        if found is None:
            return None
        state = ObjectState(
            etag=found.etag.strip('"'),
            last_modified=found.last_modified.isoformat(),
            metadata={str(name): str(value) for name, value in found.metadata.items()},
            storage_class=found.storage_class,
            tags=dict(self._backend.tagger.get_tag_dict_for_resource(found.arn)),
            acl=_acl_document(found.acl),
            encryption=found.encryption,
            kms_key_id=found.kms_key_id,
            bucket_key_enabled=found.bucket_key_enabled,
            checksum_algorithm=found.checksum_algorithm,
            checksum_value=found.checksum_value,
            checksum_type=found.checksum_type,
            checksum_parts=found.checksum_parts,
            website_redirect_location=found.website_redirect_location,
        )
        return state, found.value

    def put_back(self, bucket: str, key: str, state: ObjectState, body: bytes) -> None:
        """The object as it was, its times and ETag included; nothing is announced."""
        made = self._backend.put_object(
            bucket,
            key,
            body,
            storage=state.storage_class,
            etag=state.etag,
            encryption=state.encryption,
            kms_key_id=state.kms_key_id,
            bucket_key_enabled=state.bucket_key_enabled,
            checksum_value=state.checksum_value,
            disable_notification=True,
        )
        made.last_modified = datetime.fromisoformat(state.last_modified)
        made.set_metadata(dict(state.metadata))
        made.set_acl(_acl(state.acl))
        made.checksum_algorithm = state.checksum_algorithm
        made.checksum_type = state.checksum_type
        made.checksum_parts = state.checksum_parts
        made.website_redirect_location = state.website_redirect_location
        self._backend.tagger.delete_all_tags_for_resource(made.arn)
        tags = [{"Key": name, "Value": value} for name, value in state.tags.items()]
        self._backend.tagger.tag_resource(made.arn, tags)

    def remove(self, bucket: str, key: str) -> None:
        """Nothing is announced."""
        if self.has_bucket(bucket) and key in self._backend.buckets[bucket].keys:
            self._backend.buckets[bucket].keys.pop(key)

    def _follow_new_buckets(self) -> None:
        for name, bucket in self._backend.buckets.items():
            if not isinstance(bucket.keys, _RecordingKeys):
                bucket.keys = _RecordingKeys(name, self._touched)


def _acl_document(acl: Any) -> list[dict[str, object]] | None:
    if acl is None:
        return None
    return [
        {
            "grantees": [[grantee.id, grantee.uri, grantee.display_name] for grantee in grant.grantees],
            "permissions": list(grant.permissions),
        }
        for grant in acl.grants
    ]


def _acl(document: Iterable[dict[str, Any]] | None) -> Any:
    if document is None:
        return None
    return FakeAcl(
        [
            FakeGrant([FakeGrantee(*grantee) for grantee in grant["grantees"]], grant["permissions"])
            for grant in document
        ]
    )
