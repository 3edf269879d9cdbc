"""The model server as a process: extra routes, limits, errors, binary tensors, request ids, memory and its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from testbed.processes import Running, answers, running, wait_for

SUPPORT = Path(__file__).parents[1] / "support"
LIMIT_BYTES = 10_000


@contextmanager
def echo_server(log: Path, *arguments: str) -> Iterator[tuple[Running, str]]:
    """The process and its URL, once it is ready."""
    options = ("--http-port", "0", "--max-request-bytes", str(LIMIT_BYTES), *arguments)
    with running("testbed.echo_model", *options, log=log, PYTHONPATH=str(SUPPORT)) as process:
        process.wait_until(lambda: '"http_port"' in process.output(), "the port")
        found = re.search(r'"http_port": (\d+)', process.output())
        assert found is not None
        url = f"http://127.0.0.1:{found[1]}"
        process.wait_until(lambda: answers(f"{url}/v2/health/ready"), "readiness")
        yield process, url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    with echo_server(tmp_path_factory.mktemp("echo") / "log", "--drain-seconds", "0") as ready:
        yield ready


@pytest.fixture
def url(server: tuple[Running, str]) -> str:
    return server[1]


def lines(process: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]


def binary_request(*tensors: tuple[str, list[int], bytes]) -> tuple[dict[str, str], bytes]:
    inputs = [
        {"name": f"t{n}", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for n, (datatype, shape, content) in enumerate(tensors)
    ]
    head = json.dumps({"id": "1", "inputs": inputs}).encode()
    return {"inference-header-content-length": str(len(head))}, head + b"".join(content for _, _, content in tensors)


def test_an_extra_route_is_under_the_same_limit(url: str) -> None:
    assert httpx.post(f"{url}/length", content=bytes(LIMIT_BYTES)).text == str(LIMIT_BYTES)
    for content in (bytes(LIMIT_BYTES + 1), (bytes(1000) for _ in range(11))):
        answer = httpx.post(f"{url}/length", content=content)
        assert (answer.status_code, answer.json()["reason"]) == (413, "PayloadTooLarge")


def test_bodies_share_a_budget_that_is_given_back(tmp_path: Path) -> None:
    options = ("--drain-seconds", "0", "--request-budget", "12000", "--wait-seconds", "0.1")
    with echo_server(tmp_path / "log", *options) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as holding:
            holding.sendall(b"POST /wait HTTP/1.1\r\nhost: h\r\ncontent-length: 9000\r\n\r\n" + bytes(9000))
            process.wait_until(lambda: '"waiting"' in process.output(), "the request that holds 9000 bytes")
            announced = httpx.post(f"{url}/length", content=bytes(4000))
            unannounced = httpx.post(f"{url}/length", content=iter([bytes(10)]))
            fits, probe = httpx.post(f"{url}/length", content=bytes(3000)), httpx.get(f"{url}/v2/health/ready")
        wait_for(lambda: httpx.post(f"{url}/length", content=bytes(9000)).status_code == 200, "the bytes given back")

    for refused in (announced, unannounced):
        assert (refused.status_code, refused.json()["reason"]) == (503, "Unavailable")
        assert refused.headers["retry-after"] == "2"
        assert "of 12000 bytes of request bodies to become free" in refused.json()["error"]
    assert (fits.text, probe.status_code) == ("3000", 200)


def test_a_body_that_does_not_come_holds_its_bytes_for_a_while_only(tmp_path: Path) -> None:
    options = ("--drain-seconds", "0", "--request-budget", "12000", "--body-seconds", "1")
    with echo_server(tmp_path / "log", *options) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(b"POST /length HTTP/1.1\r\nhost: h\r\ncontent-length: 9000\r\n\r\n" + bytes(10))
            assert httpx.post(f"{url}/length", content=bytes(9000), timeout=30).text == "9000"
            answer = slow.recv(65536)
    assert answer.startswith(b"HTTP/1.1 504 ")


def test_an_extra_route_is_under_the_same_error_table(url: str) -> None:
    answer = httpx.post(f"{url}/quota")

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {"error": "expected fewer, seen more", "reason": "QuotaExceeded"}


def test_an_unexpected_error_is_logged_and_tells_the_client_nothing(server: tuple[Running, str]) -> None:
    process, url = server
    answer = httpx.post(f"{url}/bug", headers={"x-request-id": "with-a-bug"})

    assert (answer.status_code, answer.json()) == (500, {"error": "unexpected KeyError", "reason": "InternalError"})
    logged = [line for line in lines(process) if line.get("request_id") == "with-a-bug"]
    assert [("secret detail" in line["exception"]) for line in logged] == [True]


def test_the_request_id_is_in_every_line_and_in_the_answer(server: tuple[Running, str]) -> None:
    process, url = server
    answer = httpx.post(f"{url}/length", headers={"x-request-id": "abc"})

    assert answer.headers["x-request-id"] == "abc"
    assert [line["message"] for line in lines(process) if line.get("request_id") == "abc"] == ["measured"]


def test_a_request_whose_client_left_is_cancelled(server: tuple[Running, str]) -> None:
    process, url = server
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/wait", headers={"x-request-id": "left"}, timeout=httpx.Timeout(10, read=0.5))

    def messages() -> list[str]:
        return [line["message"] for line in lines(process) if line.get("request_id") == "left"]

    wait_for(lambda: "cancelled" in messages(), "the cancellation")
    assert messages() == ["waiting", "cancelled"]


def test_binary_tensors_of_every_kind(url: str) -> None:
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"one", b"", "zwölf".encode()))
    headers, body = binary_request(
        ("FP32", [2, 1], struct.pack("<2f", 1.5, -2.0)), ("BYTES", [3], texts), ("INT64", [1], struct.pack("<q", -7))
    )

    answer = httpx.post(f"{url}/v2/models/echo/infer", content=body, headers=headers).json()

    assert [output["data"] for output in answer["outputs"]] == [[1.5, -2.0], ["one", "", "zwölf"], [-7]]
    assert [output["shape"] for output in answer["outputs"]] == [[2, 1], [3], [1]]


@pytest.mark.parametrize(
    "tensor",
    [
        ("BYTES", [1], b"\x09\x00\x00\x00short"),
        ("BYTES", [2], b"\x01\x00\x00\x00a"),
        ("BYTES", [2**31 - 1, 2**31 - 1], b"\x01\x00\x00\x00a"),
        ("FP32", [2], b"1234"),
    ],
)
def test_broken_binary_tensors_are_a_400(url: str, tensor: tuple[str, list[int], bytes]) -> None:
    headers, body = binary_request(tensor)

    assert httpx.post(f"{url}/v2/models/echo/infer", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("datatype", "data", "status"),
    [
        ("BOOL", [True, False], 200),
        ("BOOL", [1, 0], 400),
        ("FP64", [1, 2.5], 200),
        ("FP16", [1.0, 2.0], 400),
        ("BYTES", ["a", "b"], 200),
        ("BYTES", ["a", 2], 400),
        ("UINT64", [0, 2**64 - 1], 200),
        ("INT8", [0, 128], 400),
    ],
)
def test_json_tensors_of_every_kind(url: str, datatype: str, data: list[Any], status: int) -> None:
    document = {"id": "1", "inputs": [{"name": "t", "datatype": datatype, "shape": [2], "data": data}]}

    answer = httpx.post(f"{url}/v2/models/echo/infer", json=document)

    assert answer.status_code == status, answer.text
    assert status == 400 or answer.json()["outputs"][0]["data"] == data


def test_v1_hands_raw_bytes_to_the_model(url: str) -> None:
    answer = httpx.post(f"{url}/v1/models/echo:predict", content=b"\x89PNG", headers={"content-type": "image/png"})

    assert answer.json() == {"predictions": 4}


def test_it_listens_on_loopback_only_and_idles_small(server: tuple[Running, str]) -> None:
    process = psutil.Process(server[0].process.pid)

    listening = {
        getattr(c.laddr, "ip", None) for c in psutil.net_connections() if c.pid == process.pid and c.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}
    assert process.memory_info().rss < 180e6


def test_a_second_signal_ends_the_drain_and_the_model_is_left_last(tmp_path: Path) -> None:
    with echo_server(tmp_path / "log", "--drain-seconds", "300") as (process, url):
        process.process.terminate()
        wait_for(lambda: answers(f"{url}/v2/health/ready", 503), "the drain")
        drained = httpx.post(f"{url}/v2/models/echo/infer", json={"inputs": []})

        assert process.stop() == 0
        assert drained.status_code == 400  # the model still answers
        assert drained.headers["connection"] == "close"
        assert lines(process)[-1]["message"] == "left"


def test_a_thread_that_hangs_does_not_outlive_the_grace(tmp_path: Path) -> None:
    with echo_server(tmp_path / "log", "--drain-seconds", "0", "--grace-seconds", "0.2") as (process, url):
        assert httpx.post(f"{url}/hang").status_code == 200
        process.signal(signal.SIGTERM)

        assert process.process.wait(60) == 1
    assert lines(process)[-1]["message"] == "ending with work unfinished: drain and grace are over"
