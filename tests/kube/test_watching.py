"""A watch goes on over everything that ends one: cuts, refusals, a history that is gone, a server that is killed."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster_api import write_kubeconfig
from testbed.kubernetes_api import kubernetes_api
from testbed.scripted_watch import Script, scripted_watch
from whimbrel.core.errors import Unavailable
from whimbrel.kube.client import Client, client
from whimbrel.kube.kinds import CONFIG_MAP
from whimbrel.kube.watching import changes

pytestmark = pytest.mark.anyio


def found(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or name, "resourceVersion": str(version)}}


def listed(version: int, *items: dict[str, Any]) -> tuple[str, Any]:
    return "list", {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def event(type_: str, document: dict[str, Any]) -> str:
    return json.dumps({"type": type_, "object": document}) + "\n"


async def seen(script: Script, count: int, folder: Path) -> tuple[list[tuple[str, str, str]], list[dict[str, str]]]:
    """The first `count` changes, as type, name and version; and what the server was asked."""
    with scripted_watch(script) as (url, scripted):
        async with client(write_kubeconfig(folder / "config", url)) as cluster, asyncio.timeout(30):
            changed = await first(cluster, count)
        return changed, scripted.asked


async def first(cluster: Client, count: int) -> list[tuple[str, str, str]]:
    collected = []
    async with aclosing(changes(cluster, CONFIG_MAP, "default")) as changed:
        async for each in changed:
            metadata = each.object["metadata"]
            collected.append((each.change.value, metadata["name"], metadata["resourceVersion"]))
            if len(collected) == count:
                break
    return collected


async def test_it_goes_on_where_a_cut_line_ended(tmp_path: Path) -> None:
    script = [
        listed(5, found("a", 3)),
        ("watch", event("MODIFIED", found("a", 6)) + event("ADDED", found("b", 7))[:20]),
        ("watch", event("ADDED", found("b", 7))),
    ]

    changed, asked = await seen(script, 3, tmp_path)

    assert changed == [("ADDED", "a", "3"), ("MODIFIED", "a", "6"), ("ADDED", "b", "7")]
    assert [each.get("resourceVersion") for each in asked] == [None, "5", "6"]


async def test_it_lists_again_when_the_history_is_gone(tmp_path: Path) -> None:
    gone = event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version: 5 (20)"})
    script = [
        listed(5, found("stays", 1), found("changes", 2), found("goes", 3), found("again", 4, "first")),
        ("watch", gone),
        listed(20, found("stays", 1), found("changes", 12), found("comes", 13), found("again", 14, "second")),
        ("watch", event("DELETED", found("comes", 21))),
    ]

    changed, asked = await seen(script, 10, tmp_path)

    assert changed[4:] == [
        ("DELETED", "goes", "3"),
        ("DELETED", "again", "4"),
        ("MODIFIED", "changes", "12"),
        ("ADDED", "comes", "13"),
        ("ADDED", "again", "14"),
        ("DELETED", "comes", "21"),
    ]
    assert [each.get("resourceVersion") for each in asked] == [None, "5", None, "20"]


async def test_what_went_between_a_reading_and_the_watch_is_told(tmp_path: Path) -> None:
    with scripted_watch([listed(9, found("stays", 4)), ("watch", "")]) as (url, _):
        async with client(write_kubeconfig(tmp_path / "config", url)) as cluster, asyncio.timeout(30):
            seen = [found("gone", 3), found("stays", 4)]
            changed = changes(cluster, CONFIG_MAP, "default", seen=seen)
            async with aclosing(changed):
                first_change = await anext(changed)

    assert (first_change.change, first_change.object["metadata"]["name"]) == ("DELETED", "gone")


async def test_a_refusal_with_410_is_the_same(tmp_path: Path) -> None:
    script = [listed(5, found("a", 1)), ("status", 410), listed(9, found("a", 8)), ("watch", "")]

    changed, _ = await seen(script, 2, tmp_path)

    assert changed == [("ADDED", "a", "1"), ("MODIFIED", "a", "8")]


async def test_bookmarks_move_the_place_and_are_no_changes(tmp_path: Path) -> None:
    bookmark = {"metadata": {"resourceVersion": "50"}}
    script = [listed(5), ("watch", event("BOOKMARK", bookmark)), ("watch", event("ADDED", found("a", 51)))]

    changed, asked = await seen(script, 1, tmp_path)

    assert changed == [("ADDED", "a", "51")]
    assert [each.get("resourceVersion") for each in asked] == [None, "5", "50"]


async def test_what_is_told_twice_is_seen_once(tmp_path: Path) -> None:
    added = event("ADDED", found("a", 6))
    script = [listed(5, found("a", 6)), ("watch", added + added + event("MODIFIED", found("a", 7)))]

    changed, _ = await seen(script, 2, tmp_path)

    assert changed == [("ADDED", "a", "6"), ("MODIFIED", "a", "7")]


async def test_a_server_that_stays_away_ends_it(tmp_path: Path) -> None:
    script = [listed(5, found("a", 1)), ("status", 503)]

    with scripted_watch(script) as (url, scripted):
        async with client(write_kubeconfig(tmp_path / "config", url)) as cluster, asyncio.timeout(30):
            with pytest.raises(Unavailable, match="expected to watch configmaps"):
                async for _ in changes(cluster, CONFIG_MAP, "default", patience_seconds=0.3):
                    pass

    assert len(scripted.asked) > 2, "it was tried again"


async def test_a_watch_outlives_the_server_that_is_killed(tmp_path: Path) -> None:
    """Nothing that happened before, between or after is left out."""
    with kubernetes_api(tmp_path / "state") as api:
        async with client(str(api.kubeconfig)) as cluster, asyncio.timeout(60):
            await cluster.apply(config_map("before"))
            collected = []
            async with aclosing(changes(cluster, CONFIG_MAP, "default")) as changed:
                async for each in changed:
                    collected.append((each.change.value, each.object["metadata"]["name"]))
                    if len(collected) == 1:
                        api.process.kill_and_restart()
                        await applied(cluster, config_map("between"))
                    elif len(collected) == 2:
                        await cluster.delete(CONFIG_MAP, "before", "default")
                    else:
                        break

    assert collected == [("ADDED", "before"), ("ADDED", "between"), ("DELETED", "before")]


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


async def applied(cluster: Client, document: dict[str, Any]) -> None:
    """As soon as the server is back."""
    while True:
        try:
            await cluster.apply(document)
            return
        except Unavailable:
            await asyncio.sleep(0.02)
