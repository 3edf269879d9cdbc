"""`make bench-sources-rgw`: the pull mode of a real Ceph, a thousand events at a time while more and more wait.

Filling the subscription is what takes long: each event is an object that was put, and the gateways and the OSD share
the machine with the source.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from null_sink import null_sink
from report import machine, spread, write_section
from sources import IN_FLIGHT, Measured, source

from testbed.ceph import ceph_cluster
from testbed.ceph_pull import PulledBucket, pulled_bucket
from whimbrel.eventing.rgw.pubsub import MAX_PAGE, PubSub
from whimbrel.eventing.sources.rgw_pubsub import RgwPubsubSourceSettings, RgwPubsubUpstream

BEGIN, END = "<!-- sources-rgw: written by `make bench-sources-rgw` -->", "<!-- /sources-rgw -->"
TAKEN = 1_000
PUTS_AT_ONCE = 16
STALLED_SECONDS = 60.0  # without a new event: the zone missed the word of a put


def fill(bucket: PulledBucket, numbers: range) -> None:
    client = bucket.ceph.s3()

    def put(number: int) -> None:
        client.put_object(Bucket=bucket.bucket, Key=f"in/{number:08}.jpg", Body=b"x")

    with ThreadPoolExecutor(PUTS_AT_ONCE) as threads:
        list(threads.map(put, numbers))


def waiting(bucket: PulledBucket) -> int:
    """Events in the subscription, counted page by page."""

    async def count(pubsub: PubSub) -> int:
        seen, marker = 0, None
        while True:
            page = await pubsub.events(bucket.subscription, marker=marker, most=MAX_PAGE)
            seen += len(page.events)
            marker = page.next_marker
            if marker is None:
                return seen

    return bucket.ask(count)


def await_events(bucket: PulledBucket, wanted: int) -> int:
    """How many wait, once it is as many as wanted, or no more of them come."""
    seen, changed = 0, time.monotonic()
    while seen < wanted and time.monotonic() - changed < STALLED_SECONDS:
        if (now := waiting(bucket)) != seen:
            seen, changed = now, time.monotonic()
        else:
            time.sleep(1)
    return seen


def take(bucket: PulledBucket, sink: str) -> Measured:
    settings = RgwPubsubSourceSettings(
        sink=sink,
        max_in_flight=IN_FLIGHT,
        rgw_pubsub_endpoint=bucket.ceph.pubsub_endpoint,
        rgw_subscription=bucket.subscription,
    )
    return asyncio.run(source(RgwPubsubUpstream(settings), settings, TAKEN))


def table(bucket: PulledBucket, sink: str, sizes: Sequence[int], rounds: int) -> list[str]:
    lines = ["| Queued on Ceph's gateway | events/s | own CPU, µs an event |", "|---|---|---|"]
    named, left = 0, waiting(bucket)
    for size in sizes:
        taken, found = [], []
        for _ in range(rounds):
            lacking = max(0, size - left)
            fill(bucket, range(named, named + lacking))
            named += lacking
            found.append(await_events(bucket, size))
            taken.append(take(bucket, sink))
            left = waiting(bucket)
        rates, costs = spread([each.rate for each in taken]), spread([each.cpu for each in taken])
        lines.append(f"| {spread(found)} | {rates} | {costs} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--print-only", action="store_true", help="leave benchmarks/README.md as it is")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ceph = stack.enter_context(ceph_cluster(folder))
        os.environ.update(ceph.credentials)
        bucket, sink = pulled_bucket(ceph), stack.enter_context(null_sink())
        lines = [f"{machine('aiohttp')} {given.rounds} rounds of {TAKEN:,} events, median (least to most)."]
        lines += ["", *table(bucket, sink, given.sizes, given.rounds)]
    print("\n".join(lines))
    if not given.print_only:
        write_section(BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
