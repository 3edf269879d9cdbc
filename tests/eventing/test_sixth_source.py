"""The source that the page of this room shows as an example is one that works."""

from __future__ import annotations

import asyncio
import types
from pathlib import Path
from typing import Any

import pytest

from testbed.sinks import Reply, scripted_sink
from whimbrel.core.settings import load
from whimbrel.eventing.source_process import deliver_all

from .conftest import notification, record

PAGE = Path(__file__).parents[2] / "eventing" / "README.md"

pytestmark = pytest.mark.anyio


def example() -> Any:
    source = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    module = types.ModuleType("whimbrel.eventing.sources.folder")
    exec(compile(source, str(PAGE), "exec", dont_inherit=True), vars(module))  # noqa: S102 - a page of ours
    return module


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_example_delivers_each_file_and_keeps_what_fails(tmp_path: Path) -> None:
    module = example()
    for number in range(20):
        (tmp_path / f"{number:02}.json").write_text(notification(record(f"k{number % 7}", number)))
    (tmp_path / "bad.json").write_text(notification(record("bad")))
    quick = ["--backoff-seconds=0.01", "--backoff-max-seconds=0.02", "--delivery-attempts=2"]
    with scripted_sink(lambda event, attempt: Reply(500 if event.subject == "bad" else 202)) as sink:
        settings = load(module.SETTINGS, [f"--folder={tmp_path}", f"--sink={sink.url}", *quick], program="folder")
        upstream, stopping = module.UPSTREAM(settings), asyncio.Event()
        await upstream.open()
        running = asyncio.create_task(deliver_all(settings, upstream, stopping))
        async with asyncio.timeout(20):
            while len(left(tmp_path)) > 1 or len(sink.received) < 24:  # noqa: ASYNC110 - another thread's
                await asyncio.sleep(0.01)
        stopping.set()
        await running
    assert len(sink.accepted) == 20
    assert left(tmp_path) == ["bad.json"]
