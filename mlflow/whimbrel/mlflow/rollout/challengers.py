"""Follows the alias `challenger` of each model that has a template: looks where it points, and starts its rollout.

Level-triggered: every so often, and whenever a webhook says that an alias was moved, each look starts from what the
registry and the API say now. A webhook that is lost costs the time to the next look; two controllers, or one that is
killed anywhere, make one rollout, because its name follows from what both see and the API takes a name once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from whimbrel.core.errors import InputRefused, NotFound, SettingsError, WhimbrelError
from whimbrel.core.logs import log_fields
from whimbrel.core.model_pointer import PointedVersion, pointed
from whimbrel.core.registry import resolve
from whimbrel.kube.answers import Conflict
from whimbrel.kube.client import Client, Object
from whimbrel.kube.kinds import MODEL_ROLLOUT
from whimbrel.mlflow import registry_view
from whimbrel.mlflow.registry_view import CHALLENGER, CHAMPION
from whimbrel.mlflow.rollout import receiver
from whimbrel.mlflow.rollout.intent import (
    STARTED_BY,
    STARTED_BY_ALIAS,
    Existing,
    Start,
    Supersede,
    Wait,
    may_be_superseded,
    next_step,
)
from whimbrel.mlflow.rollout.intent_settings import IntentSettings
from whimbrel.mlflow.rollout.known_objects import read_known_objects
from whimbrel.mlflow.rollout.resource import Decision, new, parse
from whimbrel.mlflow.rollout.templates import Template, read_templates
from whimbrel.mlflow.rollout.webhook import MovedAlias

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

WAITING_SECONDS: Final = 2.0  # between two looks while a challenger waits for another rollout, which no one announces


def follow(
    cluster: Client, s3: S3Client, settings: IntentSettings, namespace: str
) -> tuple[Coroutine[None, None, None], ...]:
    """What runs beside the controller until it is cancelled; nothing without templates. Raises SettingsError."""
    templates, registry = settings.rollout_templates, settings.mlflow_tracking_uri
    if templates is None or not registry:
        return ()
    try:
        read_templates(templates)
    except InputRefused as error:
        raise SettingsError(f"setting WHIMBREL_ROLLOUT_TEMPLATES: {error}") from None
    challengers = Challengers(
        cluster, s3, namespace, registry=registry, templates=templates, poll_seconds=settings.alias_poll_seconds
    )
    if settings.webhook_port is None:
        return (challengers.run(),)
    received = receiver.Receiver(settings.secret_of_webhooks(), challengers.moved)
    listener = receiver.listen(settings.webhook_host, settings.webhook_port)
    return challengers.run(), receiver.serve(received, listener)


@dataclass(frozen=True, slots=True)
class _Versions:
    challenger: PointedVersion
    champion: PointedVersion


class Challengers:
    """Belongs to one event loop; `run` it until cancelled."""

    def __init__(
        self, cluster: Client, s3: S3Client, namespace: str, *, registry: str, templates: Path, poll_seconds: float
    ) -> None:
        self._cluster, self._s3, self._namespace = cluster, s3, namespace
        self._registry, self._file, self._poll_seconds = registry, templates, poll_seconds
        self._wake = asyncio.Event()
        self._said: dict[str, str] = {}
        self._waits = False

    def moved(self, alias: MovedAlias) -> None:
        """A webhook says so: look now."""
        logger.info("announced: %s of %s at version %s", alias.alias, alias.model, alias.version)
        if alias.alias == CHALLENGER:
            self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            self._waits = False
            await self.look()
            seconds = min(self._poll_seconds, WAITING_SECONDS) if self._waits else self._poll_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def look(self) -> None:
        """At every model once. What is in the way is told once, and looked at again the next time."""
        templates = await self._templates()
        for model, template in templates.items():
            with log_fields(model=model):
                self._tell(model, await self._tried(template))

    async def _templates(self) -> Mapping[str, Template]:
        """As the file is now: a ConfigMap is changed while it is mounted."""
        try:
            found = await asyncio.to_thread(read_templates, self._file)
        except InputRefused as error:
            self._tell("", str(error))
            return {}
        self._tell("", "")
        return found

    async def _tried(self, template: Template) -> str:
        """What is in the way; empty when nothing is."""
        try:
            return await self._look_at(template)
        except Conflict:
            return ""  # another was faster: the next look sees what it wrote
        except WhimbrelError as error:
            return str(error)
        except Exception as error:  # of one model: the others go on
            logger.exception("unexpected")
            return f"unexpected {type(error).__name__}: {error}"

    async def _look_at(self, template: Template) -> str:
        versions = await asyncio.to_thread(self._versions, template.model)
        if versions is None:
            return ""
        listed = (await self._cluster.list(MODEL_ROLLOUT, self._namespace)).objects
        names = {found["metadata"]["name"] for found in listed}
        match next_step(template.model, versions.challenger, _of_model(listed, template.model), names):
            case Start(name):
                await self._start(template, versions, name)
            case Supersede(name):
                self._waits = True
                await self._supersede(name, versions)
            case Wait(name):
                self._waits = True
                return f"version {versions.challenger.version} waits for the end of the rollout {name}"
        return ""

    def _versions(self, model: str) -> _Versions | None:
        """None where nothing is asked for: no challenger, or the champion itself."""
        aliases = registry_view.list_aliases(self._registry, model)
        if CHALLENGER not in aliases or aliases[CHALLENGER] == aliases.get(CHAMPION):
            return None
        if CHAMPION not in aliases:
            raise NotFound(
                f"expected a champion of {model!r} to compare its challenger with, seen none; point it at what serves "
                f"with 'whimbrel model alias {model}/VERSION champion'"
            )
        return _Versions(*(_pointed(model, aliases[alias], self._registry) for alias in (CHALLENGER, CHAMPION)))

    async def _start(self, template: Template, versions: _Versions, name: str) -> None:
        uri = template.known_objects
        known = () if uri is None else await asyncio.to_thread(read_known_objects, self._s3, uri)
        truth_known = uri is None or any(each.label for each in known)
        spec = template.spec(versions.challenger, versions.champion, truth_known=truth_known)
        await self._cluster.create(new(self._namespace, name, spec, STARTED_BY_ALIAS))
        logger.info("rollout %s: version %s is the challenger", name, versions.challenger.version)

    async def _supersede(self, name: str, versions: _Versions) -> None:
        def superseded(found: Object) -> Object | None:
            if not may_be_superseded(parse(found)):  # what was listed is some moments old
                return None
            return {**found, "spec": {**found["spec"], "decision": Decision.SUPERSEDE.value}}

        patched = await self._cluster.patch(MODEL_ROLLOUT, name, self._namespace, superseded)
        if parse(patched).spec.superseded:
            logger.info("rollout %s: superseded by version %s", name, versions.challenger.version)

    def _tell(self, about: str, trouble: str) -> None:
        """Once, and once more when it is over."""
        before = self._said.get(about, "")
        self._said[about] = trouble
        if trouble and trouble != before:
            logger.warning("%s", trouble)
        elif before and not trouble:
            logger.info("no longer in the way: %s", before)


def _pointed(model: str, version: str, tracking_uri: str) -> PointedVersion:
    return pointed(resolve(f"models:/{model}/{version}", tracking_uri))


def _of_model(listed: tuple[Object, ...], model: str) -> list[Existing]:
    """A malformed rollout is the controller's to name; here it only keeps its name."""
    existing = []
    for found in listed:
        try:
            rollout = parse(found)
        except InputRefused:
            continue
        by_alias = (found["metadata"].get("labels") or {}).get(STARTED_BY) == CHALLENGER
        if rollout.spec.model == model:
            existing.append(Existing(rollout, by_alias))
    return existing
