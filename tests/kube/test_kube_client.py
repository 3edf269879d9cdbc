"""The client against the API server of the one-machine engine, over its own HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from testbed.kubernetes_api import KubernetesApi, inference_service
from whimbrel.core.errors import DeadlinePassed, InputRefused, NotFound, SettingsError
from whimbrel.kube.answers import Conflict, Forbidden
from whimbrel.kube.client import PATCH_ATTEMPTS, Client, Object, client
from whimbrel.kube.kinds import BROKER, CONFIG_MAP, INFERENCE_SERVICE, NAMESPACE, POD, Kind
from whimbrel.kube.logs import logs
from whimbrel.kube.services import traffic
from whimbrel.kube.waiting import is_gone, is_ready, wait_for
from whimbrel.kube.watching import Change, changes

pytestmark = pytest.mark.anyio


def config_map(name: str, namespace: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def broker(name: str, namespace: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": metadata, "spec": {}}


def with_data(**data: str) -> Callable[[Object], Object]:
    return lambda found: {**found, "data": {**found.get("data", {}), **data}}


def with_conditions(*conditions: Object, **status: Any) -> Callable[[Object], Object]:
    return lambda found: {**found, "status": {"conditions": list(conditions), **status}}


async def test_apply_creates_changes_and_leaves_alone(cluster: Client, namespace: str) -> None:
    first = await cluster.apply(config_map("one", namespace, a="1"))
    again = await cluster.apply(config_map("one", namespace, a="1"))
    changed = await cluster.apply(config_map("one", namespace, b="2"))

    assert (first.created, again.created) == (True, False)
    assert again.document["metadata"]["resourceVersion"] == first.document["metadata"]["resourceVersion"]
    assert changed.document["data"] == {"b": "2"}, "what was applied before and is no longer, goes"
    assert (await cluster.get(CONFIG_MAP, "one", namespace))["data"] == {"b": "2"}


async def test_a_dry_run_changes_nothing(cluster: Client, namespace: str) -> None:
    await cluster.apply(config_map("dry", namespace, a="1"), dry_run=True)

    assert await cluster.find(CONFIG_MAP, "dry", namespace) is None


async def test_another_manager_keeps_its_field_unless_forced(
    api: KubernetesApi, cluster: Client, namespace: str
) -> None:
    theirs = config_map("shared", namespace, a="theirs")
    with api.client(**{"content-type": "application/apply-patch+yaml"}) as kubectl:
        path = f"/api/v1/namespaces/{namespace}/configmaps/shared"
        assert kubectl.patch(path, params={"fieldManager": "gitops"}, json=theirs).status_code == 201

    with pytest.raises(Conflict, match="gitops"):
        await cluster.apply(config_map("shared", namespace, a="ours"))
    forced = await cluster.apply(config_map("shared", namespace, a="ours"), force=True)

    assert forced.document["data"] == {"a": "ours"}


async def test_a_field_that_nobody_knows_is_refused_by_its_path(cluster: Client, namespace: str) -> None:
    found = inference_service("typo", minReplica=1)
    found["metadata"]["namespace"] = namespace

    with pytest.raises(InputRefused, match=r"spec\.predictor\.minReplica"):
        await cluster.apply(found)


async def test_what_is_taken_but_not_enforced_is_a_warning(cluster: Client, namespace: str) -> None:
    found = inference_service("warned", enableServiceLinks=False)
    found["metadata"]["namespace"] = namespace

    answer = await cluster.apply(found)

    assert any("spec.predictor.enableServiceLinks" in warning for warning in answer.warnings)


async def test_a_kind_that_the_server_lacks(cluster: Client) -> None:
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}, "spec": {}}

    with pytest.raises(NotFound, match=r"ScaledObject \(keda.sh/v1alpha1\)"):
        await cluster.apply(scaled)
    with pytest.raises(NotFound):
        await cluster.list(Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects"))


async def test_a_kind_outside_our_table_is_looked_up(cluster: Client, namespace: str) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": namespace},
        "spec": {"holderIdentity": "me"},
    }

    assert (await cluster.apply(lease)).created
    kind = await cluster.kind_of(lease)
    assert (kind.plural, kind.namespaced) == ("leases", True)
    assert (await cluster.get(kind, "l", namespace))["spec"]["holderIdentity"] == "me"


async def test_an_object_without_a_shape(cluster: Client) -> None:
    with pytest.raises(InputRefused, match="expected an object with apiVersion, kind and"):
        await cluster.apply({"kind": "Broker"})


async def test_lists_are_read_page_by_page(cluster: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        await cluster.apply(config_map(f"page-{number}", namespace))
    monkeypatch.setattr("whimbrel.kube.client.PAGE", 3)

    listed = await cluster.list(CONFIG_MAP, namespace)

    assert [each["metadata"]["name"] for each in listed.objects] == [f"page-{number}" for number in range(7)]
    assert {each["kind"] for each in listed.objects} == {"ConfigMap"}


async def test_a_patch_survives_all_others(cluster: Client, namespace: str) -> None:
    await cluster.apply(config_map("counted", namespace, count="0"))

    def increased(found: Object) -> Object:
        return {**found, "data": {**found["data"], "count": str(int(found["data"]["count"]) + 1)}}

    await asyncio.gather(*(cluster.patch(CONFIG_MAP, "counted", namespace, increased) for _ in range(4)))

    assert (await cluster.get(CONFIG_MAP, "counted", namespace))["data"]["count"] == "4"


async def test_a_patch_gives_up_when_it_always_comes_too_late(
    api: KubernetesApi, cluster: Client, namespace: str
) -> None:
    await cluster.apply(config_map("busy", namespace, ours="0"))
    seen = []

    def change(found: Object) -> Object:
        """Between the reading and the patch, somebody else writes."""
        seen.append(found["metadata"]["resourceVersion"])
        with api.client(**{"content-type": "application/merge-patch+json"}) as other:
            path = f"/api/v1/namespaces/{namespace}/configmaps/busy"
            assert other.patch(path, json={"data": {"theirs": seen[-1]}}).status_code == 200
        return with_data(ours="1")(found)

    with pytest.raises(Conflict):
        await cluster.patch(CONFIG_MAP, "busy", namespace, change)

    assert len(set(seen)) == PATCH_ATTEMPTS
    assert (await cluster.get(CONFIG_MAP, "busy", namespace))["data"] == {"ours": "0", "theirs": seen[-1]}


async def test_an_exact_patch_is_of_what_was_read_and_of_nothing_later(cluster: Client, namespace: str) -> None:
    before = (await cluster.apply(config_map("exact", namespace, a="1"))).document
    change = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}]
    after = await cluster.patch_exactly(CONFIG_MAP, before, change)
    assert after["data"] == {"a": "2"}

    for late in (change, [{"op": "add", "path": "/data/b", "value": "3"}]):
        with pytest.raises(Conflict, match="somebody has changed it"):
            await cluster.patch_exactly(CONFIG_MAP, before, late)
    with pytest.raises(InputRefused):
        await cluster.patch_exactly(CONFIG_MAP, after, [{"op": "test", "path": "/data/a", "value": "1"}])
    assert (await cluster.get(CONFIG_MAP, "exact", namespace))["data"] == {"a": "2"}


async def test_a_patch_without_a_difference_is_not_sent(cluster: Client, namespace: str) -> None:
    before = (await cluster.apply(config_map("same", namespace, a="1"))).document

    assert await cluster.patch(CONFIG_MAP, "same", namespace, lambda found: found) == before
    assert await cluster.patch(CONFIG_MAP, "same", namespace, lambda _: None) == before


async def test_create_refuses_what_exists(cluster: Client, namespace: str) -> None:
    await cluster.create(config_map("new", namespace))

    with pytest.raises(Conflict):
        await cluster.create(config_map("new", namespace))


async def test_changes_are_seen_once_each_and_without_a_gap(cluster: Client, namespace: str) -> None:
    await cluster.apply(config_map("seen", namespace, a="0"))
    seen = []

    async with aclosing(changes(cluster, CONFIG_MAP, namespace)) as changed, asyncio.timeout(30):
        async for each in changed:
            seen.append((each.change, each.object.get("data", {}).get("a")))
            if each.change is Change.DELETED:
                break
            step = int(each.object["data"]["a"])
            if step < 3:
                await cluster.patch(CONFIG_MAP, "seen", namespace, with_data(a=str(step + 1)))
            else:
                await cluster.delete(CONFIG_MAP, "seen", namespace)

    assert [change for change, _ in seen if change is not Change.MODIFIED] == [Change.ADDED, Change.DELETED]
    assert [step for _, step in seen[:4]] == ["0", "1", "2", "3"]


async def test_wait_tells_what_it_waits_for(cluster: Client, namespace: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def condition(status: str, reason: str) -> None:
        change = with_conditions({"type": "Ready", "status": status, "reason": reason})
        await cluster.patch(BROKER, "slow", namespace, change, subresource="status")

    async def mended() -> list[str]:
        """Each reason that is told leads to the next step."""
        reasons = [await told.get()]
        await cluster.apply(broker("slow", namespace))
        reasons.append(await told.get())
        await condition("False", "DeadLetterSinkUnresolved")
        reasons.append(await told.get())
        await condition("True", "")
        return reasons

    async with asyncio.timeout(30):
        found, reasons = await asyncio.gather(
            wait_for(cluster, BROKER, "slow", namespace, is_ready, seconds=25, tell=told.put_nowait), mended()
        )

    assert found is not None and found["metadata"]["name"] == "slow"
    assert reasons == [
        "it does not exist",
        "Ready is Unknown (no controller has looked at it yet)",
        "Ready is False (DeadLetterSinkUnresolved)",
    ]


async def test_wait_ends_with_the_last_reason(cluster: Client, namespace: str) -> None:
    await cluster.apply(broker("never", namespace))
    condition = {"type": "Ready", "status": "Unknown", "reason": "ChannelNotReady", "message": "no pods"}
    await cluster.patch(BROKER, "never", namespace, with_conditions(condition), subresource="status")

    with pytest.raises(DeadlinePassed, match=r"'never' to be Ready within 0.5 s; .*ChannelNotReady: no pods"):
        await wait_for(cluster, BROKER, "never", namespace, is_ready, seconds=0.5)


async def test_wait_does_not_wait_for_what_was_denied(cluster: Client, namespace: str) -> None:
    await cluster.apply(broker("denied", namespace))
    message = 'admission webhook "validation" denied the request: must not set the field(s)'
    condition = {"type": "Ready", "status": "False", "reason": "ReconcileFailed", "message": message}
    await cluster.patch(BROKER, "denied", namespace, with_conditions(condition), subresource="status")

    with pytest.raises(InputRefused, match="must not set the field"):
        await wait_for(cluster, BROKER, "denied", namespace, is_ready, seconds=600)


async def test_wait_until_it_is_gone(cluster: Client, namespace: str) -> None:
    await cluster.apply(broker("leaving", namespace))
    await cluster.delete(BROKER, "leaving", namespace)

    assert await wait_for(cluster, BROKER, "leaving", namespace, is_gone, seconds=20, wanted="gone") is None
    with pytest.raises(NotFound, match=r"expected to delete .*'leaving'"):
        await cluster.delete(BROKER, "leaving", namespace)


async def test_who_gets_the_traffic(cluster: Client, namespace: str) -> None:
    found = inference_service("split")
    found["metadata"]["namespace"] = namespace
    await cluster.apply(found)
    share = {"revisionName": "split-predictor-00002", "percent": 20, "latestRevision": True, "tag": "latest"}
    components = {"predictor": {"traffic": [share, {"revisionName": "split-predictor-00001", "percent": 80}]}}
    change = with_conditions({"type": "Ready", "status": "True"}, components=components)
    await cluster.patch(INFERENCE_SERVICE, "split", namespace, change, subresource="status")

    shares = await traffic(cluster, "split", namespace)

    assert [(each.revision, each.percent) for each in shares["predictor"]] == [
        ("split-predictor-00002", 20),
        ("split-predictor-00001", 80),
    ]


def pod(name: str, namespace: str, restarts: int = 0) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "talking"}},
        "spec": {"containers": [{"name": "kserve-container", "image": "whimbrel/predictors"}]},
    }


def running(restarts: int) -> Callable[[Object], Object]:
    status = {"name": "kserve-container", "restartCount": restarts, "ready": True, "state": {"running": {}}}
    return lambda found: {**found, "status": {"containerStatuses": [status]}}


async def talking(api: KubernetesApi, cluster: Client, namespace: str, name: str, *lines: str) -> Path:
    """A pod whose log is there before it runs, so that nobody looks for it too early."""
    file = api.state / "logs" / namespace / name / "kserve-container.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    await cluster.apply(pod(name, namespace))
    await cluster.patch(POD, name, namespace, running(0), subresource="status")
    return file


async def test_the_logs_that_there_are(api: KubernetesApi, cluster: Client, namespace: str) -> None:
    await talking(api, cluster, namespace, "a", "one", "two", "three")
    await talking(api, cluster, namespace, "b", "four")

    assert [(line.pod, line.text) async for line in logs(cluster, namespace, "app=talking", tail=2)] == [
        ("a", "two"),
        ("a", "three"),
        ("b", "four"),
    ]
    with pytest.raises(NotFound, match="scaled to zero"):
        await anext(logs(cluster, namespace, "app=silent"))


async def test_logs_are_followed_into_pods_that_come_later(api: KubernetesApi, cluster: Client, namespace: str) -> None:
    first = await talking(api, cluster, namespace, "a", "old", "one")
    seen = []

    async with aclosing(logs(cluster, namespace, "app=talking", tail=1, follow=True)) as lines, asyncio.timeout(30):
        async for line in lines:
            seen.append((line.pod, line.text))
            if line.text == "one":
                with first.open("a") as more:
                    more.write("two\n")
            elif line.text == "two":
                await talking(api, cluster, namespace, "b", "three")
            else:
                break

    assert seen == [("a", "one"), ("a", "two"), ("b", "three")]


async def test_a_token_that_is_none(api: KubernetesApi, tmp_path: Path) -> None:
    token = api.kubeconfig.read_text()
    config = tmp_path / "config"
    config.write_text(token.replace('"token": "', '"token": "not-'))

    with pytest.raises(Forbidden, match="the kubeconfig's user may not"):
        async with client(str(config)) as connected:
            await connected.list(NAMESPACE)


async def test_without_a_kubeconfig_at_all(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a kubeconfig, seen none"):
        async with client(str(tmp_path / "absent")) as connected:
            await connected.list(NAMESPACE)
