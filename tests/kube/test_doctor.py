"""The doctor before a cluster that has everything, and before clusters that each lack one thing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.cluster_api import write_kubeconfig
from testbed.processes import environment
from testbed.recorded_cluster import Object, RecordedCluster, recorded_cluster
from testbed.stores import CREDENTIALS, Store
from whimbrel.core.kustomize import render
from whimbrel.kube import function
from whimbrel.kube.client import client
from whimbrel.kube.doctor import Finding, State, around, judge, look, references
from whimbrel.kube.doctor.around import Buckets
from whimbrel.kube.marked_yaml import documents
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
GROUPS = {
    "serving.kserve.io/v1beta1": ["InferenceService"],
    "serving.knative.dev/v1": ["Service", "Revision"],
    "eventing.knative.dev/v1": ["Broker", "Trigger"],
    "sources.knative.dev/v1": ["ContainerSource"],
}
SECRET_VALUE = "Zm9yIG5vYm9keSdzIGV5ZXM"
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def named(version: str, kind: str, name: str, namespace: str = "", **parts: Any) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **parts.pop("metadata", {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def deployment(name: str, namespace: str, version: str, available: int = 1) -> Object:
    metadata = {"labels": {"app.kubernetes.io/version": version}}
    status = {"availableReplicas": available}
    return named("apps/v1", "Deployment", name, namespace, metadata=metadata, spec={"replicas": 1}, status=status)


def config(namespace: str, name: str, **data: str) -> Object:
    return named("v1", "ConfigMap", name, namespace, data={key.replace("_", "-"): value for key, value in data.items()})


def webhook(name: str, namespace: str, bundle: str = "Q0E=") -> Object:
    served = {"name": name, "clientConfig": {"service": {"name": name, "namespace": namespace}, "caBundle": bundle}}
    return named("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name, webhooks=[served])


def endpoints(service: str, namespace: str, ready: bool = True) -> Object:
    labels = {"labels": {"kubernetes.io/service-name": service}}
    each = {"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}
    return named("discovery.k8s.io/v1", "EndpointSlice", f"{service}-x", namespace, metadata=labels, endpoints=[each])


def node(name: str, gpus: int = 0, tainted: bool = False) -> Object:
    status = {"allocatable": {"cpu": "8", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}}
    spec = {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]} if tainted else {}
    return named("v1", "Node", name, status=status, spec=spec)


def resolver(labelled: bool = True) -> Object:
    labels = {"labels": {"duck.knative.dev/addressable": "true"}} if labelled else {}
    rule = {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"], "verbs": ["get", "list", "watch"]}
    return named("rbac.authorization.k8s.io/v1", "ClusterRole", "resolver", metadata=labels, rules=[rule])


def settings(**data: str) -> Object:
    addresses = {
        "WHIMBREL_S3_ENDPOINT": "http://store.rook.svc.cluster.local",
        "WHIMBREL_MLFLOW_TRACKING_URI": "http://mlflow.mlflow.svc:5000",
    }
    return named("v1", "ConfigMap", "whimbrel-settings", "default", data=addresses | data)


def secret(*keys: str) -> Object:
    data = {key: base64.b64encode(SECRET_VALUE.encode()).decode() for key in keys}
    return named("v1", "Secret", "whimbrel-s3", "default", data=data)


def service(**status: Any) -> Object:
    return named("serving.kserve.io/v1beta1", "InferenceService", "digits", "default", status=status or READY)


def broker(class_: str = "Kafka") -> Object:
    annotations = {"annotations": {"eventing.knative.dev/broker.class": class_}}
    return named("eventing.knative.dev/v1", "Broker", "default", "default", metadata=annotations, status=READY)


def whole() -> dict[str, Object]:
    """A cluster in which nothing is missing; each part under a name by which a test takes it away."""
    return {
        "kserve": deployment("kserve-controller-manager", "kserve", "v0.20.0"),
        "serving": deployment("controller", "knative-serving", "1.23.0"),
        "eventing": deployment("eventing-controller", "knative-eventing", "1.22.2"),
        "kafka": deployment("kafka-controller", "knative-eventing", "1.23.0"),
        "network": config("knative-serving", "config-network", ingress_class="kourier.ingress.networking.knative.dev"),
        "features": config("knative-serving", "config-features"),
        "webhook": webhook("kserve-webhook-server-service", "kserve"),
        "endpoints": endpoints("kserve-webhook-server-service", "kserve"),
        "role": resolver(),
        "node": node("cpu-1"),
        "gpu": node("gpu-1", 2, tainted=True),
        "settings": settings(),
        "secret": secret("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "service": service(),
        "broker": broker(),
    }


async def looked_at(
    folder: Path, parts: dict[str, Object], *, wanted: list[Object] | None = None, **cluster: Any
) -> tuple[list[Finding], list[tuple[str, str]]]:
    with recorded_cluster(RecordedCluster(list(parts.values()), cluster.pop("groups", GROUPS), **cluster)) as running:
        async with client(write_kubeconfig(folder / "config", running.url)) as connected:
            found = judge(await look(connected, "default", wanted=wanted or []))
    return found, running.asked


def not_ok(found: list[Finding]) -> list[tuple[str, State]]:
    return [(each.check, each.state) for each in found if each.state is not State.OK]


@pytest.mark.anyio
async def test_a_cluster_that_has_everything(tmp_path: Path) -> None:
    found, asked = await looked_at(tmp_path, whole())

    assert not_ok(found) == []
    assert {each.check for each in found} >= {
        *("API server", "KServe", "Knative Serving", "Knative Eventing", "networking layer", "broker class"),
        *("webhooks", "addressable ClusterRole", "GPUs", "settings", "credentials", "readiness"),
    }
    gpus = next(each.seen for each in found if each.check == "GPUs")
    assert gpus == "2 allocatable on 1 of 2 nodes; tainted: gpu-1 (manifests/components/gpu-nodes)"
    assert {method for method, _ in asked} == {"GET"}
    assert SECRET_VALUE not in str(found)


MISSING, WARNING, UNKNOWN = State.MISSING, State.WARNING, State.UNKNOWN
LACKING = [
    ({"kserve": deployment("manager", "kserve", "v0.20.0", 0)}, "KServe", MISSING, "kubectl get pods -n kserve"),
    ({"serving": deployment("c", "knative-serving", "1.15.2")}, "Knative Serving", WARNING, "serving-core.yaml"),
    ({"network": None}, "networking layer", WARNING, "ingress-class"),
    ({"kafka": None}, "broker class", MISSING, "eventing-kafka-broker.yaml"),
    ({"broker": broker("Nats")}, "broker class", UNKNOWN, ""),
    ({"webhook": webhook("kserve-webhook-server-service", "kserve", "")}, "webhooks", MISSING, "rollout restart"),
    ({"endpoints": None}, "webhooks", MISSING, "kubectl get pods -n kserve"),
    ({"endpoints": endpoints("kserve-webhook-server-service", "kserve", False)}, "webhooks", MISSING, "kserve"),
    ({"role": None}, "addressable ClusterRole", MISSING, "manifests/base/addressable-resolver.yaml"),
    ({"role": resolver(labelled=False)}, "addressable ClusterRole", MISSING, "addressable-resolver.yaml"),
    ({"settings": None}, "settings", MISSING, "manifests/components/cluster/settings.yaml"),
    ({"settings": settings(WHIMBREL_S3_ENDPOINT="")}, "settings", WARNING, "after adding it"),
    ({"secret": None}, "credentials", MISSING, "kubectl create secret generic whimbrel-s3"),
    ({"secret": secret("AWS_ACCESS_KEY_ID")}, "credentials", MISSING, "AWS_SECRET_ACCESS_KEY"),
    (
        {"service": service(conditions=[{"type": "Ready", "status": "False", "reason": "RevisionFailed"}])},
        *("readiness", MISSING, "whimbrel describe inferenceservice/digits -n default"),
    ),
    ({"service": None, "broker": None, "kafka": None}, "broker class", MISSING, "mt-channel-broker.yaml"),
    (
        {"scaling": config("knative-serving", "config-autoscaler", enable_scale_to_zero="false")},
        *("scale to zero", WARNING, "enable-scale-to-zero"),
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("change", "check", "state", "remedy"), LACKING)
async def test_one_thing_that_is_missing(
    tmp_path: Path, change: dict[str, Object | None], check: str, state: State, remedy: str
) -> None:
    parts = {name: each for name, each in (whole() | change).items() if each is not None}

    found, _ = await looked_at(tmp_path, parts)

    assert (check, state) in not_ok(found)
    faulty = next(each for each in found if each.check == check and each.state is state)
    assert remedy in faulty.remedy
    assert {name for name, _ in not_ok(found)} <= {check, "readiness"}


@pytest.mark.anyio
async def test_an_image_by_its_tag_tells_the_version_too(tmp_path: Path) -> None:
    def manager(tag: str) -> Object:
        pod = {"containers": [{"image": f"kserve/kserve-controller:{tag}"}]}
        spec = {"replicas": 1, "template": {"spec": pod}}
        return named("apps/v1", "Deployment", "manager", "kserve", spec=spec, status={"availableReplicas": 1})

    old, _ = await looked_at(tmp_path, whole() | {"kserve": manager("v0.15.1")})
    untold, _ = await looked_at(tmp_path, whole() | {"kserve": manager("latest")})

    assert ("KServe", WARNING) in not_ok(old)
    assert [each.seen for each in untold if each.check == "KServe"] == ["available; its version is not told"]


@pytest.mark.anyio
async def test_an_empty_cluster(tmp_path: Path) -> None:
    found, _ = await looked_at(tmp_path, {}, groups={})

    lacking = {each.check: each.remedy for each in found if each.state is MISSING}
    assert lacking.keys() >= {"KServe", "Knative Serving", "Knative Eventing", "Knative sources", "settings"}
    assert "kserve/releases/download/v0.20.0/kserve.yaml" in lacking["KServe"]
    assert all(each.remedy for each in found if each.state is MISSING)


@pytest.mark.anyio
async def test_a_user_who_may_read_little(tmp_path: Path) -> None:
    denied = frozenset({"clusterroles", "nodes", "deployments", "pods", "secrets", "configmaps"})
    found, _ = await looked_at(tmp_path, whole(), denied=denied)

    assert {name for name, state in not_ok(found) if state is UNKNOWN} >= {
        *("KServe", "addressable ClusterRole", "GPUs", "settings", "credentials", "image pull")
    }
    assert [each for each in found if each.state is MISSING] == []


@pytest.mark.anyio
async def test_an_image_that_cannot_be_pulled(tmp_path: Path) -> None:
    state = {"waiting": {"reason": "ImagePullBackOff", "message": 'pulling "whimbrel/predictors:0.1.0"'}}
    pod = named(
        "v1", "Pod", "p", "default", status={"containerStatuses": [{"name": "kserve-container", "state": state}]}
    )

    found, _ = await looked_at(tmp_path, whole() | {"pod": pod})

    (fault,) = [each for each in found if each.state is MISSING]
    assert (fault.check, "whimbrel/predictors:0.1.0" in fault.seen) == ("image pull", True)
    assert "make images" in fault.remedy


@pytest.mark.anyio
async def test_flags_and_devices_that_an_overlay_needs(tmp_path: Path) -> None:
    wanted = render(ROOT / "manifests" / "overlays" / "knative-gpu")
    (predictor,) = (each["spec"]["predictor"] for each in wanted if each["kind"] == "InferenceService")
    predictor["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    default = deployment("mt-broker-controller", "knative-eventing", "1.22.2")
    parts = whole() | {"gpu": node("gpu-1", 0), "default": default}

    found, _ = await looked_at(tmp_path, parts, wanted=wanted)
    flag = {"kubernetes.podspec-tolerations": "enabled"}
    enabled = named("v1", "ConfigMap", "config-features", "knative-serving", data=flag)
    mended, _ = await looked_at(tmp_path, whole() | {"features": enabled, "default": default}, wanted=wanted)

    lacking = {each.check: each for each in found if each.state is MISSING}
    assert "kubernetes.podspec-tolerations" in lacking["manifests"].seen
    assert lacking["GPUs"].seen == "0 allocatable, 1 wanted by one replica of each"
    assert [each for each in mended if each.state is MISSING] == []


@pytest.mark.anyio
async def test_secrets_that_a_function_file_refers_to(tmp_path: Path) -> None:
    text = """\
