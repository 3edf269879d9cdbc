"""The reading of KServe's status, against every status that was captured from a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whimbrel.kube.conditions import why_not_ready
from whimbrel.kube.inference import Component, Phase, Share, phase, read_status
from whimbrel.kube.waiting import is_ready

STATUSES = Path(__file__).parent.parent / "data" / "kserve" / "status"

# File, phase of the predictor's newest revision, its share, and whether Ready is True.
CAPTURED = [
    ("00-podlevel-securitycontext-rejected", Phase.UNSEEN, 0, False),
    ("01-transformer-crashloop-first-revision", Phase.PROMOTED, 100, False),
    ("02-ready-first", Phase.PROMOTED, 100, True),
    ("10-before-canary", Phase.PROMOTED, 100, True),
    ("11-canary20", Phase.STARTING, 0, False),
    ("12-canary20-ready", Phase.CANARY, 20, True),
    ("13-promoted-1.5s", Phase.PROMOTED, 100, True),
    ("14-promoted-8s", Phase.PROMOTED, 100, True),
    ("15-v3-canary0-1s", Phase.STARTING, 0, False),
    ("16-v3-canary0-ready", Phase.PARKED, 0, True),
    ("17-v3-canary30", Phase.CANARY, 30, True),
    ("18-v3-rolledback-0", Phase.PARKED, 0, True),
    ("19-v4-after-rollback", Phase.PARKED, 0, True),
    ("20-v4-canary50", Phase.CANARY, 50, True),
    ("21-v4-canary100", Phase.PROMOTED, 100, True),
    ("22-rollback-after-100-0.6s", Phase.SETTLING, 100, True),
    ("23-rollback-after-100", Phase.PARKED, 0, True),
    ("24-repromoted-v4", Phase.PROMOTED, 100, True),
    ("25-both-changed-pred-canary20", Phase.CANARY, 20, True),
    ("26-both-canary20", Phase.CANARY, 20, True),
    ("27-promoted-both", Phase.PROMOTED, 100, True),
    ("28-broken-canary-5s", Phase.STARTING, 0, False),
    ("29-broken-canary-25s", Phase.STARTING, 0, False),
    ("30-after-broken-reverted", Phase.PARKED, 0, True),
    ("31-rollout-duration-5s", Phase.RAMPING, 1, False),
    ("32-rollout-duration-13s", Phase.RAMPING, 41, False),
    ("33-rollout-duration-27s", Phase.PROMOTED, 100, True),
    ("34-before-race", Phase.PROMOTED, 100, True),
    ("35-canary-pct-without-template-change", Phase.CANARY, 10, True),
    ("36-back-to-100", Phase.PROMOTED, 100, True),
    ("37-w1-at-0", Phase.PARKED, 0, True),
    ("38-created-with-canary0", Phase.PROMOTED, 100, True),
    ("39-created-with-canary0-second-revision", Phase.PARKED, 0, True),
    ("50-final-new-version-at-0", Phase.PARKED, 0, True),
    ("51-final-61-patch-step", Phase.CANARY, 20, True),
    ("51-final-62-patch-promote", Phase.PROMOTED, 100, True),
    ("51-final-63-patch-rollback", Phase.PARKED, 0, True),
]
NO_INFERENCE_SERVICE = {"03-trigger-no-addressable-role", "40-runtime-variant-rendered-template"}


def captured(name: str) -> dict[str, Any]:
    document = json.loads((STATUSES / f"{name}.json").read_text())
    return {"kind": "InferenceService", "metadata": {"name": "photos"}, "status": document.get("status", document)}


def test_every_capture_is_read_here() -> None:
    assert {path.stem for path in STATUSES.glob("*.json")} == {name for name, *_ in CAPTURED} | NO_INFERENCE_SERVICE


@pytest.mark.parametrize(("name", "expected", "percent", "ready"), CAPTURED, ids=[row[0] for row in CAPTURED])
def test_a_captured_status(name: str, expected: Phase, percent: int, ready: bool) -> None:
    resource = captured(name)
    status = read_status(resource)
    predictor = status.predictor

    assert phase(predictor) is expected
    assert predictor.percent(predictor.created) == percent
    assert sum(share.percent for share in predictor.traffic) in (0, 100)
    assert (why_not_ready(resource) is None) is ready
    assert status.mode == "Knative"
    assert bool(status.url) is (status.condition("Ready") is not None and not name.startswith(("00", "01")))


def test_a_patch_that_nobody_has_looked_at() -> None:
    before = read_status(captured("10-before-canary")).predictor

    assert phase(before, before) is Phase.UNSEEN
    assert phase(read_status(captured("12-canary20-ready")).predictor, before) is Phase.CANARY


def test_a_starting_candidate_gets_nothing_whatever_its_tag_says() -> None:
    starting = read_status(captured("11-canary20")).predictor

    assert [(share.tag, share.percent) for share in starting.traffic] == [("latest", 20), ("prev", 80)]
    assert starting.percent(starting.created) == 0
    assert starting.percent(starting.rolled_out) == 100
    assert not starting.settled


def test_values_of_a_ready_status() -> None:
    status = read_status(captured("27-promoted-both"))

    assert status.url == "http://photos-transformer.whimbrel.example.com"
    assert status.cluster_url == "http://photos-transformer.whimbrel.svc.cluster.local"
    assert status.components["transformer"].settled
    assert status.predictor.traffic == (
        Share(
            revision="photos-predictor-00010",
            percent=100,
            tag="latest",
            url="http://latest-photos-predictor.whimbrel.example.com",
            latest=True,
        ),
    )
    assert (status.predictor.rolled_out, status.predictor.previous) == (
        "photos-predictor-00010",
        "photos-predictor-00009",
    )


def test_an_object_without_a_status() -> None:
    status = read_status({"kind": "InferenceService", "metadata": {"name": "photos"}})

    assert status.predictor == Component()
    assert phase(status.predictor) is Phase.UNSEEN


def test_what_a_webhook_denied_is_not_waited_for() -> None:
    verdict = is_ready({"apiVersion": "serving.kserve.io/v1beta1", **captured("00-podlevel-securitycontext-rejected")})

    assert verdict.state == "failed"
    assert "must not set the field(s): spec.template.spec.securityContext" in verdict.why


def test_a_missing_role_may_still_come() -> None:
    listed = json.loads((STATUSES / "03-trigger-no-addressable-role.json").read_text())
    trigger = {"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "status": {"conditions": listed}}

    verdict = is_ready(trigger)

    assert verdict.state == "waiting"
    assert 'cannot list resource "inferenceservices"' in verdict.why
