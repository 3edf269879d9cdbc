"""A moved challenger starts its rollout, once: a real registry with its webhooks, an API server, controllers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from testbed.kubernetes_api import KubernetesApi, kubernetes_api
from testbed.processes import Running, running
from testbed.stores import Store
from whimbrel.cli.app import app
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.package import WEIGHTS, write_manifest
from whimbrel.core.references import ObjectRef
from whimbrel.kube.client import Client, Object, client
from whimbrel.local.state import free_port
from whimbrel.mlflow.register import register
from whimbrel.mlflow.registry_view import list_aliases, set_alias
from whimbrel.mlflow.rollout.challengers import Challengers
from whimbrel.mlflow.rollout.known_objects import KnownObject, dump_known_objects
from whimbrel.mlflow.rollout.resource import Spec, new
from whimbrel.mlflow.rollout.webhook import signature

BUCKET, SECRET = "challengers", "a secret of the tests, in a file"
ROLLOUTS = "/apis/rollout.whimbrel.dev/v1/namespaces/default/modelrollouts"
PATIENCE = 90.0  # seconds, on a machine with other work
ABSENT = "absent"  # a model that the registry does not have: each first look says so


@dataclass
class World:
    """Each test has a model of its own, whose first version is champion."""

    api: KubernetesApi
    store: Store
    registry: str
    folder: Path

    def model(self, name: str, *versions: int) -> Path:
        """Registered; the file with its templates."""
        s3 = self.store.s3()
        made = [register(_package(self.folder, name, number), name, self.registry, s3) for number in versions]
        set_alias(self.registry, name, "champion", "1")
        current = PointedVersion(version="1", uri=made[0].uri, digest=made[0].digest)
        PointerStore(s3, ObjectRef(BUCKET, f"{name}/pointer.json")).write(Pointer(current=current), None)
        known = dump_known_objects([KnownObject(uri=f"s3://{BUCKET}/1.png", label="gull")])
        s3.put_object(Bucket=BUCKET, Key="known.jsonl", Body=known)
        fields = {
            "inferenceService": name,
            "pointer": f"s3://{BUCKET}/{name}/pointer.json",
            "knownObjects": f"s3://{BUCKET}/known.jsonl",
            "evidence": f"s3://{BUCKET}/evidence",
        }
        templates = self.folder / f"{name}.yaml"
        templates.write_text(yaml.safe_dump({"models": {name: fields, ABSENT: fields}}, sort_keys=False))
        return templates

    @contextmanager
    def controller(self, templates: Path, *arguments: str) -> Iterator[Running]:
        """Ready when it has looked once."""
        log = templates.with_suffix(f".{free_port()}.log")
        settings = {**self.store.settings_environment, "KUBECONFIG": str(self.api.kubeconfig)}
        given = (f"--rollout-templates={templates}", f"--mlflow-tracking-uri={self.registry}", "--poll-seconds=0.1")
        with running("whimbrel.mlflow", "rollouts", *given, *arguments, log=log, **settings) as process:
            process.wait_until(lambda: f"no name '{ABSENT}'" in process.output(), "the first look", PATIENCE)
            yield process

    def whimbrel(self, *arguments: str) -> Result:
        settings = {**self.store.settings_environment, "WHIMBREL_MLFLOW_TRACKING_URI": self.registry}
        return CliRunner(env=settings).invoke(app, arguments)

    def rollouts(self, model: str) -> dict[str, dict[str, Any]]:
        with self.api.client() as api:
            answer = api.get(ROLLOUTS)
            answer.raise_for_status()
            found = answer.json()["items"]
        return {each["metadata"]["name"]: each for each in found if each["spec"]["model"] == model}

    def abort(self, name: str) -> None:
        with self.api.client(**{"content-type": "application/merge-patch+json"}) as api:
            api.patch(f"{ROLLOUTS}/{name}", json={"spec": {"decision": "Abort"}}).raise_for_status()

    def promoting(self, name: str) -> None:
        with self.api.client(**{"content-type": "application/merge-patch+json"}) as api:
            api.patch(f"{ROLLOUTS}/{name}/status", json={"status": {"phase": "Promoting"}}).raise_for_status()

    def forget(self, name: str) -> None:
        with self.api.client() as api:
            api.delete(f"{ROLLOUTS}/{name}").raise_for_status()

    def look(self, templates: Path, *kinds: type[Client], registry: str = "") -> None:
        """By as many new controllers as there are `kinds`, at once."""

        async def look_together() -> None:
            async with client(str(self.api.kubeconfig)) as cluster:
                await asyncio.gather(*(one.look() for one in self.each(templates, kinds, cluster, registry)))

        asyncio.run(look_together())

    def each(
        self, templates: Path, kinds: tuple[type[Client], ...], cluster: Client, registry: str = ""
    ) -> list[Challengers]:
        places: dict[str, Any] = {"registry": registry or self.registry, "templates": templates, "poll_seconds": 3600}
        s3 = self.store.s3()
        return [Challengers(kind(cluster.connection), s3, "default", **places) for kind in kinds]


def _package(folder: Path, name: str, number: int) -> Any:
    package = folder / f"{name}-{number}"
    package.mkdir()
    (package / WEIGHTS).write_bytes(f"weights {number} of {name}".encode())
    fields = {
        "task": "classification",
        "architecture": "torchvision:resnet18",
        "preset": {"height": 8, "width": 8},
        "labels": ["gull", "tern"],
        "torch_version": "2.15.0",
    }
    return write_manifest(package, fields, [WEIGHTS])


@pytest.fixture(scope="module")
def world(store: Store, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("challengers")
    store.s3().create_bucket(Bucket=BUCKET)
    with kubernetes_api(folder / "api") as api:
        yield World(api, store, tracking_uri, folder)


def phase(rollouts: dict[str, dict[str, Any]], name: str) -> str:
    return str(rollouts.get(name, {}).get("status", {}).get("phase", ""))


def test_a_webhook_starts_the_challenger_and_the_next_one_supersedes_it(world: World) -> None:
    """The poll comes once an hour: what happens sooner, the registry's own webhook did."""
    templates, port = world.model("announced", 1, 2, 3), free_port()
    secret = world.folder / "secret"
    secret.write_text(f"{SECRET}\n")
    url, hook = f"http://127.0.0.1:{port}/webhooks/mlflow", ("--name", "announced")
    create = ("model", "webhook", "create", url, "--secret-file", str(secret), *hook)
    for _ in range(2):
        assert url in world.whimbrel(*create).stdout
    listed = json.loads(world.whimbrel("model", "webhook", "ls", "-o", "json").stdout)
    assert [(each["url"], each["events"]) for each in listed] == [(url, ["model_version_alias.created"])]
    receiving = (f"--webhook-port={port}", f"--webhook-secret-file={secret}", "--alias-poll-seconds=3600")
    with world.controller(templates, *receiving) as controller:
        assert world.whimbrel("model", "webhook", "try", *hook).stdout.startswith("announced  status 200")
        set_alias(world.registry, "announced", "challenger", "2")
        controller.wait_until(
            lambda: "announced-2" in world.rollouts("announced"), "the rollout of version 2", PATIENCE
        )
        assert "announced: challenger of announced at version 2" in controller.output()
        set_alias(world.registry, "announced", "challenger", "3")
        controller.wait_until(
            lambda: "announced-3" in world.rollouts("announced"), "the rollout of version 3", PATIENCE
        )
        found = world.rollouts("announced")
        assert phase(found, "announced-2") == "RolledBack"
        assert "superseded by another challenger" in found["announced-2"]["status"]["message"]
        assert list_aliases(world.registry, "announced") == {"champion": "1", "challenger": "3"}
        assert found["announced-3"]["spec"]["champion"]["version"] == "1"
        assert "promotion" in found["announced-3"]["spec"]["policy"]
        _refusals(url)
        assert SECRET not in controller.output()
    assert world.whimbrel("model", "webhook", "try", *hook).exit_code == 1
    assert world.whimbrel("model", "webhook", "delete", *hook).exit_code == 0
    assert json.loads(world.whimbrel("model", "webhook", "ls", "-o", "json").stdout) == []


