"""The one-machine API server as a process, and kubectl against it."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.processes import Running, environment
from whimbrel.local.state import free_port

_LEAST = (1, 27)  # the first that sends fieldValidation and reads OpenAPI 3


@cache
def _kubectl_missing() -> str:
    """Why kubectl cannot be used, empty where it can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    output = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, timeout=60, check=True
    )
    found = json.loads(output.stdout)["clientVersion"]
    version = (int(found["major"]), int("".join(filter(str.isdigit, found["minor"]))))
    return "" if version >= _LEAST else f"kubectl {version[0]}.{version[1]} is too old, 1.27 is the first that fits"


needs_kubectl = pytest.mark.skipif(bool(_kubectl_missing()), reason=_kubectl_missing() or "kubectl is there")


@dataclass
class KubernetesApi:
    """A server, and where it keeps everything."""

    state: Path
    process: Running

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    def client(self, **headers: str) -> httpx.Client:
        """With the kubeconfig's address, certificate and token."""
        found = json.loads(self.kubeconfig.read_text())
        cluster = found["clusters"][0]["cluster"]
        context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
        authorization = {"authorization": f"Bearer {found['users'][0]['user']['token']}"}
        return httpx.Client(base_url=cluster["server"], verify=context, headers=authorization | headers, timeout=30)

    def environment(self, **extra: str) -> dict[str, str]:
        return environment(KUBECONFIG=str(self.kubeconfig), HOME=str(self.state), **extra)

    def kubectl(self, *arguments: str, given: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """The ended command, whatever its status."""
        return subprocess.run(
            ["kubectl", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment(**extra),
        )

    def told(self, *arguments: str, given: str = "", **extra: str) -> str:
        """What a command that succeeds prints."""
        ended = self.kubectl(*arguments, given=given, **extra)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout

    def refused(self, *arguments: str, given: str = "", **extra: str) -> str:
        """What a command that fails prints as its error."""
        ended = self.kubectl(*arguments, given=given, **extra)
        assert ended.returncode != 0, f"kubectl {' '.join(arguments)}: {ended.stdout}"
        return ended.stderr


@contextmanager
def kubernetes_api(state: Path, *arguments: str) -> Iterator[KubernetesApi]:
    """Running and answering, on a port that stays the same when it is killed and started again."""
    state.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "whimbrel.local.api",
        "--state",
        str(state),
        "--api-port",
        str(free_port()),
        *arguments,
    ]
    started = Running(command, environment(), state / "api.log")
    api = KubernetesApi(state, started)
    try:
        wait_until_ready(api)
        yield api
    finally:
        started.stop()


def wait_until_ready(api: KubernetesApi) -> None:
    def answers() -> bool:
        try:
            with api.client() as client:
                return client.get("/readyz").status_code == 200
        except (OSError, ValueError, httpx.HTTPError):
            return False

    api.process.wait_until(answers, "an answer")


def inference_service(name: str, **predictor: Any) -> dict[str, Any]:
    """A small one that the table of fields honours."""
    container = {"name": "kserve-container", "image": "whimbrel/predictors:0.1.0", "args": ["--model-uri=null:10"]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"predictor": {"containers": [container], **predictor}},
    }
