"""`python -m whimbrel.local.store --folder DIR --http-port N`"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from time import monotonic

from whimbrel.core import logs
from whimbrel.core.errors import SettingsError
from whimbrel.core.process_end import run_program
from whimbrel.core.settings import load
from whimbrel.local.store.settings import StoreSettings

logger = logging.getLogger("whimbrel.local.store")

_STOP_POLL_SECONDS = 0.05


def main() -> int:
    try:
        settings = load(StoreSettings, sys.argv[1:], program="python -m whimbrel.local.store")
        logs.configure("store", settings.log_level)
        _serve(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _serve(settings: StoreSettings) -> None:
    # Late: moto reads its environment when it is imported, and takes a second.
    from whimbrel.local.store.application import Store
    from whimbrel.local.store.journal import Journal
    from whimbrel.local.store.server import Server

    started = monotonic()
    journal = Journal(settings.folder, max_bytes=settings.max_store_bytes)
    store = Store(journal, max_object_bytes=settings.max_object_bytes)
    found = store.replay()
    server = Server(settings.http_host, settings.http_port, store, max_connections=settings.max_connections)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, args=(_STOP_POLL_SECONDS,), name="accept", daemon=True)
    thread.start()
    logger.info(
        "listening",
        extra={
            "http_port": server.server_address[1],
            "buckets": found.buckets,
            "objects": found.objects,
            "queues": found.queues,
            "replay_seconds": round(monotonic() - started, 3),
        },
    )
    stop.wait()
    server.stop(settings.grace_seconds)
    journal.close()


if __name__ == "__main__":
    run_program(main)
