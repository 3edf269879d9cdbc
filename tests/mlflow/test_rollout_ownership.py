"""One rollout at a time has an InferenceService: controllers at any speed, each acting on what it saw some time ago."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whimbrel.mlflow.rollout.ownership import rivals_of
from whimbrel.mlflow.rollout.reconcile import Seen, Traffic, next_status, wanted
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec, Status, new, parse, status_document

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "b", "c")


def document(name: str, service: str = "digits", pointer: str = "s3://models/digits/pointer.json") -> dict[str, Any]:
    versions = [{"version": n, "uri": f"s3://models/{n}", "digest": f"sha256:{int(n):064x}"} for n in ("1", "2")]
    given = {
        "model": "digits",
        "inferenceService": service,
        "champion": versions[0],
        "candidate": versions[1],
        "pointer": pointer,
        "knownObjects": "s3://models/known.jsonl",
        "evidence": "s3://models/rollouts",
    }
    made = new("default", name, Spec.model_validate(given))
    made["metadata"] |= {"uid": f"uid-{name}", "resourceVersion": "1"}
    return made


@dataclass
class Server:
    """Keeps the rollouts, and takes a status only from who read what it replaces. `serving`: who has the traffic."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    now: datetime = START
    serving: str = "1"

    def listed(self) -> list[ModelRollout]:
        return [parse(copy.deepcopy(each)) for each in self.objects.values()]

    def write(self, read: ModelRollout, status: dict[str, Any]) -> None:
        found = self.objects[read.name]
        if found["metadata"]["resourceVersion"] == read.resource_version:
            found["metadata"]["resourceVersion"] = str(int(read.resource_version) + 1)
            found["status"] = status

    def owners(self) -> list[str]:
        begun = [each for each in self.listed() if each.status.phase is not Phase.PENDING and not each.ended]
        return [each.name for each in begun]

    def end(self, phase: Phase) -> None:
        for each in self.listed():
            if each.name in self.owners():
                self.serving = wanted(each.model_copy(update={"status": Status(phase=phase)})).current
                self.write(each, status_document(each.status.entered(phase, self.now, "ended")))

    def assert_one_owner(self, what: object) -> None:
        """Which began from the traffic as it was."""
        owners = self.owners()
        assert len(owners) <= (self.serving == "1"), (owners, self.serving, what)


@dataclass
class Controller:
    """Takes the rollouts in turn: reads one, then the others, then the traffic, then writes, and takes one that it
    claimed for again; may be overtaken between any two."""

    server: Server
    names: Iterator[str]
    rollout: ModelRollout | None = None
    rivals: tuple[ModelRollout, ...] | None = None
    traffic: Traffic | None = None
    claimed: str | None = None

    @property
    def is_to_look(self) -> bool:
        return self.rivals is not None and self.traffic is None

    def does_the_next(self) -> None:
        if self.rollout is None:
            name, self.claimed = self.claimed or next(self.names), None
            found = (each for each in self.server.listed() if each.name == name and each.status.phase is Phase.PENDING)
            self.rollout = next(found, None)
        elif self.rivals is None:
            self.rivals = rivals_of(self.rollout, self.server.listed())
        elif self.traffic is None:
            self.traffic = Traffic(self.server.serving)
        else:
            status = next_status(self.rollout, Seen(self.server.now, self.traffic, rivals=self.rivals))
            self.server.write(self.rollout, status_document(status))
            is_new = status.claimed is not None and self.rollout.status.claimed is None
            self.claimed = self.rollout.name if is_new else None
            self.rollout = self.rivals = self.traffic = None


def two_controllers(names: Sequence[str]) -> tuple[Server, list[Controller]]:
    """Each begins with another rollout."""
    server = Server({name: document(name) for name in names})
    return server, [Controller(server, itertools.cycle(order)) for order in (names, names[::-1])]


def test_however_two_controllers_come_in_between_one_has_it_at_a_time() -> None:
    """Every way in which the first two rounds of both may mix, where nobody moves the traffic."""
    for first in itertools.combinations(range(12), 6):
        server, controllers = two_controllers(("a", "b"))
        for step in range(12):
            controller = controllers[step not in first]
            controller.does_the_next()
            if controller.is_to_look:
                controller.does_the_next()
            server.assert_one_owner((first, step))


BACK, ON = Phase.ROLLED_BACK, Phase.PROMOTED
# One claims and lists, the other claims; the first one begins, and is promoted before the other lists.
OVERTAKEN = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, ON, 1, 1]


@given(st.lists(st.sampled_from((0, 1, 0, 1, 0, 1, 0, 1, BACK, BACK, ON)), max_size=90))
@example(OVERTAKEN)
@settings(max_examples=200)
def test_at_any_speed_it_passes_from_one_to_the_next_and_never_to_two(schedule: list[int | Phase]) -> None:
    server, controllers = two_controllers(NAMES)
    for what in schedule:
        server.now += timedelta(seconds=1)
        if isinstance(what, Phase):
            server.end(what)
        else:
            controllers[what].does_the_next()
        server.assert_one_owner(schedule)
    for _ in range(12 * len(NAMES)):  # undisturbed, one of those that have not ended has it
        controllers[0].does_the_next()
    left = [each for each in server.listed() if not each.ended]
    assert len(server.owners()) == min(1, len(left), server.serving == "1")
    if left and server.serving == "1":
        said = {each.status.message for each in left if each.name not in server.owners()}
        assert said <= {f"waits for the end of the rollout {server.owners()[0]} of the same traffic"}


@pytest.mark.parametrize(
    ("other", "rivals"),
    [
        (document("b"), True),
        (document("b", service="birds"), True),  # the predictors of both follow one pointer
        (document("b", pointer="s3://models/birds/pointer.json"), True),
        (document("b", service="birds", pointer="s3://models/birds/pointer.json"), False),
    ],
)
def test_whose_traffic_is_the_same(other: dict[str, Any], rivals: bool) -> None:
    mine, theirs = parse(document("a")), parse(other)
    assert bool(rivals_of(mine, (mine, theirs))) is rivals
    ended = theirs.status.entered(Phase.PROMOTED, START, "")
    assert not rivals_of(mine, (mine, theirs.model_copy(update={"status": ended})))
