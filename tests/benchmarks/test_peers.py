"""The benchmark beside the peers: environments over one torch, forms of asking, and what is written of the figures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed.predictors import null_images, running_predictor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_peers_environment_sees_this_torch_and_nothing_else_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import find_spec

    from peers import environments

    monkeypatch.setattr(environments, "CACHE", tmp_path)
    python = environments.made(tmp_path / "peer")
    look = (
        "from importlib.util import find_spec; print([bool(find_spec(n)) for n in ('torch', 'numpy', 'kserve', 'pip')])"
    )
    seen = subprocess.run([python, "-P", "-c", look], check=True, capture_output=True, text=True, env={}).stdout
    assert seen.strip() == "[True, True, False, False]"
    assert find_spec("kserve")


def test_every_peer_has_a_server_that_compiles() -> None:
    from peers.catalog import PEERS

    for peer in PEERS:
        file = BENCHMARKS / f"{peer.arguments[-1].replace('.', '/')}.py"
        compile(file.read_text(), str(file), "exec")


def test_ours_is_asked_in_its_binary_forms(tmp_path: Path) -> None:
    from clients import answer_of, asked, v2_binary, v2_grpc

    image = null_images(7)
    with running_predictor(tmp_path / "log", "--model-name", "m") as predictor:
        http_port, grpc_port = (int(each.rpartition(":")[2]) for each in (predictor.url, predictor.grpc_target))
        over_rest = answer_of(v2_binary(image), http_port)
        assert over_rest is not None
        assert over_rest[0] == 7
        assert answer_of(v2_grpc(image), grpc_port) == over_rest
        answers = asked(v2_binary(image), http_port, 2, 0.01)
    assert {each.status for each in answers} == {200}


def test_ours_is_compared_with_the_others_round_by_round() -> None:
    from predictor.figures import BARE, NAIVE, OURS, Seen, rates_table, ratios_table

    seen = {
        BARE: Seen("nobody", rates={1: [10.0, 20.0, 30.0], 8: [40.0] * 3, 32: [40.0] * 3}),
        OURS: Seen("V2 REST", rates={1: [9.0, 18.0, 24.0], 8: [38.0] * 3, 32: [40.0] * 3}),
        NAIVE: Seen("V2 REST", "0.21.0", rates={1: [5.0, 9.0, 12.0], 8: [10.0] * 3, 32: [10.0] * 3}),
        "Another": Seen("raw", "1.0", rates={1: [4.0, 8.0, 12.0], 8: [19.0] * 3, 32: [20.0] * 3}, unanswered=2),
        "Absent": Seen("raw", failure="not started: needs java, which is not installed"),
    }
    assert rates_table("resnet50", seen)[2:] == [
        "| bare loop | nobody | 20.0 (10.0 to 30.0) | 40.0 (40.0 to 40.0) | 40.0 (40.0 to 40.0) |",
        "| whimbrel | V2 REST | 18.0 (9.0 to 24.0) | 38.0 (38.0 to 38.0) | 40.0 (40.0 to 40.0) |",
        f"| {NAIVE} 0.21.0 | V2 REST | 9.0 (5.0 to 12.0) | 10.0 (10.0 to 10.0) | 10.0 (10.0 to 10.0) |",
        "| Another 1.0 | raw (2 not answered) | 8.0 (4.0 to 12.0) | 19.0 (19.0 to 19.0) | 20.0 (20.0 to 20.0) |",
        "| Absent | raw | not started: needs java, which is not installed |  |  |",
    ]
    assert ratios_table("resnet50", seen)[2:] == [
        "| whimbrel / bare loop | 0.90 (0.80 to 0.90) | 0.95 (0.95 to 0.95) | 1.00 (1.00 to 1.00) |",
        f"| whimbrel / best peer | 2.00 (1.80 to 2.00), {NAIVE} | 2.00 (2.00 to 2.00), Another | "
        "2.00 (2.00 to 2.00), Another |",
        f"| whimbrel / {NAIVE} | 2.00 (1.80 to 2.00) | 3.80 (3.80 to 3.80) | 4.00 (4.00 to 4.00) |",
    ]


def test_without_ours_there_is_nothing_to_compare() -> None:
    from predictor.figures import BARE, OURS, Seen, ratios_table

    rates = {1: [1.0], 8: [1.0], 32: [1.0]}
    assert ratios_table("resnet50", {BARE: Seen("nobody", rates=rates), OURS: Seen("V2", failure="ended")}) == []
