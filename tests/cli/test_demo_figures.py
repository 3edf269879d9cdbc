"""Whether a demo went as it should: what its figures have to be, and what is said where they are not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from testbed.answering import Answer, answering
from testbed.records import result_of
from whimbrel.cli.accounting import Account, Upload, account
from whimbrel.cli.demo_figures import Figures, Requests, faults, requests
from whimbrel.cli.demo_story import STORY, End
from whimbrel.cli.landing import held_out_and_broken

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
METRICS = b"""\
# TYPE whimbrel_broker_attempts_total counter
whimbrel_broker_attempts_total{outcome="accepted",trigger="objects"} 450.0
whimbrel_broker_attempts_total{outcome="415",trigger="objects"} 4.0
whimbrel_broker_attempts_total{outcome="503",trigger="objects"} 2.0
whimbrel_broker_attempts_total{outcome="0",trigger="objects"} 1.0
whimbrel_broker_attempts_total{outcome="accepted",trigger="predictions"} 450.0
"""


def settled(label: str = "seven") -> Account:
    found = result_of("7.png", label=label)
    by_two = found.model_copy(update={"model": found.model.model_copy(update={"version": "2"})})
    return account([Upload("7.png", "seven", NOON)], {"7.png": [by_two]}, {})


ENDS = tuple(End(each, each.phase, f"{each.why}, and more", 30.0) for each in STORY)
WELL = Figures(settled(), ENDS, Requests(1, 0))


def test_a_demo_that_went_well_has_no_faults() -> None:
    assert faults(WELL) == []


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (replace(WELL, requests=Requests(5, 2)), "expected no request to fail, seen 2; see the log of the broker"),
        (replace(WELL, account=account([Upload("7.png", "seven", NOON)], {}, {})), "missing: 7.png"),
        (replace(WELL, account=settled("one")), "expected version 2 to be right on 98%, seen 0.0%"),
        (
            replace(WELL, rollouts=(*ENDS[:2], replace(ENDS[2], phase="Promoted", message="50%: accuracy passed"))),
            "expected digits-3-forced to be 'RolledBack refused at', seen 'Promoted 50%: accuracy passed'",
        ),
    ],
)
def test_a_fault_is_one_line(figures: Figures, said: str) -> None:
    assert said in faults(figures)


@pytest.mark.anyio
async def test_what_was_sent_again_has_failed_and_what_was_refused_has_not() -> None:
    with answering(lambda _: Answer(200, METRICS)) as broker:
        assert await requests(f"{broker.url}/default/default") == Requests(sent=457, failed=3)


def test_broken_objects_are_among_the_pictures() -> None:
    pictures = held_out_and_broken()
    assert len({picture.key for picture in pictures}) == len(pictures) == 454
    places = [place for place, picture in enumerate(pictures) if picture.truth is None]
    assert len(places) == 4
    assert all(later - earlier > 100 for earlier, later in itertools.pairwise(places))
