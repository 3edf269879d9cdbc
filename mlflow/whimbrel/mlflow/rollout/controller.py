"""Carries out every ModelRollout of a namespace: looks, decides, writes the status, moves the traffic; again and again.

Level-triggered: each round starts from what the API and the store say now. Two controllers do no harm: the status and
the model pointer are written only by the one who read what it replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Iterable, Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from whimbrel.core.errors import InputRefused, NotFound, WhimbrelError
from whimbrel.core.logs import log_fields
from whimbrel.core.model_pointer import PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import BucketName, HttpUrl
from whimbrel.kube.answers import Conflict
from whimbrel.kube.client import Client, Object
from whimbrel.kube.inference import read_status
from whimbrel.kube.kinds import INFERENCE_SERVICE, MODEL_ROLLOUT
from whimbrel.mlflow import registry_view
from whimbrel.mlflow.rollout import challengers
from whimbrel.mlflow.rollout.by_revision import ByRevision, asked_by, versions_as_served
from whimbrel.mlflow.rollout.comparing import Comparing, Place
from whimbrel.mlflow.rollout.evidence_store import EvidenceStore
from whimbrel.mlflow.rollout.in_place import InPlace
from whimbrel.mlflow.rollout.intent_settings import IntentSettings
from whimbrel.mlflow.rollout.known_objects import read_known_objects
from whimbrel.mlflow.rollout.live import LiveSource
from whimbrel.mlflow.rollout.live_results import ResultsSource, Walk
from whimbrel.mlflow.rollout.movement import Mover
from whimbrel.mlflow.rollout.ownership import rivals_of
from whimbrel.mlflow.rollout.prometheus import PrometheusSource
from whimbrel.mlflow.rollout.reconcile import (
    JUDGED,
    LEAVING,
    Seen,
    Traffic,
    ended_unseen,
    next_move,
    next_status,
    wanted,
)
from whimbrel.mlflow.rollout.resource import ENDS, ModelRollout, Phase, Spec, Status, parse, status_document
from whimbrel.mlflow.rollout.work import Asking, Work

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)


class RolloutSettings(IntentSettings):
    """`whimbrel rollout run`."""

    namespace: str = Field(default="default", description="whose ModelRollouts are carried out")
    poll_seconds: float = Field(default=2.0, gt=0, le=300, description="between two rounds")
    prometheus_url: HttpUrl | None = Field(
        default=None, description="Prometheus that scrapes the predictors: live errors and latency are taken from it"
    )
    prometheus_selector: str = Field(
        default="", max_length=500, description='more matchers of its series, as namespace="birds"'
    )
    results_bucket: BucketName | None = Field(
        default=None, description="without Prometheus: where the results tell of live latency and answers"
    )
    dead_letters_bucket: BucketName | None = Field(
        default=None, description="and where dead letters tell of live errors"
    )
    in_cluster: bool = Field(default=False, description="reach services by their addresses inside the cluster")


async def control(cluster: Client, settings: RolloutSettings) -> None:
    """Carry out rollouts, and start those that the registry asks for, until SIGTERM or SIGINT.

    Raises SettingsError for what is wrong with the settings of webhooks and templates."""
    stop = asyncio.Event()
    s3 = s3_client(settings)
    parts = (*challengers.follow(cluster, s3, settings, settings.namespace), Controller(cluster, s3, settings).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(_together(parts))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if running.done():
        running.result()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _together(parts: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)


class Controller:
    """Belongs to one event loop; `run` it until cancelled."""

    def __init__(self, cluster: Client, s3: S3Client, settings: RolloutSettings) -> None:
        self._cluster, self._s3, self._settings = cluster, s3, settings
        self._http = httpx.AsyncClient()
        self._works: dict[str, Work] = {}
        self._unseen: dict[str, datetime] = {}  # since when each look at the traffic of these found nothing

    async def run(self) -> None:
        try:
            while True:
                await self.round()
                await asyncio.sleep(self._settings.poll_seconds)
        finally:
            await asyncio.gather(*(work.stop() for work in self._works.values()))
            await self._http.aclose()

    async def round(self) -> None:
        """Each rollout once. What fails is logged, and tried again in the next round."""
        try:
            listed = await self._cluster.list(MODEL_ROLLOUT, self._settings.namespace)
        except WhimbrelError as error:
            logger.warning("%s", error)
            return
        alive: set[str] = set()
        for found in listed.objects:
            with log_fields(rollout=found["metadata"]["name"]):
                alive |= await self._tried(found)
        await self._forget(alive)

    async def _tried(self, found: Object) -> set[str]:
        """The uid of a rollout that goes on."""
        try:
            rollout = parse(found)
            if rollout.ended:
                return set()
            await self._reconcile(rollout)
        except Conflict:
            pass  # another was faster: the next round sees what it wrote
        except WhimbrelError as error:
            await self._tell(found, str(error))
        except Exception as error:  # of one rollout: the others go on
            logger.exception("unexpected")
            await self._tell(found, f"unexpected {type(error).__name__}: {error}")
        return {found["metadata"]["uid"]}

    async def _tell(self, found: Object, trouble: str) -> None:
        """In the status, where people look; a malformed rollout has no other place."""
        if (found.get("status") or {}).get("message") == trouble:
            return
        logger.warning("%s", trouble)
        metadata = found["metadata"]

        def told(now: Object) -> Object:
            return {**now, "status": {**(now.get("status") or {}), "message": trouble}}

        with contextlib.suppress(WhimbrelError):
            await self._cluster.patch(
                MODEL_ROLLOUT, metadata["name"], metadata["namespace"], told, subresource="status"
            )

    async def _reconcile(self, rollout: ModelRollout) -> None:
        mover, rivals = self._mover(rollout), await self._rivals(rollout)
        traffic = await self._traffic(rollout, mover)
        if traffic is None:
            return
        work = self._work(rollout)
        now = datetime.now(UTC)
        evidence = await asyncio.to_thread(work.evidence, rollout, traffic.requests)
        seen = Seen(now, traffic, evidence, work.backtested, work.trouble, rivals)
        status = await asyncio.to_thread(next_status, rollout, seen)
        if status.phase in ENDS and rollout.status.phase in LEAVING and traffic.like(wanted(rollout)):
            status = await self._with_alias_at(traffic.current, rollout.spec, status)
        if status != rollout.status:
            rollout = await self._write(rollout, status)
        if status.claimed is not None and status.claimed == now:
            await self._reconcile(rollout)  # the second look, without waiting for the next round
            return
        target = next_move(rollout, traffic)
        if target is not None:
            await mover.move(target, traffic)
        work.follow(rollout)

    async def _traffic(self, rollout: ModelRollout, mover: Mover) -> Traffic | None:
        """None once the rollout has ended for want of it. Raises what the look raises."""
        unseen = self._unseen.pop(rollout.uid, None)
        try:
            return await mover.look()
        except NotFound as error:
            now = datetime.now(UTC)
            since = self._unseen[rollout.uid] = unseen or now
            status = ended_unseen(rollout, since, now, str(error))
            if status is None:
                raise
        await self._write(rollout, status)
        return None

    async def _rivals(self, rollout: ModelRollout) -> tuple[ModelRollout, ...]:
        """Listed after the rollout was read, so that a claim of its own is in the list; and before the traffic is seen,
        so that it is what an ended one left."""
        if rollout.status.phase is not Phase.PENDING:
            return ()
        listed = await self._cluster.list(MODEL_ROLLOUT, rollout.namespace)
        return rivals_of(rollout, _well_formed(listed.objects))

    def _mover(self, rollout: ModelRollout) -> Mover:
        spec = rollout.spec
        if spec.pointer is None:
            return ByRevision(self._cluster, rollout)
        store = PointerStore(self._s3, ObjectRef.from_uri(spec.pointer))
        return InPlace(store, spec.champion, spec.candidate)

    def _work(self, rollout: ModelRollout) -> Work:
        if rollout.uid not in self._works:
            spec = rollout.spec
            evidence = EvidenceStore(self._s3, spec.evidence, rollout.uid)
            self._works[rollout.uid] = Work(spec, partial(self._asking, rollout), self._live_source, evidence)
        return self._works[rollout.uid]

    async def _asking(self, rollout: ModelRollout) -> Asking | None:
        spec = rollout.spec
        if spec.known_objects is None:
            return None
        known = await asyncio.to_thread(read_known_objects, self._s3, spec.known_objects)
        service = await self._cluster.get(INFERENCE_SERVICE, spec.inference_service, rollout.namespace)
        place = self._place(service, spec.inference_service)
        asked = asked_by(service, spec)
        return Asking(Comparing(self._http, place, spec.inference_service, *asked), known)

    async def _live_source(self, rollout: ModelRollout) -> LiveSource | None:
        """Prometheus where there is one, else the results where it is known where they lie."""
        spec, settings = rollout.spec, self._settings
        if settings.prometheus_url is not None:
            service = await self._cluster.get(INFERENCE_SERVICE, spec.inference_service, rollout.namespace)
            champion, candidate = versions_as_served(service, spec)
            known = {champion: spec.champion.version, candidate: spec.candidate.version}
            return PrometheusSource(
                self._http, settings.prometheus_url, spec.inference_service, known, settings.prometheus_selector
            )
        if settings.results_bucket is None:
            return None
        digests = {each.digest: each.version for each in (spec.champion, spec.candidate)}
        since = min(entry.time for entry in rollout.status.history if entry.phase in JUDGED)
        letters = settings.dead_letters_bucket
        return ResultsSource(
            spec.inference_service,
            digests,
            Walk(self._s3, settings.results_bucket, since),
            None if letters is None else Walk(self._s3, letters, since),
        )

    def _place(self, service: Object, name: str) -> Place:
        """`NAME.localhost` is this machine, whatever the resolver knows of it (RFC 6761)."""
        status = read_status(service)
        url = status.cluster_url if self._settings.in_cluster else status.url
        parts = urlsplit(url)
        if not parts.hostname:
            raise InputRefused(f"expected an address in the status of the InferenceService {name!r}, seen {url!r}")
        if not parts.hostname.endswith(".localhost"):
            return Place(url)
        return Place(f"{parts.scheme}://127.0.0.1:{parts.port or 80}", parts.netloc)

    async def _write(self, rollout: ModelRollout, status: Status) -> ModelRollout:
        """Raises Conflict when the object is not the one that the status was decided from."""

        def changed(found: Object) -> Object:
            if found["metadata"]["resourceVersion"] != rollout.resource_version:
                raise Conflict(f"expected {rollout.name} as it was read; another has written it")
            return {**found, "status": status_document(status)}

        written = await self._cluster.patch(
            MODEL_ROLLOUT, rollout.name, rollout.namespace, changed, subresource="status"
        )
        if status.phase is not rollout.status.phase or status.step != rollout.status.step:
            logger.info("%s %d%%: %s", status.phase, status.percent, status.message)
        return parse(written)

    async def _with_alias_at(self, serving: str, spec: Spec, status: Status) -> Status:
        """The champion's, before the end is written, so that a kill between the two does it again. What the registry
        no longer has, no later round finds: the end says so."""
        uri = self._settings.mlflow_tracking_uri
        if uri is None:
            return status
        try:
            await asyncio.to_thread(registry_view.set_alias, uri, spec.model, registry_view.CHAMPION, serving)
        except NotFound as error:
            told = f"{status.message}; the alias {registry_view.CHAMPION} stays where it was: {error}"
            return status.model_copy(update={"message": told})
        return status

    async def _forget(self, alive: AbstractSet[str]) -> None:
        for uid in self._unseen.keys() - alive:
            del self._unseen[uid]
        for uid in self._works.keys() - alive:
            await self._works.pop(uid).stop()


def _well_formed(listed: Iterable[Object]) -> Iterator[ModelRollout]:
    for found in listed:
        with contextlib.suppress(InputRefused):  # it moves nothing, and its status says why
            yield parse(found)
