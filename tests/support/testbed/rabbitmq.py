"""A RabbitMQ node of its own on loopback, in processes that are ended by their own ids."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aio_pika
import psutil
import pytest
from aio_pika.abc import AbstractChannel

from testbed.certificates import certificate_for_loopback
from testbed.processes import Running, wait_for
from whimbrel.local.state import free_port

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = "RabbitMQ is not installed: apt install rabbitmq-server"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RabbitMq:
    """`port` stays the same through `kill` and `start`; durable queues outlive both.

    `tls_port` speaks AMQP over TLS, with a certificate that `certificate` alone makes trusted.
    """

    port: int
    tls_port: int
    certificate: Path
    node: Running

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        return f"amqps://guest:guest@127.0.0.1:{self.tls_port}/"

    def make_queue(self, name: str, **arguments: Any) -> None:
        async def make(channel: AbstractChannel) -> None:
            await channel.declare_queue(name, durable=True, arguments=arguments)

        self.do(make)

    def delete_queue(self, name: str) -> None:
        async def delete(channel: AbstractChannel) -> None:
            await channel.queue_delete(name)

        self.do(delete)

    def publish(self, queue: str, bodies: Sequence[str | bytes]) -> None:
        """Persistent, and confirmed before it returns."""

        async def publish(channel: AbstractChannel) -> None:
            mode = aio_pika.DeliveryMode.PERSISTENT
            for start in range(0, len(bodies), 200):
                some = bodies[start : start + 200]
                encoded = [body.encode() if isinstance(body, str) else body for body in some]
                messages = [aio_pika.Message(body, delivery_mode=mode) for body in encoded]
                await asyncio.gather(*(channel.default_exchange.publish(message, queue) for message in messages))

        self.do(publish)

    def ready(self, queue: str) -> int:
        """How many messages wait; what a consumer holds is not among them."""

        async def count(channel: AbstractChannel) -> int:
            return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0

        return self.do(count)

    def do(self, work: Callable[[AbstractChannel], Awaitable[Answer]]) -> Answer:
        """Some work on a channel of its own."""

        async def main() -> Answer:
            async with await aio_pika.connect(self.url, timeout=10) as connection, connection.channel() as channel:
                return await work(channel)

        return asyncio.run(main())

    def kill(self) -> None:
        """SIGKILL the whole node."""
        for process in _tree(self.node.process.pid):
            process.kill()
        self.node.process.wait(60)
        wait_for(lambda: not self.answers(), "an end of the node")

    def start(self) -> None:
        self.node.start()
        self.wait()

    def wait(self) -> None:
        self.node.wait_until(self.answers, "RabbitMQ", 60)

    def answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        try:
            self.do(_nothing)
        except (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
            return False
        return True


@contextmanager
def rabbitmq_node(folder: Path) -> Iterator[RabbitMq]:
    """A node with its data in `folder`; the test is skipped where RabbitMQ is not installed."""
    if not SERVER.exists():
        pytest.skip(MISSING)
    port, tls_port, epmd_port = free_port(), free_port(), free_port()
    environment = _environment(folder, port, epmd_port)
    certificate = _configure_tls(folder, tls_port)
    node = RabbitMq(port, tls_port, certificate, Running([str(SERVER)], environment, folder / "rabbitmq.log"))
    try:
        node.wait()
        yield node
    finally:
        rest = _tree(node.node.process.pid) if node.node.process.poll() is None else []
        node.node.stop(30)
        for process in rest:
            if process.is_running():
                process.kill()
        psutil.wait_procs(rest, 10)
        subprocess.run(["epmd", "-port", str(epmd_port), "-kill"], env=environment, capture_output=True, check=False)


def _environment(folder: Path, port: int, epmd_port: int) -> dict[str, str]:
    for name in ("mnesia", "log", "home"):
        (folder / name).mkdir()
    (folder / "plugins").write_text("[].")
    (folder / "env").touch()
    loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{loopback} +S 1:1",
        "RABBITMQ_CTL_ERL_ARGS": loopback,
    }


def _configure_tls(folder: Path, port: int) -> Path:
    """The certificate that its clients have to trust."""
    certificate, key = certificate_for_loopback(folder)
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": certificate,
        "ssl_options.certfile": certificate,
        "ssl_options.keyfile": key,
    }
    (folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    return certificate


def _tree(pid: int) -> list[psutil.Process]:
    """The node's processes, without epmd, which has left them."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


async def _nothing(channel: AbstractChannel) -> None:
    """A channel that opens is an answer."""
