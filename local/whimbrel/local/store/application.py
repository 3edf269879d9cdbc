"""The store as a WSGI application: moto answers, then the journal has what changed, then the client has its answer."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from werkzeug.exceptions import RequestEntityTooLarge

from whimbrel.core.errors import SettingsError
from whimbrel.local.store.journal import Journal
from whimbrel.local.store.moto_state import MotoObjects, application
from whimbrel.local.store.requests import (
    QueueRequest,
    S3Request,
    Scope,
    foreign,
    queue_request,
    receives_messages,
    refusal,
    replay_environment,
    s3_request,
    scope,
    stored_request,
)
from whimbrel.local.store.wsgi import Answer, Environ, StartResponse, not_implemented, run, s3_error, take_body

logger = logging.getLogger(__name__)

HEALTH_PATH = "/.whimbrel/healthz"  # no bucket's name begins with a dot
CREATED = ""  # the part of a bucket or queue that is its creation
_MAX_QUEUE_REQUEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Replayed:
    buckets: int
    objects: int
    queues: int


class Store:
    """moto's S3 and SQS over one journal. `replay` first; then it may be called by many threads."""

    def __init__(self, journal: Journal, *, max_object_bytes: int) -> None:
        self._journal = journal
        self._max_object_bytes = max_object_bytes
        self._objects = MotoObjects()
        self._apps = {"s3": application("s3"), "sqs": application("sqs")}
        self._lock = threading.Lock()
        self._diverged: str | None = None

    def replay(self) -> Replayed:
        """Bring back what the journal holds: buckets, objects, configuration, queues, in this order.

        So nothing is announced: a bucket has no notifications yet when its objects come, and no queue is there when
        the notifications come. Raises SettingsError when moto does not take a request that it took before.
        """
        requests = self._journal.requests()
        for owner, part, time, request in requests:
            if part == CREATED and request.service == "s3":
                self._send_again(owner, part, replay_environment(request), request.body, "s3")
                self._objects.set_creation_time(owner.removeprefix("bucket:"), time)
        self._objects.record()
        objects = 0
        for bucket, key, state, body in self._journal.objects():
            self._objects.put_back(bucket, key, state, body)
            objects += 1
        for service in ("s3", "sqs"):
            for owner, part, _, request in requests:
                if request.service == service and not (service == "s3" and part == CREATED):
                    self._send_again(owner, part, replay_environment(request), request.body, service)
        created = [request.service for _, part, _, request in requests if part == CREATED]
        return Replayed(created.count("s3"), objects, created.count("sqs"))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._answer(environ)
        start_response(answer.status, answer.headers)
        return answer.body

    def _answer(self, environ: Environ) -> Answer:
        reason = foreign(environ)
        if reason:
            return s3_error("403 Forbidden", "AccessDenied", reason, close=True)
        if environ.get("PATH_INFO") == HEALTH_PATH:
            return self._health()
        if self._diverged:
            return s3_error("503 Service Unavailable", "ServiceUnavailable", self._diverged, close=True)
        try:
            return self._by_service(environ)
        except RequestEntityTooLarge:
            expected = f"expected at most {self._max_object_bytes} bytes (max_object_bytes)"
            return s3_error("400 Bad Request", "EntityTooLarge", expected, close=True)
        except Exception:
            logger.exception("a request failed")
            return s3_error("500 Internal Server Error", "InternalError", "the store failed, see its log", close=True)

    def _by_service(self, environ: Environ) -> Answer:
        environ.pop("HTTP_X_MOTO_ACCOUNT_ID", None)
        asked = scope(environ)
        body = take_body(environ, self._max_object_bytes if asked.service == "s3" else _MAX_QUEUE_REQUEST_BYTES)
        if asked.service == "s3":
            return self._s3(environ, asked, body)
        if asked.service == "sqs":
            return self._sqs(environ, asked, body)
        return not_implemented(f"this store speaks s3 and sqs, not {asked.service}")

    def _s3(self, environ: Environ, asked: Scope, body: bytes) -> Answer:
        request = s3_request(environ)
        reason = refusal(request, environ) or _foreign_region(asked)
        if reason:
            return not_implemented(reason)
        # The body is here already: the lock is held for moto's and the journal's work alone.
        with self._lock:
            self._objects.record()
            answer = run(self._apps["s3"], environ, body)
            try:
                if answer.succeeded:
                    self._journal_configuration(environ, asked, request, body)
                self._journal_objects(request if answer.succeeded else None)
            except sqlite3.Error as error:
                logger.exception("not journaled")
                return self._undo(request, error)
        return answer

    def _journal_objects(self, request: S3Request | None) -> None:
        changed = self._objects.touched()
        # Tags and ACLs change an object without setting it.
        if request and request.key and request.method in ("PUT", "DELETE") and "uploadId" not in request.parameters:
            changed.add((request.bucket, request.key))
        if changed:
            self._journal.put_objects({which: self._objects.read(*which) for which in changed})

    def _journal_configuration(self, environ: Environ, asked: Scope, request: S3Request, body: bytes) -> None:
        if request.key or not request.bucket:
            return
        owner = f"bucket:{request.bucket}"
        if request.method == "DELETE" and request.part == CREATED:
            self._journal.delete_owner(owner)
        elif request.method == "DELETE":
            self._journal.delete_request(owner, request.part)
        elif request.method == "PUT":
            created = self._objects.creation_time(request.bucket)
            stored = stored_request(environ, asked, body)
            self._journal.put_request(owner, request.part, created, stored, replace=request.part != CREATED)

    def _undo(self, request: S3Request, error: sqlite3.Error) -> Answer:
        """Make the objects again what the journal says they are; where that fails, or not only objects changed, the
        two differ, and the store takes no more requests until it is started again."""
        try:
            for bucket, key in self._objects.touched() | ({(request.bucket, request.key)} if request.key else set()):
                kept = self._journal.object(bucket, key)
                if kept is None:
                    self._objects.remove(bucket, key)
                else:
                    self._objects.put_back(bucket, key, *kept)
            if not request.key and request.method in ("PUT", "DELETE"):
                self._diverged = f"the journal could not be written ({error}); make room and start the store again"
        except sqlite3.Error as failed:
            self._diverged = f"the journal cannot be used ({failed}); start the store again"
        message = f"not stored, the journal could not be written: {error}"
        return s3_error("500 Internal Server Error", "InternalError", message)

    def _sqs(self, environ: Environ, asked: Scope, body: bytes) -> Answer:
        if receives_messages(environ, body):  # it may wait for some, and only reads and marks them
            return run(self._apps["sqs"], environ, body)
        request = queue_request(environ, body)
        # A delete makes moto's list of messages anew: one that is announced meanwhile would be lost.
        with self._lock:
            answer = run(self._apps["sqs"], environ, body)
            try:
                if answer.succeeded and request is not None:
                    self._journal_queue(environ, asked, request, body)
            except sqlite3.Error as error:
                logger.exception("not journaled")
                self._diverged = f"the journal could not be written ({error}); make room and start the store again"
                return s3_error("500 Internal Server Error", "InternalError", self._diverged)
        return answer

    def _journal_queue(self, environ: Environ, asked: Scope, request: QueueRequest, body: bytes) -> None:
        owner = f"queue:{asked.region}:{request.name}"
        if request.action == "DeleteQueue":
            self._journal.delete_owner(owner)
            return
        part = CREATED if request.action == "CreateQueue" else ",".join(request.attributes)
        now = datetime.now(UTC).isoformat()
        stored = stored_request(environ, asked, body)
        self._journal.put_request(owner, part, now, stored, replace=part != CREATED)

    def _send_again(self, owner: str, part: str, environ: Environ, body: bytes, service: str) -> None:
        answer = run(self._apps[service], environ, body)
        if not answer.succeeded:
            raise SettingsError(
                f"expected the store to take {part or 'the creation'} of {owner} again, it answered {answer.status}; "
                "move its folder away to start with an empty store"
            )

    def _health(self) -> Answer:
        buckets, objects = self._objects.count()
        document = {"status": self._diverged or "ok", "buckets": buckets, "objects": objects}
        status = "503 Service Unavailable" if self._diverged else "200 OK"
        return Answer(status, [("content-type", "application/json")], [json.dumps(document).encode()])


def _foreign_region(asked: Scope) -> str | None:
    if asked.region.startswith(("cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-")):
        return f"this store has the regions of the partition aws, not {asked.region}"
    return None
