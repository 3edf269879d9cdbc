"""What is sent: image files as they are, inside JSON, or named by a CloudEvent."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from whimbrel.core import cloudevent
from whimbrel.core.errors import SettingsError
from whimbrel.core.records import AWS, parse_record
from whimbrel.core.references import ObjectRef

JSON = "application/json"
IMAGE_PLACEHOLDER = "$image_b64"
V1_TEMPLATE = {"instances": [{"b64": IMAGE_PLACEHOLDER}]}

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_SUFFIXES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Body:
    """`headers` are those that belong to this body alone, such as the ce-* of a CloudEvent."""

    name: str
    content_type: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def image_paths(given: Sequence[Path], most: int) -> list[Path]:
    """Files as they are, folders as the files with an image's suffix inside, sorted; `most` at most.

    Raises SettingsError for a path that is not there, a folder without images, and for more than `most`.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.is_file() and each.suffix.lower() in _SUFFIXES)
            if not inside:
                raise SettingsError(f"expected images in the folder {path}, seen no {', '.join(_SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise SettingsError(f"expected an image file or a folder of them, seen nothing at {path}")
    if len(found) > most:
        raise SettingsError(f"expected at most {most} bodies (--max-bodies), seen {len(found)}")
    return found


def read_image(path: Path, most_bytes: int) -> Body:
    """The file's bytes under the content type that they show, else that of the suffix."""
    size = path.stat().st_size
    if size > most_bytes:
        raise SettingsError(f"expected at most {most_bytes} bytes a body (--max-body-bytes), seen {size} in {path}")
    content = path.read_bytes()
    return Body(path.name, content_type(path.name, content), content)


def content_type(name: str, content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    shown = next((kind for signature, kind in _SIGNATURES if content.startswith(signature)), None)
    return shown or _SUFFIXES.get(Path(name).suffix.lower(), "application/octet-stream")


def in_json(template: Any, image: Body) -> Body:
    """`template` with the image as base64 in every string that is exactly `$image_b64`."""
    encoded = base64.b64encode(image.content).decode()
    document = _filled(template, encoded)
    if document == template:
        raise SettingsError(f'expected the string "{IMAGE_PLACEHOLDER}" in the JSON template, where the image goes')
    return json_body(image.name, document)


def json_body(name: str, document: Any) -> Body:
    return Body(name, JSON, json.dumps(document, separators=(",", ":")).encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as fault:
        raise SettingsError(f"expected a JSON file at {path}: {fault.strerror}") from None
    except ValueError as fault:
        raise SettingsError(f"expected JSON in {path}: {fault}") from None


def object_created(reference: ObjectRef, time: datetime, *, structured: bool = False) -> Body:
    """The CloudEvent of an upload of `reference`, as the S3 source sends it: ce-* headers, or one JSON body."""
    described = {"key": quote_plus(reference.key), "eTag": reference.etag, "versionId": reference.version_id}
    record = {
        "eventVersion": "2.1",
        "eventSource": AWS,
        "awsRegion": "us-east-1",
        "eventTime": cloudevent.format_time(time),
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": reference.bucket},
            "object": {name: value for name, value in described.items() if value is not None},
        },
    }
    event = parse_record(record).cloudevent()
    headers, content = cloudevent.structured(event) if structured else cloudevent.binary(event)
    own = {name: value for name, value in headers.items() if name.lower() != "content-type"}
    return Body(reference.uri, next(v for k, v in headers.items() if k.lower() == "content-type"), content, own)


def _filled(template: Any, encoded: str) -> Any:
    if isinstance(template, dict):
        return {name: _filled(value, encoded) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, encoded) for value in template]
    return encoded if template == IMAGE_PLACEHOLDER else template
