"""The policy of a rollout: how a candidate is judged and how its traffic grows. Read from YAML, strict; pure."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from whimbrel.core.errors import InputRefused
from whimbrel.mlflow.rollout.gates import Gate, Measure

# camelCase, as everything that Kubernetes keeps: a policy is a part of a ModelRollout.
RESOURCE_CONFIG: Final = ConfigDict(
    frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=to_camel, populate_by_name=True
)
MOST_SECONDS: Final = 366 * 86_400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")


def seconds(text: Any) -> float:
    """Seconds of a duration as Go writes it: `90s`, `1h30m`, `500ms`. Raises ValueError."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 30s, 5m or 1h30m, seen {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def duration(value: str | float) -> str:
    """Keeps the text that was given, once it is one."""
    if seconds(value) > MOST_SECONDS:
        raise ValueError(f"expected at most a year, seen {value!r}")
    return str(value)


Duration = Annotated[str, BeforeValidator(duration)]


class Promotion(StrEnum):
    """After the last step: by itself, or when `whimbrel rollout promote` says so."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Movement(StrEnum):
    """How the traffic moves: to another revision by KServe, or within the predictors along a model pointer."""

    IN_PLACE = "InPlace"
    BY_REVISION = "ByRevision"


class Undecided(StrEnum):
    """What becomes of a candidate about which nothing is decided at the deadline."""

    ROLL_BACK = "RollBack"
    PROMOTE = "Promote"


class Step(BaseModel):
    """`percent` of the traffic for at least `dwell`, and until `samples` and the gates allow the next."""

    model_config = RESOURCE_CONFIG

    percent: int = Field(gt=0, lt=100)
    dwell: Duration = "1m"
    samples: int = Field(default=50, ge=1, le=100_000)


class Backtest(BaseModel):
    """Before any traffic: both versions answer `objects` known objects. `requestsPerSecond` bounds its load."""

    model_config = RESOURCE_CONFIG

    objects: int = Field(default=300, ge=1, le=10_000)
    requests_per_second: float = Field(default=50.0, gt=0, le=10_000)
    gates: dict[Measure, Gate] = Field(
        default_factory=lambda: {
            Measure.ACCURACY: Gate(allowed=0.01, tolerance=0.05),
            Measure.ERRORS: Gate(allowed=0.005, tolerance=0.03),
        }
    )


def _default_steps() -> tuple[Step, ...]:
    return (Step(percent=20), Step(percent=50))


class Policy(BaseModel):
    """`alpha`: how likely, at most, a gate of the backtest or of the canary rolls a candidate back that keeps them all.
    One that is undecided at the deadline ends as `undecided` says. `backtest`: None leaves it out.

    `shadowsPerSecond`: known objects that both versions are asked about during the steps, so that low traffic is
    judged too; 0 for none. `progressDeadline`: until which the candidate has to be ready. `deadline`: of the whole
    rollout, its backtest included.
    """

    model_config = RESOURCE_CONFIG

    movement: Movement = Movement.IN_PLACE
    backtest: Backtest | None = Field(default_factory=Backtest)
    steps: tuple[Step, ...] = Field(default_factory=_default_steps, max_length=20)
    gates: dict[Measure, Gate] = Field(
        default_factory=lambda: {
            Measure.ACCURACY: Gate(allowed=0.01, tolerance=0.05),
            Measure.ERRORS: Gate(allowed=0.005, tolerance=0.03),
            Measure.LATENCY: Gate(allowed=0.10, tolerance=0.30),
        }
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    shadows_per_second: float = Field(default=5.0, ge=0, le=100)
    promotion: Promotion = Promotion.AUTOMATIC
    undecided: Undecided = Undecided.ROLL_BACK
    progress_deadline: Duration = "10m"
    deadline: Duration = "1h"

    @model_serializer(mode="wrap")
    def _whole(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No backtest is another policy than the default: it is written where nothing else that is None is."""
        return {"backtest": None, **dumped(self)}

    @property
    def alpha_of_each(self) -> float:
        """The backtest and the canary share it."""
        return self.alpha / 2 if self.backtest else self.alpha

    @model_validator(mode="after")
    def _rising(self) -> Policy:
        percents = [step.percent for step in self.steps]
        if percents != sorted(set(percents)):
            raise ValueError(f"steps: expected rising percents, seen {percents}")
        return self


def judged_without_truth(document: Any) -> Any:
    """The document with agreement in the place of accuracy wherever it leaves the gates to the defaults."""
    if not isinstance(document, dict):
        return document
    agreeing = {Measure.AGREEMENT: Gate(allowed=0.15, tolerance=0.3)}
    backtest = document.get("backtest", {})
    if isinstance(backtest, dict):
        backtest = {"gates": _swapped(Backtest().gates, agreeing)} | backtest
    return {"gates": _swapped(Policy().gates, agreeing)} | document | {"backtest": backtest}


def policy_for(document: Any, origin: str, *, truth_known: bool) -> Policy:
    """Of known objects with labels or without. Raises InputRefused as `parse_policy`, and for a gate on accuracy where
    no object's truth is known: it would decide nothing."""
    policy = parse_policy(document if truth_known else judged_without_truth(document), origin)
    if not truth_known and wants_truth(policy):
        raise InputRefused(
            f"{origin}: expected no gate on accuracy where no known object has a label; put it on agreement, or give "
            "known objects with labels"
        )
    return policy


def wants_truth(policy: Policy) -> bool:
    return Measure.ACCURACY in policy.gates or (
        policy.backtest is not None and Measure.ACCURACY in policy.backtest.gates
    )


def _swapped(gates: dict[Measure, Gate], agreeing: dict[Measure, Gate]) -> dict[Measure, Gate]:
    return agreeing | {measure: gate for measure, gate in gates.items() if measure is not Measure.ACCURACY}


def parse_policy(document: Any, origin: str) -> Policy:
    """Raises InputRefused that names each wrong field of `origin`."""
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'policy'}: {each['msg']}" for each in error.errors())
        raise InputRefused(f"{origin}: " + "; ".join(faults)) from None
