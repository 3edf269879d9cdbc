"""Every process of ours on one store, each on a port that stays the same through its kills."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.processes import Running, answers, environment
from testbed.storm.faults import FaultyProxy, faulty_proxies
from testbed.storm.lanes import Lane
from whimbrel.local.state import free_port

_START_SECONDS = 120.0
_SINKS = ("results", "dead-letters")
# As in manifests/overlays/local, but with a shorter timeout: a sink that hangs is tried again sooner.
_DELIVERY = {"retry": 10, "backoffPolicy": "exponential", "backoffDelay": "PT0.2S", "timeout": "PT10S"}
_TRIGGERS: Mapping[str, tuple[dict[str, Any], str]] = {
    "objects": ({"prefix": {"type": "com.amazonaws.s3.ObjectCreated:"}}, "digits-transformer"),
    "predictions": ({"exact": {"type": "dev.whimbrel.prediction.v1"}}, "results"),
    "gone": ({"exact": {"type": "dev.whimbrel.gone.v1"}}, "results"),
    "unreadable": ({"exact": {"type": "dev.whimbrel.unreadable.v1"}}, "dead-letters"),
}


@dataclass(frozen=True)
class Crew:
    """`members` are the processes by name, `doors` the proxies before the broker and before both sinks."""

    members: Mapping[str, Running]
    health: Mapping[str, str]
    doors: Mapping[str, FaultyProxy]

    def kill_and_restart(self, name: str) -> None:
        self.members[name].kill_and_restart()

    def wait_ready(self) -> None:
        for name, member in self.members.items():
            url = self.health[name]
            member.wait_until(lambda: answers(url), "readiness", _START_SECONDS)  # noqa: B023

    def said(self, name: str, text: str) -> int:
        """How many lines of a member's log hold a text; the log goes on through its kills."""
        with self.members[name].log.open(errors="replace") as lines:
            return sum(text in line for line in lines)


@contextmanager
def crew(folder: Path, lane: Lane, *, seed: int, hang_seconds: float) -> Iterator[Crew]:
    """All of them, ready; they end by their own ids."""
    ports = {name: free_port() for name in ("digits-predictor", "digits-transformer", "broker", *_SINKS, *lane.sources)}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    behind_doors = {name: urls[name] for name in ("broker", *_SINKS)}
    with faulty_proxies(behind_doors, seed=seed, hang_seconds=hang_seconds) as doors:
        subscribers = urls | {name: door.url for name, door in doors.items()}
        (folder / "broker.json").write_text(json.dumps(_brokers(subscribers)))
        commands = {name: _command(name, folder, lane, ports) for name in ports}
        sink = f"{doors['broker'].url}/default/default"
        settings = environment(**lane.settings, K_SINK=sink)
        members = {
            name: Running([sys.executable, "-m", *command], settings, folder / f"{name}.log")
            for name, command in commands.items()
        }
        models = ("digits-predictor", "digits-transformer")
        health = {name: f"{url}{'/v2/health/ready' if name in models else '/healthz'}" for name, url in urls.items()}
        made = Crew(members, health, doors)
        try:
            made.wait_ready()
            yield made
        finally:
            for member in members.values():
                member.stop(2)


def _command(name: str, folder: Path, lane: Lane, ports: Mapping[str, int]) -> list[str]:
    listening = ["--http-port", str(ports[name])]
    if name == "digits-predictor":
        model = ["--model-name", "digits", "--model-uri", "null:10", "--grpc-port", "0"]
        return ["whimbrel.predictors", *model, *listening]
    if name == "digits-transformer":
        predictor = ["--predictor-host", f"127.0.0.1:{ports['digits-predictor']}"]
        return ["whimbrel.transformers", "--model-name", "digits", *predictor, *listening]
    if name == "broker":
        return ["whimbrel.local.broker", "--config", str(folder / "broker.json"), *listening]
    if name in _SINKS:
        return ["whimbrel.eventing", "sink", name, *listening]
    return ["whimbrel.eventing", "source", *lane.sources[name], *listening]


def _brokers(urls: Mapping[str, str]) -> dict[str, Any]:
    delivery = {**_DELIVERY, "deadLetterSink": {"uri": f"{urls['dead-letters']}/"}}
    paths = {"digits-transformer": "/events", "results": "/", "dead-letters": "/"}
    return {
        "brokers": [{"namespace": "default", "name": "default", "delivery": delivery}],
        "triggers": [
            {
                "namespace": "default",
                "name": name,
                "broker": "default",
                "filters": [wanted],
                "subscriber": {"uri": urls[to] + paths[to]},
            }
            for name, (wanted, to) in _TRIGGERS.items()
        ],
    }
