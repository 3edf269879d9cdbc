"""`python -m whimbrel.local.api --state DIR [--api-port N]`: the API alone, for tests; nothing runs what is applied."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from whimbrel.core import logs
from whimbrel.core.errors import SettingsError
from whimbrel.core.process_end import run_program
from whimbrel.core.settings import load
from whimbrel.core.sockets import listening_socket
from whimbrel.local.api.server import ApiServer, open_storage
from whimbrel.local.api.settings import ApiSettings
from whimbrel.local.state import locked

logger = logging.getLogger("whimbrel.local.api")


async def _run(settings: ApiSettings) -> None:
    storage = open_storage(settings.state)
    try:
        listening = listening_socket("127.0.0.1", settings.api_port)
    except OSError as error:
        raise SettingsError(
            f"expected port {settings.api_port} of 127.0.0.1 to be free (--api-port): {error.strerror}"
        ) from None
    server = ApiServer(storage, settings, listening)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    logger.info("listening", extra={"url": server.url, "kubeconfig": str(server.kubeconfig)})
    await stop.wait()
    await server.stop()
    storage.close()


def main() -> int:
    try:
        settings = load(ApiSettings, sys.argv[1:], program="python -m whimbrel.local.api")
        logs.configure("api", settings.log_level)
        with locked(settings.state):
            asyncio.run(_run(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    run_program(main)
