"""The journal: what the store has to bring back at its next start, in one sqlite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from whimbrel.core.errors import SettingsError

FILE_NAME = "store.sqlite3"
_FORMAT = 1
_PAGE_BYTES = 4096
_WAL_BYTES = 64 * 1024 * 1024  # what the write-ahead log is cut back to after a checkpoint

_SCHEMA = """
CREATE TABLE objects (
    bucket TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (bucket, key)
);
CREATE TABLE requests (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL, part TEXT NOT NULL, time TEXT NOT NULL, request TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (owner, part)
);
"""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """Everything of one object but its bytes. Times are ISO-8601 in UTC; `acl` is a list of grants."""

    etag: str
    last_modified: str
    metadata: dict[str, str]
    storage_class: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    acl: list[dict[str, object]] | None = None
    encryption: str | None = None
    kms_key_id: str | None = None
    bucket_key_enabled: str | bool | None = None
    checksum_algorithm: str | None = None
    checksum_value: str | None = None
    checksum_type: str | None = None
    checksum_parts: int | None = None
    website_redirect_location: str | None = None


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request that is sent once more at the start: it made a bucket or a queue, or set one part of one."""

    service: str
    region: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Journal:
    """One writer at a time: its caller's lock orders the calls. Every method that writes has committed on return."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Raises SettingsError when the folder cannot be used, or is used by another store."""
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._open(max_bytes)
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(
                f"expected a folder of this store's own at {folder} (--folder): {error}; stop the other store, "
                f"or choose another folder"
            ) from None

    def _open(self, max_bytes: int) -> None:
        # Exclusive: a second store on the same folder is refused. Without it synchronous=NORMAL would be the same:
        # safe against a kill, not syncing at each commit.
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"journal_size_limit = {_WAL_BYTES}",
            f"max_page_count = {max_bytes // _PAGE_BYTES}",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        (found,) = self._database.execute("PRAGMA user_version").fetchone()
        if found not in (0, _FORMAT):
            raise sqlite3.DatabaseError(f"its journal has format {found}, this store reads {_FORMAT}")
        if found == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")

    def put_objects(self, changes: dict[tuple[str, str], tuple[ObjectState, bytes] | None]) -> None:
        """All of them or none: the state and the bytes of each object by (bucket, key), None for a deleted one."""
        with self._transaction():
            for (bucket, key), change in changes.items():
                if change is None:
                    self._database.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key))
                    continue
                state, body = change
                self._database.execute(
                    "INSERT OR REPLACE INTO objects (bucket, key, state, body) VALUES (?, ?, ?, ?)",
                    (bucket, key, json.dumps(asdict(state)), body),
                )

    def object(self, bucket: str, key: str) -> tuple[ObjectState, bytes] | None:
        row = self._database.execute(
            "SELECT state, body FROM objects WHERE bucket = ? AND key = ?", (bucket, key)
        ).fetchone()
        return None if row is None else (ObjectState(**json.loads(row[0])), row[1])

    def objects(self) -> Iterator[tuple[str, str, ObjectState, bytes]]:
        for bucket, key, state, body in self._database.execute("SELECT bucket, key, state, body FROM objects"):
            yield bucket, key, ObjectState(**json.loads(state)), body

    def put_request(self, owner: str, part: str, time: str, request: StoredRequest, *, replace: bool = True) -> None:
        """The latest request for this part of a bucket or queue; `replace=False` keeps the first one."""
        described = {name: getattr(request, name) for name in StoredRequest.__slots__ if name != "body"}
        with self._transaction():
            self._database.execute(
                f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO requests (owner, part, time, request, body) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?)",
                (owner, part, time, json.dumps(described), request.body),
            )

    def delete_request(self, owner: str, part: str) -> None:
        with self._transaction():
            self._database.execute("DELETE FROM requests WHERE owner = ? AND part = ?", (owner, part))

    def delete_owner(self, owner: str) -> None:
        """All requests of a bucket or queue that is no more."""
        with self._transaction():
            self._database.execute("DELETE FROM requests WHERE owner = ?", (owner,))

    def requests(self) -> list[tuple[str, str, str, StoredRequest]]:
        """(owner, part, time, request) in the order in which they were last made."""
        rows = self._database.execute("SELECT owner, part, time, request, body FROM requests ORDER BY sequence")
        return [
            (owner, part, time, StoredRequest(**json.loads(text), body=body)) for owner, part, time, text, body in rows
        ]

    def close(self) -> None:
        self._database.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)


class _Transaction:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            try:
                self._database.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # a full disk ends it by itself
            self._database.execute("ROLLBACK")
