"""The model pointer: the one small object that says which versions every replica of a model serves, and their reports.

    s3://models/digits/pointer.json           `Pointer`: what is wanted; the rollout writes it, the replicas follow
    s3://models/digits/replicas/<uid>.json    `Replica`: what one replica holds, with a lease that expires

Both are JSON. The pointer is replaced only by the one who read what it replaces (If-Match), so of two rollouts one
loses. A reader asks with the eTag that it has, so following costs the store next to nothing.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whimbrel.core.attestations import COMPILED_TAG, NOTHING, Attestations
from whimbrel.core.errors import PackageRefused, Unavailable, WhimbrelError
from whimbrel.core.package import Digest
from whimbrel.core.references import ObjectRef
from whimbrel.core.registry import ModelLocation
from whimbrel.core.s3 import as_whimbrel_error, error_code, is_precondition_failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POINTER_PREFIX: Final = "pointer+"
MAX_BYTES: Final = 64 * 1024
MAX_REPLICAS: Final = 10_000
FORGOTTEN_AFTER_SECONDS: Final = 24 * 3600.0
_CONFIG = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

Document = TypeVar("Document", bound=BaseModel)


class PointedVersion(BaseModel):
    """`attestations`: as the registry had them when the pointer was written; a predictor asks no registry here."""

    model_config = _CONFIG

    version: str = Field(min_length=1, max_length=200)
    uri: str = Field(min_length=1, max_length=2000)
    digest: Digest
    attestations: Attestations | None = None


def pointed(location: ModelLocation) -> PointedVersion:
    """What the registry says of a version now."""
    attestations = None if location.attestations == NOTHING else location.attestations
    return PointedVersion(version=location.version, uri=location.uri, digest=location.digest, attestations=attestations)


class Pointer(BaseModel):
    """`share`: percent of the requests that the candidate answers. `drain_and_swap`: where there is no memory for
    two versions, the old one may leave before the new one is loaded."""

    model_config = _CONFIG

    schema_: Literal["whimbrel.dev/pointer/v1"] = Field(default="whimbrel.dev/pointer/v1", alias="schema")
    current: PointedVersion
    candidate: PointedVersion | None = None
    share: float = Field(default=0.0, ge=0, lt=100)
    drain_and_swap: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Pointer:
        if self.candidate is None and self.share:
            raise ValueError("share: expected 0 without a candidate")
        if self.candidate is not None and self.candidate.version == self.current.version:
            raise ValueError("candidate: expected another version than the current one")
        return self


class Replica(BaseModel):
    """What one replica holds: `versions` as in its metadata, `pointer_etag` what it last followed, `synced` whether
    it arrived there, `error` why not, `refused` the digests that it will not try again. Counts until `expires` (Unix
    time)."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["whimbrel.dev/replica/v1"] = Field(default="whimbrel.dev/replica/v1", alias="schema")
    uid: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    expires: float
    pointer_etag: str
    synced: bool
    error: str | None = None
    refused: tuple[str, ...] = ()
    versions: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    pointer: Pointer
    etag: str


