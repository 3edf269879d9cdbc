"""One source as a process: waits for its queue, runs the loop until SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from whimbrel.eventing import serving
from whimbrel.eventing.delivery import Delivery, http_client
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.source import Source
from whimbrel.eventing.upstream import Pushed, Upstream


def run(settings: DeliverySettings, upstream: Upstream) -> None:
    """Raises Unavailable when the upstream does not come within `startup_wait_seconds`."""

    async def work(stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        try:
            wait = settings.startup_wait_seconds
            if await serving.until_present(upstream.open, f"upstream {upstream.uri}", wait, stopping):
                ready()
                await deliver_all(settings, upstream, stopping)
        finally:
            await upstream.close()

    serving.run(settings, upstream.routes if isinstance(upstream, Pushed) else [], work)


async def deliver_all(settings: DeliverySettings, upstream: Upstream, stopping: asyncio.Event) -> None:
    """Run the loop between an upstream that is open and the sinks of the settings, until the stop."""
    async with http_client() as client:
        label = f"{upstream.name}-dead-letters"
        source = Source(
            upstream,
            Delivery(client, settings.sink, settings, upstream.name, stopping),
            Delivery(client, settings.dead_letter_sink or settings.sink, settings, label, stopping),
            settings,
            stopping=stopping,
        )
        await source.run()
