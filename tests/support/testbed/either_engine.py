"""One cluster for the tests that are true of either engine: the one-machine engine, or the one of KUBECONFIG.

WHIMBREL_TEST_CLUSTER=1 takes the cluster that KUBECONFIG points at (KServe with Knative). Settings for it:
WHIMBREL_TEST_IMAGES, registry and tag of this project's images as a pattern (`registry.local/whimbrel/{room}:1`);
WHIMBREL_TEST_GATEWAY, HOST:PORT of its ingress. Nothing else is reached from here: events are posted and seen, and
objects kept, by a process within (`observer.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from testbed.either_objects import MODEL, SIDE, document
from testbed.processes import environment, wait_for

LONGEST_SECONDS = 300.0


@dataclass(frozen=True)
class Cluster:
    """A namespace of its own on one of the two engines."""

    kubeconfig: Path
    namespace: str
    images: str
    gateway: str  # HOST:PORT, empty: that of each URL

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """Its standard output."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace, *arguments],
            input=given,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", given=document(objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def names(self, kinds: str, selector: str = "") -> list[str]:
        options = ["--selector", selector] if selector else []
        return self.kubectl("get", kinds, "-o", "name", "--ignore-not-found", *options).split()

    def patch(self, name: str, *operations: Mapping[str, Any]) -> None:
        self.kubectl("patch", "isvc", name, "--type=json", "--patch", json.dumps(operations))

    def wait_ready(self, kind: str, name: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={LONGEST_SECONDS:g}s", f"{kind}/{name}")

    def image(self, room: str) -> str:
        return self.images.format(room=room)

    def url(self, kind: str, name: str) -> tuple[str, str]:
        """Where requests are sent, and the Host that they carry."""
        address = urlsplit(self.get(kind, name)["status"]["url"])
        return f"http://{self.gateway or f'127.0.0.1:{address.port}'}", str(address.hostname)

    def component(self, name: str) -> dict[str, Any]:
        """The predictor's status."""
        found: dict[str, Any] = self.get("isvc", name).get("status", {}).get("components", {}).get("predictor", {})
        return found

    def traffic(self, name: str) -> dict[str, int]:
        """The percent of each revision, by the last two digits of its name."""
        found: Counter[str] = Counter()
        for each in self.component(name).get("traffic", []):
            found[each["revisionName"][-2:]] += each.get("percent", 0)
        return {revision: percent for revision, percent in found.items() if percent}

    def wait_traffic(self, name: str, wanted: Mapping[str, int]) -> None:
        wait_for(lambda: self.traffic(name) == dict(wanted), f"the traffic {wanted}", LONGEST_SECONDS)

    def ask(self, name: str, count: int = 1, *, at_once: int = 1) -> Counter[str]:
        """V2 requests to the predictor; how many were answered by which version (or with which status)."""
        url, host = self.url("ksvc", f"{name}-predictor")
        with httpx.Client(base_url=url, headers={"host": host}, timeout=120, trust_env=False) as client:

            def one(_: int) -> str:
                answer = client.post(f"/v2/models/{MODEL}/infer", json=request())
                return version(answer.json()) if answer.is_success else f"{answer.status_code}: {answer.text:.200}"

            with ThreadPoolExecutor(at_once) as pool:
                return Counter(pool.map(one, range(count)))


def request() -> dict[str, Any]:
    """One black image for the null network of the tests."""
    data = [0] * (SIDE * SIDE * 3)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "data": data}
    return {"inputs": [tensor]}


def version(answer: Mapping[str, Any]) -> str:
    """The prefix of the labels, which names the model."""
    names = next(each for each in answer["outputs"] if each["name"] == "names")
    return str(names["data"][0]).partition("-")[0]


def chosen() -> bool:
    """Whether a cluster is given, and not the one-machine engine."""
    return os.environ.get("WHIMBREL_TEST_CLUSTER") == "1"


@contextmanager
def namespace(kubeconfig: Path) -> Iterator[Cluster]:
    """A new namespace, deleted at the end."""
    cluster = Cluster(
        kubeconfig,
        f"either-{uuid.uuid4().hex[:8]}",
        os.environ.get("WHIMBREL_TEST_IMAGES", "whimbrel/{room}:test"),
        os.environ.get("WHIMBREL_TEST_GATEWAY", ""),
    )
    cluster.kubectl("create", "namespace", cluster.namespace)
    try:
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false", check=False)
