"""A model's name is resolved by the configured registry alone, and every wrong answer of it has its error."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urljoin

import pytest

from testbed.answering import Answer, Answering, answering
from whimbrel.core.errors import InputRefused, NotFound, PackageRefused, SettingsError, Unavailable, WhimbrelError
from whimbrel.core.registry import MAX_ANSWER_BYTES, ModelLocation, resolve
from whimbrel.local.state import free_port

DIGEST = "sha256:" + "a" * 64
FOLDER = "s3://models/mlflow/1/models/m-1/artifacts"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def root(server: Answering) -> str:
    return urljoin(server.url, "/")


def json_answer(document: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode())


def version(digest: str | None = DIGEST) -> Answer:
    tags = [] if digest is None else [{"key": "whimbrel.digest", "value": digest}]
    return json_answer({"model_version": {"name": "digits", "version": "3", "tags": tags}})


def folder(uri: str = FOLDER) -> Answer:
    return json_answer({"artifact_uri": uri})


def resolved(*answers: Answer, uri: str = "models:/digits@champion") -> ModelLocation:
    with answering(lambda index: answers[index]) as server:
        return resolve(uri, root(server))


def test_an_alias_and_a_version_are_resolved_to_folder_and_digest() -> None:
    for uri, path in (
        ("models:/digits@champion", "/api/2.0/mlflow/registered-models/alias?name=digits&alias=champion"),
        ("models:/digits/3", "/api/2.0/mlflow/model-versions/get?name=digits&version=3"),
    ):
        with answering(lambda index: (version(), folder())[index]) as server:
            assert resolve(uri, root(server)) == ModelLocation("digits", "3", FOLDER, DIGEST)
            download = "/api/2.0/mlflow/model-versions/get-download-uri?name=digits&version=3"
            assert [request.path for request in server.received] == [path, download]


@pytest.mark.parametrize(
    "uri",
    [
        "models:/digits",
        "models:/digits/latest",
        "models:/a/b@c",
        "models://host/digits/1",
        "models:/digits@",
        "digits/1",
    ],
)
def test_another_form_is_refused_before_anybody_is_asked(uri: str) -> None:
    with pytest.raises(InputRefused, match=r"models:/NAME@ALIAS or models:/NAME/VERSION"):
        resolve(uri, f"http://127.0.0.1:{free_port()}")


def test_a_missing_tracking_uri_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="WHIMBREL_MLFLOW_TRACKING_URI"):
        resolve("models:/digits@champion", None)


@pytest.mark.parametrize("digest", [None, "", "sha256:abc", "md5:" + "a" * 64])
def test_a_version_without_a_digest_is_refused(digest: str | None) -> None:
    with pytest.raises(PackageRefused, match=r"expected the tag whimbrel\.digest .* on version 3 of 'digits'"):
        resolved(version(digest), folder())


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/models/m-1/artifacts", "http://host/model", "dbfs:/model", ""])
def test_a_place_that_nothing_else_can_read_is_refused_with_the_remedy(uri: str) -> None:
    with pytest.raises(PackageRefused, match="--no-serve-artifacts"):
        resolved(version(), folder(uri))


MISSING = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=digits not found"}
NO_ALIAS = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion not found."}
RESERVED = {"error_code": "INVALID_PARAMETER_VALUE", "message": "latest is reserved"}


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (json_answer(MISSING, 404), NotFound, "has no name 'digits', alias 'champion'.*whimbrel model ls"),
        (json_answer(NO_ALIAS, 400), NotFound, "alias champion not found"),
        (json_answer(RESERVED, 400), InputRefused, "latest is reserved"),
        (Answer(404, b"<html>not here</html>"), Unavailable, "seen status 404"),
        (Answer(500, b"oops"), Unavailable, "seen status 500"),
        (Answer(403, b"{}"), Unavailable, "seen status 403"),
        (Answer(200, b"<html>a login page</html>"), Unavailable, "expected a JSON answer"),
        (json_answer({}), Unavailable, "expected a model version"),
        (json_answer({"model_version": {"tags": 1}}), Unavailable, "expected a model version"),
        (json_answer({"model_version": {"name": "a", "version": "1", "tags": [1]}}), PackageRefused, "seen none"),
        (Answer(200, b"[" * 100_000), Unavailable, "expected a JSON answer"),
        (Answer(200, b" " * (MAX_ANSWER_BYTES + 1)), Unavailable, "at most"),
        (Answer(hang_up=True), Unavailable, "does not answer"),
        (Answer(hang_up=True, half=True, body=b"{}" * 100), Unavailable, "does not answer"),
    ],
)
def test_each_answer_that_is_none_has_its_error(answer: Answer, error: type[WhimbrelError], said: str) -> None:
    with pytest.raises(error, match=said):
        resolved(answer)


def test_a_registry_that_is_away_is_tried_again_later() -> None:
    with pytest.raises(Unavailable, match="is it running") as caught:
        resolve("models:/digits@champion", f"http://127.0.0.1:{free_port()}")
    assert caught.value.headers() == {"retry-after": "5"}


@contextmanager
def redirecting_to(url: str) -> Iterator[str]:
    class Redirects(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("location", url)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_a_redirect_is_not_followed() -> None:
    with answering(lambda _: version()) as elsewhere, redirecting_to(root(elsewhere)) as registry:
        with pytest.raises(Unavailable, match="seen status 302"):
            resolve("models:/digits@champion", registry)
        assert elsewhere.received == []


def test_mlflows_own_credentials_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with answering(lambda index: (version(), folder(), version(), folder())[index]) as server:
        resolve("models:/digits@champion", root(server))
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
        resolve("models:/digits@champion", root(server))
        sent = [request.headers["authorization"] for request in server.received]
    basic = "Basic " + base64.b64encode(b"ada:secret").decode()
    assert sent == [basic, basic, "Bearer token", "Bearer token"]
