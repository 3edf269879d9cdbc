"""Logs are JSON, carry the ids at hand, and never a credential."""

from __future__ import annotations

import json
import logging

import pytest

from whimbrel.core.logs import JsonFormatter, log_fields, redact


def logged(message: str, *arguments: object, **extra: object) -> dict[str, object]:
    record = logging.getLogger("probe").makeRecord(
        "probe", logging.INFO, __file__, 1, message, arguments, None, extra=dict(extra)
    )
    line: dict[str, object] = json.loads(JsonFormatter("probe").format(record))
    return line


def test_a_line_is_one_json_object_with_the_bound_ids() -> None:
    with log_fields(request_id="r1", event_id=None):
        line = logged("label: %s", "seven", object="s3://b/k")
    assert line["message"] == "label: seven"
    assert (line["component"], line["level"], line["request_id"], line["object"]) == ("probe", "info", "r1", "s3://b/k")
    assert "event_id" not in line
    assert "request_id" not in logged("later")


def test_a_message_with_line_breaks_stays_one_line() -> None:
    record = logging.makeLogRecord({"msg": "two\nlines", "levelname": "INFO", "created": 0.0})
    assert "\n" not in JsonFormatter("probe").format(record)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2026/x, Signature=SECRETSECRET",
        "authorization: Bearer SECRETSECRET",
        "{'Authorization': 'Basic SECRETSECRET=='}",
        "http://store/b/k?X-Amz-Signature=SECRETSECRET&X-Amz-Credential=SECRETSECRET",
        "amqp://user:SECRETSECRET@host:5672/",
        "aws_secret_access_key=SECRETSECRET",
        '"password": "SECRETSECRET"',
        "AWS_SESSION_TOKEN=SECRETSECRET",
    ],
)
def test_no_credential_is_logged(text: str) -> None:
    assert "SECRETSECRET" not in redact(text)
    assert "AKIAIOSFODNN7EXAMPLE" not in redact(text)
    assert "SECRETSECRET" not in json.dumps(logged("%s", text))
    assert "SECRETSECRET" not in json.dumps(logged("extra", detail=text))
