"""The rows that hey writes with `-o csv`: one for each request that was answered, none for one that failed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import Unavailable

# hey 0.1.4: response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset
TIME, STATUS, OFFSET = "response-time", "status-code", "offset"


@dataclass(frozen=True, slots=True)
class Rows:
    """Answers. `seconds` (N,) float64 from the start of the request to the last byte of its answer, to 0.1 ms;
    `statuses` (N,) int64; `offsets` (N,) float64 seconds from hey's start to the request's."""

    seconds: NDArray[np.float64]
    statuses: NDArray[np.int64]
    offsets: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def span_seconds(self) -> float:
        """From hey's start to the last answer; 0 without any."""
        return float((self.offsets + self.seconds).max()) if len(self) else 0.0


def parse(text: str) -> Rows:
    """Raises Unavailable when a column is missing (hey before 0.1.3) or a row is none; no text is no rows."""
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    if not header:
        return _rows([])
    missing = [name for name in (TIME, STATUS, OFFSET) if name not in header]
    if missing:
        raise Unavailable(
            f"expected the column {missing[0]!r} in hey's CSV, seen {','.join(header)!r:.200}; update hey"
        )
    time, status, offset = (header.index(name) for name in (TIME, STATUS, OFFSET))
    try:
        return _rows([(float(row[time]), int(row[status]), float(row[offset])) for row in reader if row])
    except (ValueError, IndexError):
        raise Unavailable(f"expected rows of hey's CSV, seen something else in line {reader.line_num}") from None


def joined(parts: Iterable[Rows]) -> Rows:
    every = list(parts) or [_rows([])]
    return Rows(
        np.concatenate([each.seconds for each in every]),
        np.concatenate([each.statuses for each in every]),
        np.concatenate([each.offsets for each in every]),
    )


def _rows(values: list[tuple[float, int, float]]) -> Rows:
    seconds, statuses, offsets = zip(*values, strict=True) if values else ((), (), ())
    return Rows(
        np.array(seconds, dtype=np.float64), np.array(statuses, dtype=np.int64), np.array(offsets, dtype=np.float64)
    )
