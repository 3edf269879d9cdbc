"""What the dashboard and the alerts ask for is what a predictor exposes, for the versions that it holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testbed.predictors import Predictor, null_images, running_predictor, v2_document
from whimbrel.core import metrics
from whimbrel.core.tensors import MODEL_VERSION
from whimbrel.predictors.null_network import null_network

COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "prometheus"
OTHER = "null:10,other"


def expressions() -> list[str]:
    dashboard = json.loads((COMPONENT / "predictors.dashboard.json").read_text())
    rules = yaml.safe_load((COMPONENT / "predictor-rules.yaml").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return targets + [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(expression: str) -> None:
    exposed = {name for name in metrics.exposition()[0].decode().split() if name.startswith("whimbrel_")}
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"whimbrel_\w+", expression)}

    assert asked
    assert asked <= exposed | {re.sub("_total$", "", name) for name in exposed} | {f"{name}_total" for name in exposed}


def samples(predictor: Predictor, name: str) -> dict[tuple[str, ...], float]:
    text = httpx.get(f"{predictor.url}/metrics").text
    found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {tuple(sorted(re.findall(r'="([^"]*)"', labels))): float(value) for labels, value in found}


def load(predictor: Predictor, **parameters: Any) -> None:
    url = f"{predictor.url}/v2/repository/models/digits/load"
    httpx.post(url, json={"parameters": parameters}, timeout=30).raise_for_status()


def test_live_requests_are_counted_apart_and_a_failure_names_its_package(tmp_path: Path) -> None:
    with running_predictor(tmp_path / "log", "--model-version", "1") as predictor:
        for parameters in ({}, {}, {MODEL_VERSION: "1"}):
            assert predictor.infer(v2_document(null_images(1), **parameters)).status_code == 200
        late = predictor.infer(v2_document(null_images(1), timeout=1))
        refused = predictor.infer(v2_document(null_images(1), top_k=0))
        answered = samples(predictor, "whimbrel_predictor_live_seconds_count")
        failed = samples(predictor, "whimbrel_predictor_live_failures_total")

    assert (answered, failed) == ({("1", "digits"): 2.0}, {("1", "digits"): 1.0})
    assert (late.status_code, refused.status_code) == (504, 400)
    assert late.json()["model_digest"] == null_network("null:10").description.digest
    assert "model_digest" not in refused.json()


def test_metrics_follow_the_versions(tmp_path: Path) -> None:
    options = ("--repository-api", "true", "--allowed-uri-prefixes", "null:", "--model-version", "1")
    with running_predictor(tmp_path / "log", *options) as predictor:
        load(predictor, version="2", uri=OTHER, digest=null_network(OTHER).description.digest, percent=25)
        shares = samples(predictor, "whimbrel_predictor_share_ratio")
        load(predictor, version="2")
        predictor.infer(v2_document(null_images(1)))
        roles = samples(predictor, "whimbrel_predictor_role")
        answered = samples(predictor, "whimbrel_predictor_images_total")
        queued = samples(predictor, "whimbrel_predictor_queued_images")
        loads = samples(predictor, "whimbrel_predictor_loads_total")
        swaps = samples(predictor, "whimbrel_predictor_swap_seconds_count")
        predictor.infer(v2_document(null_images(1), top_k=0))
        requests = samples(predictor, "whimbrel_predictor_requests_total")
        load(predictor, version="1")
        url = f"{predictor.url}/v2/repository/models/digits/unload"
        httpx.post(url, json={"parameters": {"version": "2"}}, timeout=30).raise_for_status()
        left = [line for line in httpx.get(f"{predictor.url}/metrics").text.splitlines() if 'version="2"' in line]

    assert shares == {("1", "digits"): 0.75, ("2", "digits"): 0.25}
    assert roles == {("2", "current", "digits"): 1.0, ("1", "digits", "previous"): 1.0}
    assert answered == {("2", "answered", "digits"): 1.0}
    assert requests == {("2", "200", "digits"): 1.0, ("2", "400", "digits"): 1.0}
    assert left == []
    assert queued == {("1", "digits"): 0.0, ("2", "digits"): 0.0}
    assert loads == {("digits", "loaded"): 2.0}
    assert swaps == {("digits",): 3.0}
