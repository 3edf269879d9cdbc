"""Bodies: the images as they are, in JSON, and events that the rest of the way can read."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whimbrel.core import cloudevent
from whimbrel.core.errors import SettingsError
from whimbrel.core.records import object_event
from whimbrel.core.references import ObjectRef
from whimbrel.loadtest import bodies
from whimbrel.loadtest.bodies import Body

JPEG, PNG = b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\n\x1a\nrest"
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_images_of_a_folder_in_order_and_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(JPEG)
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("not an image")
    found = [bodies.read_image(path, 100) for path in bodies.image_paths([tmp_path], most=2)]
    assert [(body.name, body.content_type) for body in found] == [("a.png", "image/png"), ("b.png", "image/jpeg")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        ("broken.JPG", b"not a jpeg", "image/jpeg"),
        ("x.bin", b"\x00", "application/octet-stream"),
        ("x.tif", b"II*\x00", "image/tiff"),
    ],
)
def test_content_type(name: str, content: bytes, expected: str) -> None:
    assert bodies.content_type(name, content) == expected


def test_paths_that_give_no_bodies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"seen nothing at .*absent.png"):
        bodies.image_paths([tmp_path / "absent.png"], most=2)
    with pytest.raises(SettingsError, match="expected images in the folder"):
        bodies.image_paths([tmp_path], most=2)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    with pytest.raises(SettingsError, match=r"at most 2 bodies \(--max-bodies\), seen 3"):
        bodies.image_paths([tmp_path], most=2)
    with pytest.raises(SettingsError, match="at most 5 bytes a body"):
        bodies.read_image(tmp_path / "a.png", 5)


def test_an_image_in_json() -> None:
    image = Body("a.png", "image/png", PNG)
    found = bodies.in_json({"inputs": [{"data": ["$image_b64"], "name": "x$image_b64"}], "k": 3}, image)
    encoded = base64.b64encode(PNG).decode()
    assert json.loads(found.content) == {"inputs": [{"data": [encoded], "name": "x$image_b64"}], "k": 3}
    assert (found.name, found.content_type) == ("a.png", "application/json")
    assert json.loads(bodies.in_json(bodies.V1_TEMPLATE, image).content) == {"instances": [{"b64": encoded}]}


def test_a_template_without_a_place_for_the_image_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"expected the string \"\$image_b64\" in the JSON template"):
        bodies.in_json({"instances": []}, Body("a.png", "image/png", PNG))


@pytest.mark.parametrize("structured", [False, True])
def test_an_event_is_read_back_as_the_upload_of_its_object(structured: bool) -> None:
    reference = ObjectRef("photos", "a b/ü+ 100%.png", etag="abc")
    body = bodies.object_created(reference, TIME, structured=structured)
    (event,) = cloudevent.parse({**body.headers, "content-type": body.content_type}, body.content)
    found = object_event(event)
    assert (found.object, found.creates, found.time) == (reference, True, TIME)
    assert bool(body.headers) is not structured


def test_an_event_is_the_same_however_often_it_is_made() -> None:
    reference = ObjectRef("photos", "a.png")
    first, second = (bodies.object_created(reference, TIME) for _ in range(2))
    assert first.headers["ce-id"] == second.headers["ce-id"]
