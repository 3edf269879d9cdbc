"""`make bench-gateway`: what the gateway adds to a request, and what an engine adds to the start of a process.

The same requests go to a small server directly and through the gateway, turn by turn, in one run; server, gateway and
clients are processes of their own. Then the whole engine: from apply to Ready, and from zero to the first answer, with
a process that starts in a moment, whose own start is measured beside it. Rewrites the table between the markers in
benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from report import machine, spread, write_section

from whimbrel.core.sockets import listening_socket
from whimbrel.local.control.names import COMMAND
from whimbrel.local.engine import Engine
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.listener import Listener
from whimbrel.local.ingress.replicas import Replicas
from whimbrel.local.ingress.routes import Route, Routes, Share
from whimbrel.local.processes import Address
from whimbrel.local.settings import EngineSettings

ROUNDS = 5
ONE_AFTER_ANOTHER = 600
AT_ONCE, SECONDS = 16, 2.0
STARTS = 10
HOST = "one.default.localhost"
BEGIN, END = "<!-- gateway: written by `make bench-gateway` -->", "<!-- /gateway -->"
REQUEST = (
    b"POST /v2/models/one/infer HTTP/1.1\r\nhost: %b\r\ncontent-length: 1024\r\n\r\n" % HOST.encode() + b"x" * 1024
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n" + b"y" * 1024

# Answers any request of 1 KiB; with the standard library alone, so that it starts in a moment.
SERVER = """
import asyncio, sys
ANSWER = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: 1024\\r\\n\\r\\n" + b"y" * 1024
class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.left = transport, b""
    def data_received(self, data):
        self.left += data
        while b"\\r\\n\\r\\n" in self.left:
            head, _, rest = self.left.partition(b"\\r\\n\\r\\n")
            length = 1024 if b"content-length: 1024" in head.lower() else 0
            if len(rest) < length:
                return
            self.left = rest[length:]
            self.transport.write(ANSWER)
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass
class Figures:
    direct_ms: list[float] = field(default_factory=list)
    through_ms: list[float] = field(default_factory=list)
    direct_p50: list[float] = field(default_factory=list)
    added_p50: list[float] = field(default_factory=list)
    added_p99: list[float] = field(default_factory=list)
    direct_rate: list[float] = field(default_factory=list)
    through_rate: list[float] = field(default_factory=list)
    ready_seconds: list[float] = field(default_factory=list)
    own_start_ms: list[float] = field(default_factory=list)
    from_zero_ms: list[float] = field(default_factory=list)


def free_port() -> int:
    with listening_socket("127.0.0.1", 0) as found:
        return int(found.getsockname()[1])


async def until_it_listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.002)
        else:
            writer.close()
            return


