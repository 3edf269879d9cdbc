"""JSON logs, one object a line on stderr, with the ids of the request and the event at hand, never a credential."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})
_bound: ContextVar[Mapping[str, str]] = ContextVar("whimbrel_log_fields", default=_NO_FIELDS)

_SECRETS = (
    # authorization headers, presigned URLs, URLs with a user, and anything that calls itself a secret
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9+/=._~-]{8,}"), r"\1 ***"),
    (re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s'\"]+"), r"\1***"),
    (
        re.compile(
            r"(?i)\b((?:aws_)?(?:secret(?:_access)?_key|session_token|password|passwd|token|secret)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&]+"
        ),
        r"\1***",
    ),
    (re.compile(r"(://[^/\s:@]+:)[^@/\s]+@"), r"\1***@"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "***"),
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


@contextmanager
def log_fields(**fields: str | None) -> Iterator[None]:
    """Every line logged inside carries these fields (`request_id`, `event_id`, `object`)."""
    token = _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _bound.reset(token)


def bound_field(name: str) -> str | None:
    """What `log_fields` has bound here."""
    return _bound.get().get(name)


def redact(text: str) -> str:
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class JsonFormatter(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "message": redact(record.getMessage()),
            **_bound.get(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                line[name] = redact(value) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(component: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send every logger of this process through the JSON formatter; the libraries' own handlers are removed."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "kserve"):
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
    for name in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("aiormq", "aio_pika"):  # each try of a connection; who tries says it once
        logging.getLogger(name).setLevel(logging.CRITICAL)
