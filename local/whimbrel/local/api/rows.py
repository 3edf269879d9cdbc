"""The sqlite file: objects, who belongs to whom, and the latest changes in order. Knows no rules.

WAL with synchronous=NORMAL: what was answered survives the end of this process at any instant, since the system has
the bytes. A power cut may take the last moments; the file stays whole.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL, PRIMARY KEY (resource, namespace, name));
CREATE TABLE IF NOT EXISTS dependents (owner TEXT NOT NULL, uid TEXT NOT NULL, PRIMARY KEY (owner, uid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    version INTEGER PRIMARY KEY, type TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL,
    document TEXT NOT NULL, previous TEXT, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('version', 0), ('floor', 0), ('rows', 0), ('bytes', 0);
"""
_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the history, or of the objects where the type is empty."""

    version: int
    type: str
    resource: str
    document: str
    previous: str | None


class Rows:
    """One connection; its owner sees to it that one thread at a time uses it."""

    def __init__(self, path: Path, *, history_rows: int, history_bytes: int) -> None:
        path.touch(mode=0o600)
        self._sql = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._sql.execute("PRAGMA journal_mode=WAL")
            self._sql.execute("PRAGMA synchronous=NORMAL")
            self._sql.executescript(_SCHEMA)
        except sqlite3.Error:
            self._sql.close()
            raise
        self._history_rows, self._history_bytes = history_rows, history_bytes

    def close(self) -> None:
        self._sql.close()

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[None]:
        """All or nothing; without `keep`, nothing: a rehearsal."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT" if keep else "ROLLBACK")
        finally:
            if self._sql.in_transaction:  # a full disk may have ended it already
                self._sql.execute("ROLLBACK")

    def counter(self, name: str) -> int:
        return int(self._sql.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()[0])

    def next_version(self) -> int:
        self._add("version", 1)
        return self.counter("version")

    def get(self, resource: str, namespace: str, name: str) -> str | None:
        found = self._sql.execute(
            "SELECT document FROM objects WHERE resource = ? AND namespace = ? AND name = ?",
            (resource, namespace, name),
        ).fetchone()
        return None if found is None else str(found[0])

    def by_uid(self, uid: str) -> tuple[str, str] | None:
        """The resource and the document of the object with this uid."""
        found = self._sql.execute("SELECT resource, document FROM objects WHERE uid = ?", (uid,)).fetchone()
        return None if found is None else (str(found[0]), str(found[1]))

    def page(self, resource: str, namespace: str | None, after: tuple[str, str], limit: int) -> list[str]:
        """Documents in the order of namespace and name; `limit` -1: all of them."""
        within = "" if namespace is None else "AND namespace = ?"
        values = [resource, *after, *([] if namespace is None else [namespace]), limit]
        query = (
            "SELECT document FROM objects WHERE resource = ? AND (namespace, name) > (?, ?) "  # noqa: S608  fixed words
            f"{within} ORDER BY namespace, name LIMIT ?"
        )
        return [str(row[0]) for row in self._sql.execute(query, values)]

    def within(self, namespace: str) -> list[tuple[str, str]]:
        """The resource and the document of everything in a namespace."""
        rows = self._sql.execute("SELECT resource, document FROM objects WHERE namespace = ?", (namespace,))
        return [(str(row[0]), str(row[1])) for row in rows]

    def count(self, resource: str | None = None) -> int:
        if resource is None:
            return int(self._sql.execute("SELECT count(*) FROM objects").fetchone()[0])
        return int(self._sql.execute("SELECT count(*) FROM objects WHERE resource = ?", (resource,)).fetchone()[0])

    def put(self, resource: str, found: dict[str, Any], document: str, owners: list[str]) -> None:
        metadata = found["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"], metadata["uid"], document)
        self._sql.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", key)
        self._sql.execute("DELETE FROM dependents WHERE uid = ?", (metadata["uid"],))
        pairs = [(owner, metadata["uid"]) for owner in owners]
        self._sql.executemany("INSERT OR IGNORE INTO dependents VALUES (?, ?)", pairs)

    def remove(self, uid: str) -> None:
        self._sql.execute("DELETE FROM objects WHERE uid = ?", (uid,))
        self._sql.execute("DELETE FROM dependents WHERE uid = ?", (uid,))

    def dependents(self, owner: str) -> list[tuple[str, str]]:
        """The resource and the document of all that belong to this uid."""
        rows = self._sql.execute(
            "SELECT resource, document FROM dependents JOIN objects USING (uid) WHERE owner = ?", (owner,)
        )
        return [(str(row[0]), str(row[1])) for row in rows]

    def record(self, row: Row, namespace: str) -> None:
        """Append to the history, and forget the oldest of it beyond its limits."""
        size = len(row.document) + len(row.previous or "")
        self._sql.execute(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.version, row.type, row.resource, namespace, row.document, row.previous, size),
        )
        self._add("rows", 1)
        self._add("bytes", size)
        while self.counter("rows") > self._history_rows or self.counter("bytes") > self._history_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        version, size = self._sql.execute("SELECT version, size FROM history ORDER BY version LIMIT 1").fetchone()
        self._sql.execute("DELETE FROM history WHERE version = ?", (version,))
        self._sql.execute("UPDATE counters SET value = ? WHERE name = 'floor'", (version,))
        self._add("rows", -1)
        self._add("bytes", -size)

    def _add(self, counter: str, amount: int) -> None:
        self._sql.execute("UPDATE counters SET value = value + ? WHERE name = ?", (amount, counter))

    def history(self, resource: str | None, namespace: str | None, after: int, limit: int) -> list[Row]:
        conditions, values = ["version > ?"], [after]  # type: tuple[list[str], list[Any]]
        for column, value in (("resource", resource), ("namespace", namespace)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        query = (
            "SELECT version, type, resource, document, previous FROM history "  # noqa: S608  fixed words
            f"WHERE {' AND '.join(conditions)} ORDER BY version LIMIT ?"
        )
        return [Row(*row) for row in self._sql.execute(query, [*values, limit])]


def encoded(found: dict[str, Any]) -> str:
    return json.dumps(found, separators=(",", ":"))
