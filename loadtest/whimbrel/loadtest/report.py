"""The record of one load test, as JSON: written for the next one to be compared with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from whimbrel.core.cloudevent import format_time, parse_time
from whimbrel.core.errors import SettingsError
from whimbrel.core.logs import redact
from whimbrel.loadtest import summary
from whimbrel.loadtest.summary import Stage
from whimbrel.loadtest.targets import Target

SCHEMA = "whimbrel.dev/loadtest/v1"


@dataclass(frozen=True, slots=True)
class SentBody:
    name: str
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Where hey ran, which is not always where the service does."""

    cpus: int
    platform: str


@dataclass(frozen=True, slots=True)
class Report:
    """Headers are left out: they may hold a token."""

    time: datetime
    target: Target
    method: str
    bodies: tuple[SentBody, ...]
    machine: Machine
    stages: tuple[Stage, ...]


def to_json(report: Report) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "time": format_time(report.time),
        "target": {"url": redact(report.target.url), "host": report.target.host},
        "method": report.method,
        "bodies": [asdict(body) for body in report.bodies],
        "machine": asdict(report.machine),
        "stages": [summary.as_json(stage) for stage in report.stages],
    }


def from_json(document: Any) -> Report:
    """The inverse of `to_json`; raises SettingsError for anything else."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SettingsError(f"expected a load test's JSON of the schema {SCHEMA}, seen something else")
    try:
        return Report(
            time=parse_time(document["time"]),
            target=Target(**document["target"]),
            method=str(document["method"]),
            bodies=tuple(SentBody(**body) for body in document["bodies"]),
            machine=Machine(**document["machine"]),
            stages=tuple(summary.from_json(stage) for stage in document["stages"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise SettingsError(f"expected a load test's JSON of the schema {SCHEMA}, seen {fault!r:.200}") from None


def write(report: Report, path: Path) -> None:
    path.write_text(json.dumps(to_json(report), indent=1) + "\n")


def read(path: Path) -> Report:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise SettingsError(f"expected an earlier load test's JSON at {path}: {fault}") from None
    return from_json(document)
