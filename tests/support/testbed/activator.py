"""A port that stays open while the process behind it is killed and starts again, as Knative's activator's does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer


@contextmanager
def activator(backend: int) -> Iterator[int]:
    """A port whose connections go to port `backend`, each as soon as that accepts."""
    closing = threading.Event()

    class Connection(BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), _connected(backend, closing) as behind:
                front: socket.socket = self.request
                answering = threading.Thread(target=_pump, args=(behind, front), daemon=True)
                answering.start()
                _pump(front, behind)
                answering.join()

    with _Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            closing.set()
            server.shutdown()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256


def _connected(port: int, closing: threading.Event) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if closing.is_set():
                raise
            time.sleep(0.02)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Until either end closes; then both do."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
