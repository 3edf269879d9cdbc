"""A model whose answer is made of other models' of this process, which compute it in their own batches.

What it is, the task, the labels and the preset, is what the members' loaded versions are; a version of a member with
another one is refused before it loads, so that the members can be swapped one by one while it serves.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from whimbrel.core.errors import NotFound
from whimbrel.core.kserve_sdk import InferResponse, Model
from whimbrel.core.tensors import SCORES
from whimbrel.predictors import answers, combining
from whimbrel.predictors.combining import Voice, combined
from whimbrel.predictors.inference_requests import Asked, RequestLimits, key_of, timeout_of, version_of
from whimbrel.predictors.model import PredictorModel, deadline_of, input_types, output_types, read
from whimbrel.predictors.named_models import NamedEnsemble, Rule
from whimbrel.predictors.network import Description, Outputs
from whimbrel.predictors.residents import CURRENT, READY, Resident
from whimbrel.predictors.sources import Located
from whimbrel.predictors.tally import tallied
from whimbrel.predictors.tasks.classification import Classification
from whimbrel.predictors.tasks.task import Task
from whimbrel.predictors.version_metrics import VersionMetrics

_AT_ONCE = 10_000  # scores that are sorted on the event loop; more are in a thread


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One version of one member, and the member's part of the answer."""

    member: PredictorModel
    resident: Resident
    share: Fraction


@dataclass(frozen=True, slots=True)
class Combination:
    """The members' versions that answer one request."""

    rule: Rule
    parts: tuple[Part, ...]

    @property
    def version(self) -> str:
        """`MEMBER:VERSION+MEMBER:VERSION`, in the order of the settings."""
        return "+".join(f"{part.member.name}:{part.resident.version}" for part in self.parts)

    @property
    def task(self) -> Task:
        described = self.parts[0].resident.description
        members = tuple((part.resident.description.digest, part.share) for part in self.parts)
        digest = combining.digest_of(self.rule, members)
        return Classification(Description(described.task, described.preset, described.labels, digest))


