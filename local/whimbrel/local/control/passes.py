"""One pass of all controllers: reads every object, writes what follows from it, and says what is to run and be routed.

Level-triggered: a pass knows nothing of the one before, so that whatever was missed or killed is made good by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.local.api import kinds
from whimbrel.local.api.metadata import Object
from whimbrel.local.autoscaling import Scaling, read_scaling
from whimbrel.local.control import (
    conditions,
    deployments,
    eventing,
    inference,
    names,
    parts,
    pods,
    routing,
    serving,
    templates,
)
from whimbrel.local.control.outcome import Facts, Outcome, RevisionPlan, Tried
from whimbrel.local.control.pod_sets import PodSets
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.routing import Key
from whimbrel.local.control.world import World, is_leaving
from whimbrel.local.rollout import read_traffic

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 600.0
Step = Callable[[Object], None]


def run(world: World, facts: Facts) -> Outcome:
    """Everything, once."""
    return _Pass(world, facts).run()


class _Pass:
    def __init__(self, world: World, facts: Facts) -> None:
        self.world, self.facts = world, facts
        self.outcome = Outcome()
        self.pods = PodSets(world, facts, self.outcome)
        self._failures: dict[Key, dict[str, Any]] = {}  # of a revision's processes
        self._faults: dict[Key, dict[str, str]] = {}  # why a component of an InferenceService is nothing that runs

    def run(self) -> Outcome:
        for service in self._present(kinds.INFERENCE_SERVICE):
            self._alone(service, self._knative_services)
        for service in self._present(kinds.KNATIVE_SERVICE):
            self._alone(service, self._knative_service, self._keep_revisions)
        for service in self._present(kinds.INFERENCE_SERVICE):
            self._alone(service, self._inference_status)
        self._eventing()
        for deployment in self._present(kinds.DEPLOYMENT):
            self._alone(deployment, self.pods.of_deployment, self.pods.keep)
        for pod, _ in list(self.outcome.pods):
            self._alone(pod, self.pods.write_status)
        for service in self._present(kinds.KNATIVE_SERVICE):
            self._alone(service, self._routes, self._keep_routes)
        self._readiness()
        return self.outcome

    def _alone(self, found: Object, step: Step, keep: Step = lambda _: None) -> None:
        """What is wrong with one object stops no other, and no process of its own: `keep` has them go on as they are
        until the step is made again."""
        named, tried = f"{found['kind']} {'/'.join(names.of(found))}", _tried(found, step)
        if tried not in self.facts.resting:
            try:
                step(found)
            except Exception as error:
                logger.exception("%s is left as it is, and tried again", named)
                self.outcome.failed.add(tried)
                self.outcome.tell(found, "InternalError", f"{type(error).__name__}: {error}", "Warning")
            else:
                return
        keep(found)
        self.outcome.unready.append(f"{named} (a step of its controller fails and is tried again; see the log)")

    def _keep_revisions(self, service: Object) -> None:
        planned = {plan.key for plan in self.outcome.revisions}
        before = {plan.key: plan for plan in self.facts.before.revisions}
        for revision in self.world.owned(kinds.REVISION, service):
            self.pods.keep(revision)
            key = names.of(revision)
            if key not in planned and key in before:
                self.outcome.revisions.append(before[key])

    def _routes(self, service: Object) -> None:
        self.outcome.routes += routing.routes(self.world, service)

    def _keep_routes(self, service: Object) -> None:
        self.outcome.routes += [plan for plan in self.facts.before.routes if plan.owner == names.of(service)]

    # InferenceServices

    def _knative_services(self, service: Object) -> None:
        """Those of its components; what one is refused for is in its status."""
        found = [*self.world.of(kinds.SERVING_RUNTIME), *self.world.of(kinds.CLUSTER_SERVING_RUNTIME)]
        runtimes = inference.runtimes_of(service, found)
        wanted = inference.present(service)
        for component in wanted:
            try:
                rendered = inference.knative_service(service, component, runtimes)
            except InputRefused as error:
                self._faults.setdefault(names.of(service), {})[component] = str(error)
                continue
            self.world.ensure(kinds.KNATIVE_SERVICE, rendered)
        kept = {inference.component_name(service, each) for each in wanted}
        for each in self.world.owned(kinds.KNATIVE_SERVICE, service):
            if each["metadata"]["name"] not in kept:
                self.world.delete(kinds.KNATIVE_SERVICE, each)

    def _inference_status(self, service: Object) -> None:
        namespace, name = names.of(service)
        faults = self._faults.get((namespace, name), {})
        services = {
            each: self.world.find(kinds.KNATIVE_SERVICE, namespace, inference.component_name(service, each))
            for each in inference.present(service)
        }
        predictor = services.get("predictor") or {}
        created = predictor.get("status", {}).get("latestCreatedRevisionName", "")
        entry = names.qualified(inference.component_name(service, inference.entry(service)), namespace)
        addresses = (
            f"http://{names.host(name, namespace)}:{self.facts.gateway_port}",
            f"http://127.0.0.1:{self.facts.service_port(entry)}",
        )
        failure = self._failures.get((namespace, created))
        status = inference.status(service, services, faults, failure=failure, addresses=addresses, now=self.facts.time)
        self._tell_ready(kinds.INFERENCE_SERVICE, service, status)
        self.world.set_status(kinds.INFERENCE_SERVICE, service, status)

    # Knative services and their revisions

    def _knative_service(self, service: Object) -> None:
        revisions = self.world.owned(kinds.REVISION, service)
        extra = eventing.bound_environment(self.world, service)
        wanted = serving.new_revision(service, revisions, extra)
        if wanted is not None and (made := self.world.ensure(kinds.REVISION, wanted)) is not None:
            revisions.append(made)
            self.outcome.tell(service, "Created", f"Created Revision {made['metadata']['name']!r}")
        for old in serving.superfluous(service, revisions):
            self.world.delete(kinds.REVISION, old)
            revisions.remove(old)
        latest = max(revisions, key=serving.number, default=None)
        for revision in revisions:
            self._revision(service, revision, revision is latest)
        revisions = self.world.owned(kinds.REVISION, service)
        status = serving.service_status(service, revisions, self._addresses(service), self.facts.now)
        self._tell_ready(kinds.KNATIVE_SERVICE, service, status)
        self.world.set_status(kinds.KNATIVE_SERVICE, service, status)
        self._parts({**service, "status": status})

    def _parts(self, service: Object) -> None:
        now = self.facts.time
        if (found := self.world.ensure(kinds.CONFIGURATION, parts.configuration(service))) is not None:
            self.world.set_status(kinds.CONFIGURATION, found, parts.configuration_status(found, service, now))
        if (found := self.world.ensure(kinds.ROUTE, parts.route(service))) is not None:
            self.world.set_status(kinds.ROUTE, found, parts.route_status(found, service, now))

    def _addresses(self, service: Object) -> dict[str, str]:
        namespace, name = names.of(service)
        port = self.facts.gateway_port
        tags = [target.tag for target in read_traffic(service["spec"].get("traffic", [])) if target.tag]
        found = {tag: f"http://{names.host(f'{tag}-{name}', namespace)}:{port}" for tag in tags}
        found[""] = f"http://{names.host(name, namespace)}:{port}"
        found["internal"] = f"http://127.0.0.1:{self.facts.service_port(names.qualified(name, namespace))}"
        return found

    def _revision(self, service: Object, revision: Object, latest: bool) -> None:
        key = names.of(revision)
        annotations = names.annotations_of(revision)
        limit = int(revision["spec"].get("containerConcurrency") or 0)
        try:
            scaling = read_scaling(annotations, limit, self.facts.stable_seconds)
        except InputRefused:  # refused at the door already
            scaling = Scaling(limit=limit, stable_seconds=self.facts.stable_seconds)
        fixed = self._fixed(revision, latest, scaling)
        if fixed is None and not _is_reached(service, key[1]):
            scaling = replace(scaling, least=0)
        plan = RevisionPlan(key, scaling, fixed)
        self.outcome.revisions.append(plan)
        wanted = plan.fixed if plan.fixed is not None else self._scaled(revision, scaling)
        running = self.pods.of(revision, key[1], templates.of_revision(revision), wanted)
        seen = [self.facts.seen.get(names.of(pod), Seen()) for pod in running]
        failures = [failure for each in seen if (failure := pods.failure_of(each)) is not None and not each.ready]
        if failures:
            self._failures[key] = failures[0]
        was_ready = conditions.is_ready(revision)
        status = serving.revision_status(
            revision,
            ready=sum(each.ready for each in seen),
            wanted=wanted,
            failure=failures[0]["message"] if failures else "",
            deadline_seconds=_deadline(annotations),
            now=self.facts.now,
        )
        self.world.set_status(kinds.REVISION, revision, status)
        if not was_ready and any(each.ready for each in seen):
            self.outcome.tell(revision, "RevisionReady", f"Revision {key[1]!r} is ready")

    def _scaled(self, revision: Object, scaling: Scaling) -> int:
        """What the autoscaler wants; until it has looked, a revision keeps what it has."""
        present = len(self.world.owned(kinds.POD, revision))
        return self.facts.replicas.get(names.of(revision), max(scaling.least, present))

    def _fixed(self, revision: Object, latest: bool, scaling: Scaling) -> int | None:
        """The number of processes of a revision that no autoscaler decides on."""
        state = conditions.read(revision, "Ready").status
        if state == "True":
            return None
        if latest and state == "Unknown":
            return max(1, scaling.least)  # so that it can become ready
        return 0

    # Eventing

    def _eventing(self) -> None:
        world, now = self.world, self.facts.time
        unresolved = f"http://127.0.0.1:{self.facts.gateway_port}/unresolved"
        for broker in self._present(kinds.BROKER):
            namespace, name = names.of(broker)
            address = f"http://127.0.0.1:{self.facts.broker_port}/{namespace}/{name}"
            running = names.of(broker) in self.facts.brokers_running
            status = eventing.broker_status(world, broker, address, running, now)
            self._tell_ready(kinds.BROKER, broker, status)
            world.set_status(kinds.BROKER, broker, status)
        for trigger in self._present(kinds.TRIGGER):
            status = eventing.trigger_status(world, trigger, now)
            self._tell_ready(kinds.TRIGGER, trigger, status)
            world.set_status(kinds.TRIGGER, trigger, status)
        for source in self._present(kinds.CONTAINER_SOURCE):
            self._alone(source, self._source, self.pods.keep)
        for binding in self._present(kinds.SINK_BINDING):
            bound = len(eventing.subjects(world, binding))
            world.set_status(kinds.SINK_BINDING, binding, eventing.binding_status(world, binding, bound, now))
        self.outcome.broker = eventing.broker_configuration(world, unresolved)

    def _source(self, source: Object) -> None:
        given = eventing.source_environment(self.world, source)
        owned = self.world.owned(kinds.POD, source)
        if given is None:  # what runs may go on: its sink keeps its address
            running = owned
            self.pods.keep(source)
        else:
            template = serving.with_environment(templates.of_source(source), given)
            running = self.pods.of(source, names.of(source)[1], template, 1)
        seen = [self.facts.seen.get(names.of(pod), Seen()) for pod in running]
        failure = next((each.fault or each.last_exit for each in seen if not each.ready), "")
        status = eventing.source_status(self.world, source, any(each.ready for each in seen), failure, self.facts.time)
        self._tell_ready(kinds.CONTAINER_SOURCE, source, status)
        self.world.set_status(kinds.CONTAINER_SOURCE, source, status)

    # Readiness

    def _readiness(self) -> None:
        listed = [*self._present(kinds.INFERENCE_SERVICE), *self._present(kinds.KNATIVE_SERVICE)]
        for found in [*listed, *eventing.everything(self.world)]:
            ready = conditions.read(found, "Ready")
            if ready.status != "True":
                said = ready.message or ready.reason or "not ready yet"
                self.outcome.unready.append(f"{found['kind']} {found['metadata']['name']} ({said})")
        for found in self._present(kinds.DEPLOYMENT):
            if why := deployments.unready(found):
                self.outcome.unready.append(f"Deployment {found['metadata']['name']} ({why})")

    def _present(self, kind: kinds.Kind) -> list[Object]:
        return [each for each in self.world.of(kind) if not is_leaving(each)]

    # Events

    def _tell_ready(self, kind: kinds.Kind, found: Object, status: Mapping[str, Any]) -> None:
        """A change of readiness is worth an event."""
        before, after = conditions.read(found, "Ready"), conditions.read({"status": status}, "Ready")
        if after.status not in (before.status, "Unknown"):
            ready = after.status == "True"
            said = after.reason if " " not in after.reason else ""
            reason = f"{kind.kind}Ready" if ready else (said or f"{kind.kind}NotReady")
            name = found["metadata"]["name"]
            message = after.message or f"{kind.kind} {name!r} is {'' if ready else 'not '}ready"
            self.outcome.tell(found, reason, message, "Normal" if after.status == "True" else "Warning")


def _tried(found: Object, step: Step) -> Tried:
    return found["metadata"]["uid"], found["metadata"].get("generation", 1), step.__name__


def _deadline(annotations: Mapping[str, str]) -> float:
    text = annotations.get(names.PROGRESS_DEADLINE, "")
    number = text.removesuffix("s")
    return float(number) if number.replace(".", "", 1).isdigit() else _PROGRESS_SECONDS


def _is_reached(service: Object, revision: str) -> bool:
    """Whether traffic or a tag leads to it: only then does its min-scale hold."""
    traffic = read_traffic((service.get("status") or {}).get("traffic", []))
    return any(target.revision == revision for target in traffic)
