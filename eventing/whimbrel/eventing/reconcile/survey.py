"""What a comparison has found so far, in one file of sqlite: memory does not grow with it, and a kill loses nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef
from whimbrel.eventing.reconcile.objects import Listed, Position

_CACHE_KIB: Final = 8192
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settled (folder TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unsettled (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, version TEXT, etag TEXT, size INTEGER,
    modified TEXT NOT NULL, seen_at TEXT NOT NULL, outcome TEXT NOT NULL, why TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_outcome ON unsettled (outcome, number);
"""


class Outcome(StrEnum):
    """What is known of an object version. UNSEEN: not in the listing of the results, not yet looked at once more."""

    RESULT = "result"
    GONE = "gone"
    DEAD_LETTER = "dead letter"
    UNSEEN = "unseen"
    MISSING = "missing"
    EMITTED = "emitted"
    REFUSED = "refused"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Row:
    """One object version that had nothing when it was listed."""

    number: int
    listed: Listed


class Survey:
    """One comparison. Belongs to one thread. `file` None keeps it in a temporary file of sqlite's own."""

    def __init__(self, file: Path | None, question: Mapping[str, str]) -> None:
        """Raises InputRefused where the file is none of these or answers another question."""
        self._file = file
        try:
            self._sql = sqlite3.connect("" if file is None else file)
            self._sql.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._sql.executescript(_TABLES)
        except sqlite3.Error as error:
            raise InputRefused(f"expected the cursor of a comparison in {file}, or no file, seen {error}") from None
        self.resumed = self._fact("question") is not None
        if json.loads(self._fact("question") or json.dumps(question)) != dict(question):
            seen = " ".join(f"{name}={value}" for name, value in json.loads(self._fact("question") or "{}").items())
            self.close()
            raise InputRefused(f"expected the cursor of this comparison in {file}, seen one of: {seen}; name another")
        with self._sql:
            self._set_fact("question", dict(question))

    def close(self) -> None:
        self._sql.close()

    def remove(self) -> None:
        """It is complete: nothing is left to go on with."""
        self.close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def position(self, step: str) -> Position | None:
        """Where a step goes on; {} at its begin, None when it is done."""
        found = self._fact(step)
        position: Position | None = {} if found is None else json.loads(found)
        return position

    def add_settled(self, folders: Iterable[tuple[str, Outcome]], step: str, position: Position | None) -> None:
        with self._sql:
            self._sql.executemany("INSERT OR IGNORE INTO settled VALUES (?, ?)", folders)
            self._set_fact(step, position)

    def settled(self, folder: str) -> Outcome | None:
        row = self._sql.execute("SELECT outcome FROM settled WHERE folder = ?", (folder,)).fetchone()
        return None if row is None else Outcome(row[0])

    def add_objects(
        self,
        settled: Mapping[Outcome, int],
        unsettled: Sequence[Listed],
        unusable: Sequence[tuple[str, str]],
        step: str,
        position: Position | None,
    ) -> None:
        """One page of the bucket and where the next begins, together or not at all."""
        rows = [_row(listed) for listed in unsettled]
        with self._sql:
            for outcome, number in settled.items():
                self._count(outcome, number)
            self._sql.executemany(
                "INSERT INTO unsettled (key, version, etag, size, modified, seen_at, outcome, why)"
                " VALUES (?, ?, ?, ?, ?, ?, 'unseen', '')",
                rows,
            )
            self._sql.executemany(
                "INSERT INTO unsettled (key, modified, seen_at, outcome, why) VALUES (?, '', '', 'unusable', ?)",
                unusable,
            )
            self._set_fact(step, position)

    def next_rows(self, outcome: Outcome, bucket: str, most: int, after: int = 0) -> list[Row]:
        found = self._sql.execute(
            "SELECT number, key, version, etag, size, modified, seen_at FROM unsettled"
            " WHERE outcome = ? AND number > ? ORDER BY number LIMIT ?",
            (outcome, after, most),
        )
        return [_listed(bucket, row) for row in found]

    def conclude(self, outcomes: Iterable[tuple[int, Outcome, str]]) -> None:
        """By row number: what became of it, and why."""
        with self._sql:
            self._sql.executemany(
                "UPDATE unsettled SET outcome = ?, why = ? WHERE number = ?",
                [(outcome, why, number) for number, outcome, why in outcomes],
            )

    def count(self, outcome: Outcome) -> int:
        kept = self._sql.execute("SELECT number FROM counts WHERE name = ?", (outcome,)).fetchone()
        rows = self._sql.execute("SELECT count(*) FROM unsettled WHERE outcome = ?", (outcome,)).fetchone()
        return (kept[0] if kept else 0) + int(rows[0])

    def told(self, outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Outcome, str]]:
        """Key, outcome and reason of every row with one of these, in the order of the listing."""
        marks = ", ".join("?" * len(outcomes))
        query = f"SELECT key, outcome, why FROM unsettled WHERE outcome IN ({marks}) ORDER BY number"  # noqa: S608
        for key, outcome, why in self._sql.execute(query, outcomes):
            yield key, Outcome(outcome), why

    def _fact(self, name: str) -> str | None:
        row = self._sql.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: Any) -> None:
        self._sql.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def _count(self, outcome: Outcome, number: int) -> None:
        self._sql.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = number + excluded.number",
            (outcome, number),
        )


def _row(listed: Listed) -> tuple[Any, ...]:
    ref = listed.ref
    times = (listed.modified.astimezone(UTC).isoformat(), listed.seen_at.isoformat())
    return (ref.key, ref.version_id, ref.etag, ref.size, *times)


def _listed(bucket: str, row: tuple[Any, ...]) -> Row:
    number, key, version, etag, size, modified, seen_at = row
    ref = ObjectRef(bucket, key, etag, version, size)
    return Row(number, Listed(ref, datetime.fromisoformat(modified), datetime.fromisoformat(seen_at)))