class EnsembleModel(Model):  # type: ignore[misc]
    """Ready when every member is."""

    def __init__(self, named: NamedEnsemble, models: Mapping[str, PredictorModel], limits: RequestLimits) -> None:
        super().__init__(named.name, return_response_headers=True)
        self._rule, self._limits = named.rule, limits
        shares = combining.shares({member.name: member.weight for member in named.members})
        self._members = [(models[name], share) for name, share in shares.items()]
        self._metrics = VersionMetrics(named.name)
        # By version, the members' versions in it: names only, so that nothing keeps what has left in memory.
        self._counted: dict[str, tuple[tuple[PredictorModel, str], ...]] = {}
        self.ready = True

    @property
    def member_names(self) -> frozenset[str]:
        return frozenset(member.name for member, _ in self._members)

    def admit(self, member: str, located: Located) -> None:
        """Raises PackageRefused for a version of `member` that cannot be combined with what is loaded of the members.

        Asked before a load and at its end: of two first ones that load at once, the other may be there by then.
        """
        arriving = (f"{member} {located.version!r}", located.description)
        combining.check_combines(self.name, self._settled or arriving, arriving)

    async def healthy(self) -> bool:
        return all([await member.healthy() for member, _ in self._members])

    @property
    def _settled(self) -> tuple[str, Description] | None:
        """A version that is loaded, by its name, and what it and so all others are."""
        loaded = ((member.name, resident) for member, _ in self._members for resident in member.loaded)
        return next(((f"{name} {each.version!r}", each.description) for name, each in loaded), None)

    @property
    def versions(self) -> list[str]:
        current = self._current()
        return [current.version] if current else []

    async def predict(
        self, payload: Any, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        arrived, given = time.monotonic(), headers or {}
        named = version_of(payload, given)
        combination = self._named(named) if named else self._picked(key_of(payload, given))
        task = combination.task
        with ExitStack() as in_use:
            for part in combination.parts:
                in_use.enter_context(part.resident.in_use())
            live = named is None
            with tallied(functools.partial(self._count, combination, live=live), task.description.digest) as tally:
                asked = await read(payload, task, self._limits)
                tally.images = len(asked.images)
                deadline = deadline_of(arrived, asked.timeout_seconds, timeout_of(given))
                voices = await self._voices(combination, asked, deadline, live=live)
                tensors = task.tensors(await self._combined(voices, asked, task.description), asked.wanted)
        return answers.rendered(payload, task, tensors, (self.name, combination.version), response_headers)

    def rows(self) -> list[dict[str, Any]]:
        """What it is made of now, for the index; nothing before every member has a version."""
        current = self._current()
        if current is None:
            return []
        return [
            {
                "version": current.version,
                "state": READY,
                "reason": "",
                "role": CURRENT,
                "percent": 100.0,
                "digest": current.task.description.digest,
                "memory_bytes": 0,
            }
        ]

    def metadata(self, version: str | None) -> dict[str, Any]:
        """With the members' current versions. Raises NotFound for a version that they do not make."""
        current = self._named(version) if version else self._current()
        return {
            "name": self.name,
            "versions": self.versions,
            "platform": "",
            "inputs": self.get_input_types(),
            "outputs": self.get_output_types(),
            "rule": self._rule,
            "members": [
                {
                    "name": part.member.name,
                    "share": float(part.share),
                    "version": part.resident.version,
                    "digest": part.resident.description.digest,
                }
                for part in (current.parts if current else ())
            ],
        }

    def digest_of(self, version: str) -> str:
        """Raises NotFound for a version that the members' current ones do not make."""
        return self._named(version).task.description.digest

    def get_input_types(self) -> list[dict[str, Any]]:
        settled = self._settled
        return input_types(settled[1]) if settled else []

    def get_output_types(self) -> list[dict[str, Any]]:
        settled = self._settled
        return output_types(Classification(settled[1])) if settled else []

    async def _voices(
        self, combination: Combination, asked: Asked, deadline: float | None, *, live: bool
    ) -> list[Voice]:
        """The first member that fails fails the answer; what the others have not begun is not computed."""
        asking: list[asyncio.Task[Voice]] = []
        try:
            async with asyncio.TaskGroup() as group:
                asking += (
                    group.create_task(_voice(part, asked, deadline, asking, live=live)) for part in combination.parts
                )
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in asking]

    async def _combined(self, voices: list[Voice], asked: Asked, description: Description) -> Outputs:
        combining_all = functools.partial(combined, self._rule, voices, len(description.labels), asked.wanted.top_k)
        if len(asked.images) * len(description.labels) <= _AT_ONCE:
            return combining_all()
        return await asyncio.to_thread(combining_all)

    def _picked(self, key: str) -> Combination:
        """Each member's version by its own share, the same for the same key. Raises Unavailable before there is one."""
        parts = (Part(member, member.residents.pick(key, None), share) for member, share in self._members)
        return Combination(self._rule, tuple(parts))

    def _current(self) -> Combination | None:
        parts = []
        for member, share in self._members:
            current = member.residents.current
            if current is None:
                return None
            parts.append(Part(member, current, share))
        return Combination(self._rule, tuple(parts))

    def _named(self, version: str) -> Combination:
        current = self._current()
        if current is None or current.version != version:
            seen = current.version if current else "(none)"
            raise NotFound(f"expected the version {seen}, which the members' current ones make, seen {version!r}")
        return current

    def _count(self, combination: Combination, *, live: bool, **what: Any) -> None:
        """What was counted of versions that have left goes when another combination answers."""
        version = combination.version
        if version not in self._counted:
            for known, made_of in list(self._counted.items()):
                if not all(each in member.versions for member, each in made_of):
                    self._metrics.forget(known)
                    del self._counted[known]
            self._counted[version] = tuple((part.member, part.resident.version) for part in combination.parts)
        self._metrics.count(version, live=live, **what)


async def _voice(
    part: Part, asked: Asked, deadline: float | None, asking: Sequence[asyncio.Task[Voice]], *, live: bool
) -> Voice:
    """All its scores; counted as any other request that its version is given, but when another one of those `asking`
    has failed: then nobody wants it any more, though no client has left."""
    task, metrics = part.resident.task, part.member.residents.metrics
    count = functools.partial(metrics.count, part.resident.version, live=live)
    with tallied(count, part.resident.description.digest) as tally:
        tally.images = len(asked.images)
        try:
            outputs = await part.resident.batcher.infer(asked.images, len(task.description.labels), deadline)
        except asyncio.CancelledError:
            tally.counts = not any(map(_has_failed, asking))
            raise
        task.check_finite(outputs[SCORES], SCORES)
    return Voice(outputs, part.share)


def _has_failed(asking: asyncio.Task[Voice]) -> bool:
    return asking.done() and not asking.cancelled() and asking.exception() is not None