schema: whimbrel.dev/function/v1
name: birds
input: {bucket: photos, source: {kind: amqp, queue: birds, url: {secret: rabbitmq, key: url}}}
model: null:10
credentials: our-store
settings: our-settings
"""
    wanted = function.render(function.read_function(documents(text, "f.yaml")[0]))
    parts = whole() | {"default": deployment("mt-broker-controller", "knative-eventing", "1.22.2")}
    rabbitmq = named("v1", "Secret", "rabbitmq", "default", data={"uri": "YQ=="})

    found, _ = await looked_at(tmp_path, parts | {"rabbitmq": rabbitmq}, wanted=wanted)

    assert [each.seen for each in found if each.state is MISSING] == [
        "no Secret our-store",
        "Secret rabbitmq has no url",
    ]
    assert references.credentials_name(wanted) == "our-store"
    assert references.settings_name(wanted) == "our-settings"
    assert references.variables(wanted)["WHIMBREL_RESULTS_BUCKET"] == "results"


@pytest.fixture
def announced(s3: S3Client, bucket: str, store: Store) -> Iterator[Buckets]:
    """An input bucket with notifications, and one bucket for both kinds of outcome."""
    queue = store.sqs().create_queue(QueueName=bucket)["QueueUrl"]
    arn = store.sqs().get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wanted = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)  # type: ignore[arg-type]
    yield Buckets(bucket, bucket, bucket)


KEYS = (CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])


def test_a_store_that_announces(store: Store, announced: Buckets) -> None:

    found = around.store({"WHIMBREL_S3_ENDPOINT": store.endpoint}, announced, KEYS)

    assert not_ok(found) == []
    assert [each.check for each in found] == ["store", "notifications"]


def test_a_store_that_lacks_buckets_and_notifications(store: Store, bucket: str) -> None:

    found = around.store({"WHIMBREL_S3_ENDPOINT": store.endpoint}, Buckets(bucket, "absent-results", bucket), KEYS)

    lacking = {each.check: each.remedy for each in found if each.state is MISSING}
    assert "s3 mb s3://absent-results" in lacking["store"]
    assert f"--bucket {bucket}" in lacking["notifications"]


@pytest.mark.parametrize(
    ("address", "state"),
    [
        ("http://127.0.0.1:{port}", MISSING),
        ("https://user:pass@127.0.0.1:{port}", MISSING),
        ("127.0.0.1:no", MISSING),
        ("http://store.rook.svc.cluster.local", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_store_or_registry_that_is_not_reached(address: str, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHIMBREL_S3_ENDPOINT", raising=False)
    monkeypatch.delenv("WHIMBREL_MLFLOW_TRACKING_URI", raising=False)
    url = address.format(port=free_port())
    found = around.store({"WHIMBREL_S3_ENDPOINT": url}, Buckets(), KEYS) + around.registry(
        {"WHIMBREL_MLFLOW_TRACKING_URI": url}
    )

    assert [(each.check, each.state) for each in found] == [("store", state), ("registry", state)]
    assert all(each.remedy for each in found)


def test_the_command(tmp_path: Path) -> None:
    """Exit status, JSON, no write, no secret; also where a Secret's values could be used."""
    parts = whole() | {"settings": settings(WHIMBREL_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}")}
    with recorded_cluster(RecordedCluster(list(parts.values()), GROUPS)) as running:
        config = write_kubeconfig(tmp_path / "config", running.url)
        command = [sys.executable, "-m", "whimbrel.cli", "doctor", "-o", "json"]
        done = subprocess.run(
            command, env=environment(KUBECONFIG=config), capture_output=True, text=True, timeout=60, check=False
        )

    found = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert [(each["check"], each["state"]) for each in found if each["state"] == "missing"] == [("store", "missing")]
    assert {method for method, _ in running.asked} == {"GET"}
    assert SECRET_VALUE not in done.stdout + done.stderr
    assert ("registry", "unknown") in [(each["check"], each["state"]) for each in found]
