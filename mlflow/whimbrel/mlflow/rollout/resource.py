"""The custom resource ModelRollout: what is rolled out and by which policy, and how far it has come; pure.

`spec` belongs to whoever started it, `status` to the controller. All that a rollout knows is here or can be read again
from what it watches, so any controller can be killed and another goes on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, Field, ValidationError, model_validator

from whimbrel.core.errors import InputRefused
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.mlflow.rollout.gates import Verdict
from whimbrel.mlflow.rollout.naming import Naming
from whimbrel.mlflow.rollout.policy import RESOURCE_CONFIG, Movement, Policy

GROUP: Final = "rollout.whimbrel.dev"
API_VERSION: Final = f"{GROUP}/v1"
KIND: Final = "ModelRollout"
PLURAL: Final = "modelrollouts"
MAX_HISTORY: Final = 50
_S3: Final = r"^s3://[^/]+/.+$"
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


class Phase(StrEnum):
    """In this order, but for the ends: Loading and Backtest are at 0% of the traffic."""

    PENDING = "Pending"
    LOADING = "Loading"
    BACKTEST = "Backtest"
    CANARY = "Canary"
    AWAITING_PROMOTION = "AwaitingPromotion"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"


ENDS: Final = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK})


class Decision(StrEnum):
    """It overrules the gates. Promote and Abort are a person's; Supersede is an abort because of another challenger."""

    PROMOTE = "Promote"
    ABORT = "Abort"
    SUPERSEDE = "Supersede"


_BACK: Final = {Decision.ABORT: "aborted by hand", Decision.SUPERSEDE: "superseded by another challenger"}


class Spec(BaseModel):
    """`inferenceService`: whose traffic moves. `pointer`: s3:// address of the model pointer that its predictors
    follow, for one in place. `knownObjects`: s3:// address of the list of what both versions are asked about.
    `evidence`: s3:// prefix below which the rollout keeps what it saw. `forced`: the backtest is made and written down,
    but does not refuse."""

    model_config = RESOURCE_CONFIG

    model: str = Field(min_length=1, max_length=200)
    inference_service: str = Field(min_length=1, max_length=63)
    candidate: PointedVersion
    champion: PointedVersion
    pointer: str | None = Field(default=None, pattern=_S3)
    known_objects: str | None = Field(default=None, pattern=_S3)
    evidence: str = Field(pattern=_S3)
    policy: Policy = Field(default_factory=Policy)
    paused: bool = False
    decision: Decision | None = None
    forced: bool = False

    @property
    def aborted(self) -> str | None:
        """Why the traffic is to go back now, where a decision says so."""
        return None if self.decision is None else _BACK.get(self.decision)

    @property
    def superseded(self) -> bool:
        return self.decision is Decision.SUPERSEDE

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        if self.candidate.version == self.champion.version:
            raise ValueError(f"candidate: expected another version than the champion, seen {self.champion.version!r}")
        if self.known_objects is None and (self.policy.backtest or self.policy.shadows_per_second):
            raise ValueError("knownObjects: expected with a backtest or with shadows, for they ask about them")
        if (self.pointer is None) is (self.policy.movement is Movement.IN_PLACE):
            raise ValueError(f"pointer: expected with movement InPlace and no other, seen {self.policy.movement}")
        return self


class Entry(BaseModel):
    """One line of the story."""

    model_config = RESOURCE_CONFIG

    time: AwareDatetime
    phase: Phase
    percent: int
    message: str


class Revisions(BaseModel):
    """Of a rollout by revision, noted before each patch. `created` and `rolledOut`: the predictor's newest revision and
    the one with all traffic before the rollout. `named`: how it named its model, which is the way back. `candidate`:
    the newest revision that was made of the candidate, empty before there is one."""

    model_config = RESOURCE_CONFIG

    created: str
    rolled_out: str
    named: Naming
    candidate: str = ""


class Status(BaseModel):
    """`claimed`: when a rollout that is yet to begin asked for the traffic, which one has at a time. `since`: when this
    phase and step began. `arrived`: when the traffic was last seen where the step wants it. `report`: where the
    backtest's report lies.
    """

    model_config = RESOURCE_CONFIG

    phase: Phase = Phase.PENDING
    step: int = 0
    percent: int = 0
    claimed: AwareDatetime | None = None
    started: AwareDatetime | None = None
    since: AwareDatetime | None = None
    arrived: AwareDatetime | None = None
    revisions: Revisions | None = None
    ended: AwareDatetime | None = None
    message: str = ""
    verdicts: tuple[Verdict, ...] = ()
    backtest: tuple[Verdict, ...] = ()
    report: str | None = None
    history: tuple[Entry, ...] = ()
    observed_generation: int | None = None

    def entered(self, phase: Phase, now: datetime, message: str, **changes: Any) -> Status:
        """This status in another phase or step, told in the history."""
        percent = changes.get("percent", self.percent)
        entry = Entry(time=now.astimezone(UTC), phase=phase, percent=percent, message=message)
        history = (*self.history, entry)[-MAX_HISTORY:]
        changes = {"claimed": None, "since": now, "arrived": None, "history": history, "message": message, **changes}
        if phase in ENDS:
            changes["ended"] = now
        return self.model_copy(update={"phase": phase, **changes})


class ModelRollout(BaseModel):
    """One rollout. `uid` is its alone, also among later ones of its name; a change of it is based on
    `resource_version`."""

    model_config = RESOURCE_CONFIG

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    spec: Spec
    status: Status

    @property
    def ended(self) -> bool:
        return self.status.phase in ENDS

    def noting(self, revisions: Revisions | None) -> ModelRollout:
        """With these in its status, where there are any."""
        if revisions is None:
            return self
        return self.model_copy(update={"status": self.status.model_copy(update={"revisions": revisions})})


def parse(document: dict[str, Any]) -> ModelRollout:
    """Of the object as the Kubernetes API gives it. Raises InputRefused that names each wrong field."""
    metadata = document.get("metadata", {})
    try:
        return ModelRollout(
            namespace=metadata.get("namespace", "default"),
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=str(metadata.get("resourceVersion", "")),
            generation=int(metadata.get("generation", 1)),
            spec=Spec.model_validate(document.get("spec", {})),
            status=Status.model_validate(document.get("status") or {}),
        )
    except (ValidationError, KeyError) as error:
        faults = (
            "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            if isinstance(error, ValidationError)
            else f"metadata.{error.args[0]}: expected one"
        )
        raise InputRefused(f"{KIND} {metadata.get('name', '')!r}: {faults}") from None


def rollout_name(model: str, version: str) -> str:
    """`digits-2`. A model whose name is no name of an object has a digest of it in there, so that two stay apart."""
    name = _NO_NAME.sub("-", model.lower()).strip("-")[:200]
    if name != model:
        name = f"{name}-{hashlib.sha256(model.encode()).hexdigest()[:8]}".lstrip("-")
    return f"{name}-{version}"


def new(namespace: str, name: str, spec: Spec, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The object to create."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"namespace": namespace, "name": name} | ({"labels": dict(labels)} if labels else {}),
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def status_document(status: Status) -> dict[str, Any]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
