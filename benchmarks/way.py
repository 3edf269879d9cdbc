"""`make bench`: the whole way of an image against decode and model alone, and against the embedded store's ceiling.

All of it in one run: the machines are noisy, so the ratios are what counts. Rewrites the table between the markers in
benchmarks/README.md, with the machine that it ran on.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from report import machine, spread, write_section

from whimbrel.cli import one_machine
from whimbrel.cli.accounting import Account, Upload, account
from whimbrel.cli.console import progress_out
from whimbrel.cli.outcomes import count_outcomes, read_outcomes
from whimbrel.cli.put import put_object
from whimbrel.cli.up import DEFAULT_MANIFESTS, engine_settings
from whimbrel.core import logs
from whimbrel.core.s3 import s3_client, sqs_client
from whimbrel.core.settings import S3Settings
from whimbrel.mlflow.recipes.digits import DigitPicture, held_out

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

ROUNDS = 3
UPLOADS_AT_ONCE = 8
BEGIN, END = "<!-- way: written by `make bench` -->", "<!-- /way -->"


@dataclass(frozen=True)
class Figures:
    alone_one: list[float]  # images/s, one at a time
    alone_batch: list[float]  # images/s, model in batches of 32
    puts: list[float]  # notified puts/s
    receives: list[float]  # receives and deletes/s
    way: list[Account]
    memory: dict[str, float]  # resident MiB of each component


def measure() -> Figures:
    pictures = held_out()
    found: list[Figures] = []

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with one_machine.started(engine_settings(Path(folder), DEFAULT_MANIFESTS), quiet=True) as engine:
                status = engine.status()
                found.append(await asyncio.to_thread(_measure_all, pictures, status))

    one_machine.run_until_stopped(run())
    return found[0]


def _measure_all(pictures: Sequence[DigitPicture], status: dict[str, Any]) -> Figures:
    s3, sqs = _clients(status["environment"])
    progress_out.print("the whole way")
    way = [_way(s3, pictures, f"round-{number}/") for number in range(ROUNDS)]
    memory = {each["name"]: _resident_mib(each["pid"]) for each in status["components"]}
    progress_out.print("the store alone")
    ceiling = [_store_alone(s3, sqs, pictures, number) for number in range(ROUNDS)]
    progress_out.print("decode and model alone")
    one, batch = _alone(pictures, status["environment"])
    return Figures(one, batch, [puts for puts, _ in ceiling], [receives for _, receives in ceiling], way, memory)


def _way(s3: S3Client, pictures: Sequence[DigitPicture], prefix: str) -> Account:
    before = count_outcomes(s3, "photos", "results", "dead-letters")

    def put(picture: DigitPicture) -> Upload:
        key = f"{prefix}{picture.index:04d}.png"
        return Upload(key, picture.name, put_object(s3, "photos", key, picture.png).started)

    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
        uploads = list(threads.map(put, pictures))
    deadline = time.monotonic() + 120
    # Listing is the store's work too: look seldom.
    while count_outcomes(s3, "photos", "results", "dead-letters") < before + len(uploads):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    outcomes = read_outcomes(s3, "photos", "results", "dead-letters", prefix=prefix)
    settled = account(uploads, outcomes.results, outcomes.letters)
    assert settled.complete, f"not every object is accounted for: {settled}"
    return settled


def _store_alone(s3: S3Client, sqs: SQSClient, pictures: Sequence[DigitPicture], number: int) -> tuple[float, float]:
    """The same puts into a bucket whose queue nobody reads, then the queue read and emptied by one reader."""
    name = f"bench-{number}"
    s3.create_bucket(Bucket=name)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=name,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )

    def put_all() -> None:
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
            list(threads.map(lambda each: put_object(s3, name, f"{each.index}.png", each.png), pictures))

    def empty() -> None:
        left = len(pictures)
        while left > 0:
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
            entries: Any = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]} for index, message in enumerate(found)
            ]
            if entries:
                sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            left -= sum("Records" in message["Body"] for message in found)

    return len(pictures) / _seconds(put_all), len(pictures) / _seconds(empty)


def _alone(pictures: Sequence[DigitPicture], environment: dict[str, str]) -> tuple[list[float], list[float]]:
    """Decoding and the same model in this process: no network, no queue, no store."""
    import numpy as np
    import torch

    from whimbrel.core.package_transfer import fetch
    from whimbrel.core.registry import resolve
    from whimbrel.predictors.torch_network import load
    from whimbrel.transformers.decode import Limits, decode

    location = resolve("models:/digits@champion", environment["WHIMBREL_MLFLOW_TRACKING_URI"])
    with tempfile.TemporaryDirectory() as cache:
        package = fetch(location.uri, location.digest, Path(cache), _clients(environment)[0])
        network = load(package, torch.device("cpu"))
        preset, limits = package.manifest.preset, Limits()

        def one_at_a_time() -> None:
            for picture in pictures:
                network.infer(decode(picture.png, preset, limits)[None], 5)

        def in_batches() -> None:
            for start in range(0, len(pictures), 32):
                batch = [decode(picture.png, preset, limits) for picture in pictures[start : start + 32]]
                network.infer(np.stack(batch), 5)

        for warm_up in (one_at_a_time, in_batches):
            warm_up()
        one = [len(pictures) / _seconds(one_at_a_time) for _ in range(ROUNDS)]
        return one, [len(pictures) / _seconds(in_batches) for _ in range(ROUNDS)]


def _clients(environment: dict[str, str]) -> tuple[S3Client, SQSClient]:
    endpoint = environment["WHIMBREL_S3_ENDPOINT"]
    settings = S3Settings(s3_endpoint=endpoint)
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    return s3_client(settings, credentials=keys), sqs_client(settings, endpoint, credentials=keys)


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _resident_mib(pid: int) -> float:
    """Of a process and its children."""
    process = psutil.Process(pid)
    return float(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])) / 2**20


def report(figures: Figures) -> str:
    rates = [settled.rate for settled in figures.way]
    way = statistics.median(rates)
    alone = statistics.median(figures.alone_one)
    rows = [
        ("decode + model alone, one process, one at a time", spread(figures.alone_one), f"{way / alone:.3f}"),
        (
            "decode + model alone, one process, batches of 32",
            spread(figures.alone_batch),
            f"{way / statistics.median(figures.alone_batch):.3f}",
        ),
        ("embedded store alone: puts with a notification", spread(figures.puts), _ratio(way, figures.puts)),
        ("embedded store alone: receive + delete", spread(figures.receives), _ratio(way, figures.receives)),
        ("**the whole way, upload to recorded result**", spread(rates), "1"),
    ]
    p50, p95 = ([settled.percentile_ms(percent) for settled in figures.way] for percent in (50, 95))
    lines = [
        f"{machine('torch')} {figures.way[0].objects} pictures a round, {ROUNDS} rounds, "
        f"{UPLOADS_AT_ONCE} uploads at once; median (least to most).",
        "",
        "| What | images/s | the whole way, as a share of it |",
        "|---|---|---|",
        *(f"| {what} | {rate} | {share} |" for what, rate, share in rows),
        "",
        f"Upload to recorded result: p50 {spread(p50)} ms, p95 {spread(p95)} ms, while all of them come at once.",
        "",
        "| Process | resident memory, MiB |",
        "|---|---|",
        *(f"| {name} | {size:.0f} |" for name, size in figures.memory.items()),
        f"| together | {sum(figures.memory.values()):.0f} |",
    ]
    return "\n".join(lines)


def _ratio(rate: float, values: Sequence[float]) -> str:
    return f"{rate / statistics.median(values):.2f}"


def main() -> None:
    logs.configure("bench", "error")
    text = report(measure())
    write_section(BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
