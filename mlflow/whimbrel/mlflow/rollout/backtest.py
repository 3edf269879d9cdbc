"""The backtest's report: what both versions said of the same known objects, judged and laid out; pure."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from whimbrel.core.model_pointer import PointedVersion
from whimbrel.mlflow.rollout.comparing import Comparison
from whimbrel.mlflow.rollout.gates import Answer, Verdict, judge, paired_harms, slow_above
from whimbrel.mlflow.rollout.resource import Spec

if TYPE_CHECKING:
    from datetime import datetime

    from jinja2 import Template

SHOWN: Final = 24
MAX_PICTURE_BYTES: Final = 256 * 1024
_MEDIA_TYPES: Final = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_CONFIG: Final = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Side(BaseModel):
    """One version's figures. `right` of the `judged` objects whose truth is known; times in milliseconds."""

    model_config = _CONFIG

    answered: int
    failed: int
    right: int
    judged: int
    p50_ms: float
    p95_ms: float

    @property
    def accuracy(self) -> float | None:
        return self.right / self.judged if self.judged else None


class ClassChange(BaseModel):
    """How often each version gave this label, and how often rightly, of the objects whose truth it is."""

    model_config = _CONFIG

    label: str
    champion: int
    candidate: int
    truth: int
    champion_right: int
    candidate_right: int


class Disagreement(BaseModel):
    model_config = _CONFIG

    uri: str
    truth: str | None
    champion: str | None
    champion_score: float | None
    candidate: str | None
    candidate_score: float | None


class Report(BaseModel):
    """`whimbrel.dev/backtest/v1`. `slow_ms`: the champion's 95th percentile, above which an answer counts as slow."""

    model_config = _CONFIG

    schema_: Literal["whimbrel.dev/backtest/v1"] = Field(default="whimbrel.dev/backtest/v1", alias="schema")
    made: AwareDatetime
    model: str
    champion: PointedVersion
    candidate: PointedVersion
    objects: int
    agreement: float | None
    champion_side: Side
    candidate_side: Side
    latency_ratio: float | None
    slow_ms: float
    verdicts: tuple[Verdict, ...]
    classes: tuple[ClassChange, ...]
    disagreements: tuple[Disagreement, ...]


def make_report(spec: Spec, comparisons: Sequence[Comparison], made: datetime) -> Report:
    """Of at least one comparison, judged by the gates of the policy's backtest."""
    ours, theirs = [each.champion for each in comparisons], [each.candidate for each in comparisons]
    truth = [each.truth for each in comparisons]
    slow = slow_above([answer.milliseconds for answer in ours if not answer.failed])
    sides = _side(ours, truth), _side(theirs, truth)
    gates = spec.policy.backtest.gates if spec.policy.backtest else {}
    both = [each for each in comparisons if not (each.champion.failed or each.candidate.failed)]
    agreeing = sum(each.champion.label == each.candidate.label for each in both)
    return Report(
        made=made,
        model=spec.model,
        champion=spec.champion,
        candidate=spec.candidate,
        objects=len(comparisons),
        agreement=agreeing / len(both) if both else None,
        champion_side=sides[0],
        candidate_side=sides[1],
        latency_ratio=sides[1].p50_ms / sides[0].p50_ms if sides[0].p50_ms and sides[1].p50_ms else None,
        slow_ms=slow if both else 0.0,
        verdicts=tuple(judge(gates, paired_harms(ours, theirs, truth, slow), spec.policy.alpha_of_each)),
        classes=tuple(_classes(comparisons)),
        disagreements=tuple(_disagreements(both)),
    )


def render(report: Report, picture: Callable[[str], bytes | None]) -> bytes:
    """The report as one HTML page without scripts; `picture` gives the bytes of an object, None to leave it out."""
    pictures = {each.uri: _data_uri(picture(each.uri)) for each in report.disagreements}
    return _template().render(report=report, pictures=pictures).encode()


def _side(answers: Sequence[Answer], truth: Sequence[str | None]) -> Side:
    answered = [answer for answer in answers if not answer.failed]
    judged = [(answer, label) for answer, label in zip(answers, truth, strict=True) if label and not answer.failed]
    times = [answer.milliseconds for answer in answered]
    return Side(
        answered=len(answered),
        failed=len(answers) - len(answered),
        right=sum(answer.label == label for answer, label in judged),
        judged=len(judged),
        p50_ms=median(times) if times else 0.0,
        p95_ms=slow_above(times) if times else 0.0,
    )


def _classes(comparisons: Sequence[Comparison]) -> Iterable[ClassChange]:
    """Those that changed most first."""
    champion = Counter(each.champion.label for each in comparisons)
    candidate = Counter(each.candidate.label for each in comparisons)
    truth = Counter(each.truth for each in comparisons)
    champion_right = Counter(each.truth for each in comparisons if each.champion.label == each.truth)
    candidate_right = Counter(each.truth for each in comparisons if each.candidate.label == each.truth)
    labels = {label for counted in (champion, candidate, truth) for label in counted if label is not None}
    for label in sorted(labels, key=lambda each: (-abs(champion[each] - candidate[each]), each)):
        yield ClassChange(
            label=label,
            champion=champion[label],
            candidate=candidate[label],
            truth=truth[label],
            champion_right=champion_right[label],
            candidate_right=candidate_right[label],
        )


def _disagreements(comparisons: Sequence[Comparison]) -> Iterable[Disagreement]:
    """The surest first: where both are sure of different labels, one of them has something to tell."""
    different = [each for each in comparisons if each.champion.label != each.candidate.label]
    different.sort(key=lambda each: (-(each.champion.score or 0) * (each.candidate.score or 0), each.uri))
    for each in different[:SHOWN]:
        yield Disagreement(
            uri=each.uri,
            truth=each.truth,
            champion=each.champion.label,
            champion_score=each.champion.score,
            candidate=each.candidate.label,
            candidate_score=each.candidate.score,
        )


def _data_uri(content: bytes | None) -> str | None:
    """Only what begins as an image does: the page is opened by a browser."""
    media_type = next((kind for head, kind in _MEDIA_TYPES.items() if content and content.startswith(head)), None)
    if content is None or media_type is None:
        return None
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@cache
def _template() -> Template:
    import jinja2

    environment: Any = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files("whimbrel.mlflow.rollout").joinpath("backtest.html.j2").read_text()
    template: Template = environment.from_string(source)
    return template
