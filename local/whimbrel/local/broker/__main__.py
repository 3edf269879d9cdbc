"""`python -m whimbrel.local.broker --http-port N --config FILE`"""

from __future__ import annotations

import asyncio
import signal
import sys

from whimbrel.core import logs, tracing
from whimbrel.core.asgi import serve
from whimbrel.core.errors import SettingsError
from whimbrel.core.process_end import run_program
from whimbrel.core.settings import load
from whimbrel.local.broker.app import Ingress
from whimbrel.local.broker.config import BrokerConfig, load_config
from whimbrel.local.broker.settings import BrokerSettings


async def _run(settings: BrokerSettings, config: BrokerConfig) -> None:
    ingress = Ingress(settings, config)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ingress.reload)
    await serve(ingress.application(), settings, grace_seconds=settings.grace_seconds)


def main() -> int:
    try:
        settings = load(BrokerSettings, sys.argv[1:], program="python -m whimbrel.local.broker")
        config = load_config(settings.config)
        logs.configure("broker", settings.log_level)
        tracing.configure("broker")
        asyncio.run(_run(settings, config))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    run_program(main)