def _refusals(url: str) -> None:
    """Of what is no webhook of this registry, each with its reason in one line."""
    body, now = b'{"entity": "registered_model", "action": "created"}', int(time.time())

    def post(secret: str, sent: int, delivery: str = "d1", content: bytes = body) -> httpx.Response:
        headers = {"x-mlflow-delivery-id": delivery, "x-mlflow-timestamp": str(sent)}
        headers |= {"x-mlflow-signature": signature(secret.encode(), delivery, str(sent), content)}
        return httpx.post(url, content=content, headers=headers, timeout=10)

    assert post("a forged secret", now).status_code == 401
    assert post(SECRET, now).json() == {"announced": False}
    replayed, late = post(SECRET, now), post(SECRET, now - 600, "d2")
    assert (replayed.status_code, replayed.json()["reason"]) == (409, "ReceivedBefore")
    assert (late.status_code, "sent within 300 s" in late.json()["error"]) == (401, True)
    assert post(SECRET, now, "d3", bytes(100_000)).status_code == 413
    assert httpx.post(url, content=body, timeout=10).status_code == 400
    assert httpx.get(url, timeout=10).status_code == 405
    assert httpx.get(url + "/more", timeout=10).status_code == 404


def test_a_lost_webhook_is_made_good_by_the_poll(world: World) -> None:
    """No receiver at all: the alias is found where it points."""
    templates = world.model("polled", 1, 2)
    with world.controller(templates, "--alias-poll-seconds=0.2") as controller:
        set_alias(world.registry, "polled", "challenger", "2")
        controller.wait_until(lambda: "polled-2" in world.rollouts("polled"), "the rollout", PATIENCE)
        world.abort("polled-2")
        controller.wait_until(lambda: phase(world.rollouts("polled"), "polled-2") == "RolledBack", "its end", PATIENCE)
    world.look(templates, Client)
    assert world.rollouts("polled").keys() == {"polled-2"}  # it had its turn


