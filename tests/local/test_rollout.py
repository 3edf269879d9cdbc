"""Traffic between revisions, held against what a real KServe reported at every phase."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whimbrel.local.rollout import Rollout, Target, observed, read_rollout, read_traffic, resolved, settled, split

PHASES = Path(__file__).parents[1] / "data" / "kserve" / "status"


def phase(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PHASES / f"{name}.json").read_text())
    return found


def component(name: str, which: str) -> dict[str, Any]:
    found: dict[str, Any] = phase(name)["status"]["components"][which]
    return found


# In the order in which they were captured, each from the one before.
STEPS = [
    ("10-before-canary", "11-canary20"),
    ("11-canary20", "12-canary20-ready"),
    ("12-canary20-ready", "13-promoted-1.5s"),
    ("14-promoted-8s", "15-v3-canary0-1s"),
    ("15-v3-canary0-1s", "16-v3-canary0-ready"),
    ("16-v3-canary0-ready", "17-v3-canary30"),
    ("17-v3-canary30", "18-v3-rolledback-0"),
    ("18-v3-rolledback-0", "19-v4-after-rollback"),
    ("19-v4-after-rollback", "20-v4-canary50"),
    ("20-v4-canary50", "21-v4-canary100"),
    ("21-v4-canary100", "23-rollback-after-100"),
    ("23-rollback-after-100", "24-repromoted-v4"),
    ("24-repromoted-v4", "25-both-changed-pred-canary20"),
    ("25-both-changed-pred-canary20", "26-both-canary20"),
    ("26-both-canary20", "27-promoted-both"),
    ("27-promoted-both", "28-broken-canary-5s"),
    ("29-broken-canary-25s", "30-after-broken-reverted"),
    ("36-back-to-100", "37-w1-at-0"),
    ("38-created-with-canary0", "39-created-with-canary0-second-revision"),
    ("50-final-new-version-at-0", "51-final-61-patch-step"),
    ("51-final-61-patch-step", "51-final-63-patch-rollback"),
    ("51-final-63-patch-rollback", "51-final-62-patch-promote"),
]


@pytest.mark.parametrize("which", ["predictor", "transformer"])
@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_phase_follows_from_the_one_before_as_on_a_cluster(before: str, after: str, which: str) -> None:
    wanted = component(after, which)
    percent = phase(after)[f"spec.{which}.canaryTrafficPercent"]

    rollout, _, traffic = settled(
        percent,
        read_rollout(component(before, which)),
        wanted["latestCreatedRevision"],
        wanted["latestReadyRevision"],
    )

    assert rollout == read_rollout(wanted)
    assert traffic == read_traffic(wanted["traffic"])


def test_a_rollback_after_all_of_it_passes_through_the_state_that_was_captured() -> None:
    before, during = (component(name, "predictor") for name in ("21-v4-canary100", "22-rollback-after-100-0.6s"))
    rollout = read_rollout(before)

    traffic = resolved(split(0, rollout), rollout.ready)

    assert traffic == read_traffic(during["traffic"])
    assert observed(rollout, rollout.created, rollout.ready, traffic) == read_rollout(during)


def test_nothing_is_routed_before_a_revision_was_ready() -> None:
    rollout, asked, traffic = settled(None, Rollout(), "photos-00001", "")

    assert rollout == Rollout(created="photos-00001")
    assert asked == (Target(100, latest=True, tag="latest"),)
    assert traffic == ()


def test_created_at_zero_percent_the_first_revision_takes_everything() -> None:
    wanted = component("38-created-with-canary0", "predictor")
    first = wanted["latestCreatedRevision"]

    rollout, _, traffic = settled(0, Rollout(), first, first)

    assert rollout == read_rollout(wanted)
    assert traffic == read_traffic(wanted["traffic"])


def test_a_broken_revision_never_takes_traffic_whatever_the_percent() -> None:
    before = read_rollout(component("27-promoted-both", "predictor"))
    for percent in (None, 0, 1, 50, 99, 100):
        _, _, traffic = settled(percent, before, "photos-predictor-00011", before.ready)
        assert {target.revision for target in traffic} == {before.ready}