class PointerStore:
    """One model's pointer and the reports beside it. Every call blocks; raises NotFound and Unavailable."""

    def __init__(self, client: S3Client, place: ObjectRef) -> None:
        self._client, self.place = client, place
        folder, slash, _ = place.key.rpartition("/")
        self._replicas = f"{folder}{slash}replicas/"

    def read(self, known_etag: str | None = None) -> Read | None:
        """The pointer, or None while it is the one with `known_etag`. Raises PackageRefused for a malformed one."""
        condition: Any = {"IfNoneMatch": known_etag} if known_etag else {}
        try:
            answer = self._client.get_object(Bucket=self.place.bucket, Key=self.place.key, **condition)
            content = answer["Body"].read(MAX_BYTES + 1)
        except ClientError as error:
            if error_code(error) in ("304", "NotModified"):
                return None
            raise as_whimbrel_error(error, f"read of the model pointer {self.place.uri}") from None
        except BotoCoreError as error:
            raise as_whimbrel_error(error, f"read of the model pointer {self.place.uri}") from None
        return Read(_parsed(Pointer, content, self.place.uri), answer["ETag"])

    def write(self, pointer: Pointer, known_etag: str | None) -> str:
        """Replace the pointer that has `known_etag` (None: there is none yet); the new eTag.

        Raises Unavailable when another one was there: read it and decide again; PackageRefused for what no replica
        would read.
        """
        size = len(_content(pointer))
        if size > MAX_BYTES:
            raise PackageRefused(
                f"expected a model pointer of at most {MAX_BYTES} bytes, seen {size}; remove tags of its versions that "
                f"name compiled code of no use any more ({COMPILED_TAG}*)"
            )
        condition: Any = {"IfMatch": known_etag} if known_etag else {"IfNoneMatch": "*"}
        try:
            answer = self._put(self.place.key, pointer, **condition)
        except ClientError as error:
            if is_precondition_failure(error):
                raise Unavailable(
                    f"expected the model pointer {self.place.uri} as it was read ({known_etag or 'absent'}), seen "
                    "another; read it again"
                ) from None
            raise as_whimbrel_error(error, f"write of the model pointer {self.place.uri}") from None
        except BotoCoreError as error:
            raise as_whimbrel_error(error, f"write of the model pointer {self.place.uri}") from None
        return str(answer["ETag"])

    def report(self, replica: Replica) -> None:
        try:
            self._put(f"{self._replicas}{replica.uid}.json", replica)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"report of the replica {replica.uid}") from None

    def forget(self, uid: str) -> None:
        """A replica that ends in order takes its report along."""
        try:
            self._client.delete_object(Bucket=self.place.bucket, Key=f"{self._replicas}{uid}.json")
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"removal of the report of {uid}") from None

    def live_replicas(self) -> list[Replica]:
        """The reports whose lease has not expired, by uid; what is malformed or just gone is left out.

        Reports that nobody renewed for a day, of replicas that were killed, are removed. Raises Unavailable for more
        than MAX_REPLICAS of them: what is not seen may not count as absent.
        """
        try:
            found = [replica for key in self._report_keys() if (replica := self._replica(key)) is not None]
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"reports beside {self.place.uri}") from None
        now = time.time()
        for replica in found:
            if replica.expires < now - FORGOTTEN_AFTER_SECONDS:
                with contextlib.suppress(WhimbrelError):  # one who may only read still gets its answer
                    self.forget(replica.uid)
        return [replica for replica in found if replica.expires > now]

    def _report_keys(self) -> list[str]:
        keys: list[str] = []
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, Prefix=self._replicas)
        for page in pages:
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            if len(keys) > MAX_REPLICAS:
                raise Unavailable(f"expected at most {MAX_REPLICAS} reports beside {self.place.uri}, seen more")
        return keys

    def _replica(self, key: str) -> Replica | None:
        try:
            body = self._client.get_object(Bucket=self.place.bucket, Key=key)["Body"]
            return _parsed(Replica, body.read(MAX_BYTES + 1), key)
        except (PackageRefused, self._client.exceptions.NoSuchKey):
            return None

    def _put(self, key: str, document: BaseModel, **condition: Any) -> Any:
        return self._client.put_object(
            Bucket=self.place.bucket, Key=key, Body=_content(document), ContentType="application/json", **condition
        )


def _content(document: BaseModel) -> bytes:
    return document.model_dump_json(by_alias=True, exclude_none=True).encode()


def _parsed(kind: type[Document], content: bytes, where: str) -> Document:
    if len(content) > MAX_BYTES:
        raise PackageRefused(f"expected at most {MAX_BYTES} bytes in {where}, seen more")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}" for fault in error.errors())
        raise PackageRefused(f"expected a {kind.__name__.lower()} in {where}; " + "; ".join(faults)) from None