@asynccontextmanager
async def a_process(*command: str, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        await until_it_listens(port)
        yield
    finally:
        process.kill()
        await process.wait()


async def serve_gateway(port: int, behind: int) -> None:
    replicas, routes = Replicas("one-00001"), Routes()
    replicas.add("one", Address(behind))
    routes.replace({HOST: Route("one", (Share(100, replicas),), 60)}, {})
    await Listener(Gate(routes, 45, 1024), listening_socket("127.0.0.1", port)).start()
    await asyncio.Event().wait()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    await reader.readexactly(1024)


async def one_after_another(port: int) -> list[float]:
    """Milliseconds of each request on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for _ in range(ONE_AFTER_ANOTHER):
        begun = time.perf_counter()
        await ask(reader, writer)
        found.append(1000 * (time.perf_counter() - begun))
    writer.close()
    return found[ONE_AFTER_ANOTHER // 10 :]


async def many_at_once(port: int) -> float:
    """Requests a second on many connections."""
    count, end = 0, time.perf_counter() + SECONDS

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            await ask(reader, writer)
            count += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / SECONDS


async def measure_gateway(figures: Figures) -> None:
    behind, front = free_port(), free_port()
    own = __file__
    async with a_process("-c", SERVER, str(behind), port=behind), a_process(own, str(front), str(behind), port=front):
        for _ in range(ROUNDS):
            direct, through = sorted(await one_after_another(behind)), sorted(await one_after_another(front))
            figures.direct_p50.append(statistics.median(direct))
            figures.added_p50.append(statistics.median(through) - statistics.median(direct))
            figures.added_p99.append(through[int(0.99 * len(through))] - direct[int(0.99 * len(direct))])
            figures.direct_rate.append(await many_at_once(behind))
            figures.through_rate.append(await many_at_once(front))


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


def inference_service(name: str) -> dict[str, object]:
    container = {
        "name": "kserve-container",
        "image": "whimbrel/predictors",
        "args": [f"--model-name={name}", "--model-uri=null:10"],
        "readinessProbe": {"httpGet": {"path": f"/v2/models/{name}/ready", "port": 8080}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"containers": [container]}},
    }


def sleeper(script: Path) -> dict[str, object]:
    annotations = {
        COMMAND: f"{sys.executable} -I -S {script} '$(PORT)'",
        "autoscaling.knative.dev/window": "1s",
    }
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "a/server"}]}}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "sleeper"},
        "spec": {"template": template},
    }


async def measure_engine(figures: Figures) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "server.py"
        await asyncio.to_thread(script.write_text, SERVER.replace("sys.argv[1]", "sys.argv[-1]"))
        async with Engine(EngineSettings(state=Path(folder) / "state")) as engine:
            await engine.wait_registry()
            for number in range(3):
                await engine.apply([inference_service(f"birds-{number}")])
                figures.ready_seconds.append(await timed(lambda: engine.wait_ready(120)))
            await engine.apply([sleeper(script)])
            await engine.wait_ready(120)
            async with httpx.AsyncClient(base_url=engine.status()["endpoints"]["gateway"], timeout=60) as client:
                for _ in range(STARTS):
                    await until_at_zero(engine)
                    figures.own_start_ms.append(1000 * await own_start(script))
                    host = {"host": "sleeper.default.localhost"}
                    figures.from_zero_ms.append(1000 * await timed(lambda: client.get("/", headers=host)))  # noqa: B023


async def until_at_zero(engine: Engine) -> None:
    while any(each["name"] == "sleeper" and each["replicas"] for each in engine.status()["components"]):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)  # its process is still ending


async def own_start(script: Path) -> float:
    """The process alone, from its start to its first answer."""
    port = free_port()
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-I", "-S", str(script), str(port)])  # noqa: ASYNC220 - it takes no time that counts elsewhere
    await until_it_listens(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await ask(reader, writer)
    taken = time.perf_counter() - begun
    writer.close()
    process.kill()
    process.wait()
    return taken


def report(figures: Figures) -> str:
    ratio = [through / direct for through, direct in zip(figures.through_rate, figures.direct_rate, strict=True)]
    added = [zero - own for zero, own in zip(figures.from_zero_ms, figures.own_start_ms, strict=True)]
    rows = [
        ("directly, one after another, p50", f"{spread(figures.direct_p50, 2)} ms"),
        ("added by the gateway, p50", f"{spread(figures.added_p50, 2)} ms"),
        ("added by the gateway, p99", f"{spread(figures.added_p99, 2)} ms"),
        (f"directly, {AT_ONCE} at once", f"{spread(figures.direct_rate)} requests/s"),
        (f"through the gateway, {AT_ONCE} at once", f"{spread(figures.through_rate)} requests/s"),
        ("through / directly", spread(ratio, 2)),
        ("apply to Ready, an InferenceService of the null model", f"{spread(figures.ready_seconds, 2)} s"),
        ("a process's own start to its first answer", f"{spread(figures.own_start_ms)} ms"),
        ("from zero to the answer, beyond that", f"{spread(added)} ms"),
    ]
    table = ["| What | Seen |", "|---|---|", *(f"| {what} | {seen} |" for what, seen in rows)]
    about = f"Requests and answers of 1 KiB; {ROUNDS} rounds, {STARTS} starts; median (least to most)."
    return "\n".join([f"{machine('httptools')} {about}", "", *table])


async def main() -> None:
    figures = Figures()
    await measure_gateway(figures)
    await measure_engine(figures)
    text = report(figures)
    print(text)
    print(json.dumps(figures.__dict__))
    write_section(BEGIN, END, text)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(serve_gateway(int(sys.argv[1]), int(sys.argv[2])))
    else:
        asyncio.run(main())