def test_what_the_registry_has_no_more_keeps_no_rollout_from_its_end(world: World) -> None:
    templates = world.model("gone", 1)
    pointed = [PointedVersion(version=n, uri=f"s3://{BUCKET}/{n}", digest=f"sha256:{n * 64}") for n in ("1", "9")]
    place = ObjectRef(BUCKET, "gone/pointer.json")
    given = {
        "model": "gone",
        "inferenceService": "gone",
        "champion": pointed[0],
        "candidate": pointed[1],
        "pointer": place.uri,
        "evidence": f"s3://{BUCKET}/evidence",
        "policy": {"backtest": None, "steps": [], "gates": {}, "shadowsPerSecond": 0},
    }
    with world.controller(templates) as controller, world.api.client() as api:
        api.post(ROLLOUTS, json=new("default", "gone-9", Spec.model_validate(given))).raise_for_status()
        controller.wait_until(lambda: phase(world.rollouts("gone"), "gone-9") == "Promoted", "the end", PATIENCE)
    status = world.rollouts("gone")["gone-9"]["status"]
    assert "; the alias champion stays where it was: " in status["message"]
    assert list_aliases(world.registry, "gone") == {"champion": "1"}


class Meeting(Client):
    """Creates when the other one creates as well: both have seen that there is no rollout."""

    waiting: list[asyncio.Event]

    async def create(self, found: Any) -> Object:
        event = asyncio.Event()
        self.waiting.append(event)
        if len(self.waiting) == 2:
            for each in self.waiting:
                each.set()
        await asyncio.wait_for(event.wait(), PATIENCE)
        return await super().create(found)


class Late(Client):
    """Patches when the rollout that was listed has gone on."""

    world: World

    async def patch(self, kind: Any, name: str, *given: Any, **more: Any) -> Object:
        await asyncio.to_thread(self.world.promoting, name)
        return await super().patch(kind, name, *given, **more)


def test_one_whose_traffic_has_gone_on_its_way_meanwhile_is_not_superseded(world: World) -> None:
    templates = world.model("late", 1, 2, 3)
    set_alias(world.registry, "late", "challenger", "2")
    world.look(templates, Client)
    set_alias(world.registry, "late", "challenger", "3")
    Late.world = world
    world.look(templates, Late)
    (found,) = world.rollouts("late").values()
    assert (found["status"]["phase"], found["spec"].get("decision")) == ("Promoting", None)


class Killed(BaseException):
    pass


class Killing(Client):
    async def create(self, found: Any) -> Object:
        await super().create(found)
        raise Killed


def test_two_at_once_and_one_that_is_killed_after_creating_make_one_rollout(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    templates = world.model("once", 1, 2)
    set_alias(world.registry, "once", "challenger", "2")
    Meeting.waiting = []
    world.look(templates, Meeting, Meeting)
    assert len(Meeting.waiting) == 2
    assert world.rollouts("once").keys() == {"once-2"}
    world.forget("once-2")
    with pytest.raises(Killed):
        world.look(templates, Killing)
    world.look(templates, Client)
    assert world.rollouts("once").keys() == {"once-2"}
    assert "unexpected" not in caplog.text


def test_the_champion_itself_no_challenger_and_no_champion_start_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    templates = world.model("nothing", 1, 2)
    world.look(templates, Client)
    set_alias(world.registry, "nothing", "challenger", "1")
    world.look(templates, Client)
    assert "expected a champion" not in caplog.text
    set_alias(world.registry, "nothing", "challenger", "2")
    document = {"name": "nothing", "alias": "champion"}
    url = f"{world.registry}/api/2.0/mlflow/registered-models/alias"
    httpx.request("DELETE", url, json=document, timeout=30).raise_for_status()
    world.look(templates, Client)
    assert "expected a champion of 'nothing'" in caplog.text
    assert world.rollouts("nothing") == {}


@asynccontextmanager
async def relay(port: int, target: str) -> AsyncIterator[None]:
    """What connects to `port` reaches `target` for as long as this is entered."""
    parts = urlsplit(target)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        yield


def test_a_registry_that_is_away_is_told_once_and_followed_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    templates, port = world.model("away", 1, 2), free_port()
    set_alias(world.registry, "away", "challenger", "2")

    async def look_before_and_after() -> None:
        async with client(str(world.api.kubeconfig)) as cluster:
            (challengers,) = world.each(templates, (Client,), cluster, f"http://127.0.0.1:{port}")
            for _ in range(3):
                await challengers.look()
            async with relay(port, world.registry):
                await challengers.look()

    with caplog.at_level("INFO"):
        asyncio.run(look_before_and_after())
    told = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert len([each for each in told if not each.startswith("no longer")]) == 2  # of each model
    assert len(told) == 4 - 1  # the absent model has another trouble now
    assert world.rollouts("away").keys() == {"away-2"}
