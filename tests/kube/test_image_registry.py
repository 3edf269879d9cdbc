"""What the doctor says of images, before a real registry on loopback that wants tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster_api import write_kubeconfig
from testbed.combinations import MANIFESTS
from testbed.image_registry import PASSWORD, USER, ImageRegistry, docker_config, image_registry
from testbed.processes import environment
from testbed.recorded_cluster import Object, RecordedCluster, recorded_cluster
from whimbrel.core.kustomize import render
from whimbrel.kube.doctor import Finding, State
from whimbrel.kube.doctor.image_names import Image, Login, image_of, images, logins_of, pull_secrets
from whimbrel.kube.doctor.image_registry import image_findings
from whimbrel.local.state import free_port

DIGEST = "sha256:" + "a" * 64
HELD = {"team/whimbrel/predictors": frozenset({"0.1.0", DIGEST}), "team/private": frozenset({"1"})}
LOGIN = Login(USER, PASSWORD)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("nginx", Image("docker.io", "library/nginx", "latest")),
        ("whimbrel/predictors:0.1.0", Image("docker.io", "whimbrel/predictors", "0.1.0")),
        ("index.docker.io/whimbrel/eventing:1", Image("docker.io", "whimbrel/eventing", "1")),
        ("registry.example/team/predictors", Image("registry.example", "team/predictors", "latest")),
        ("registry.example:5000/a:7", Image("registry.example:5000", "a", "7")),
        (f"localhost/a/b:7@{DIGEST}", Image("localhost", "a/b", DIGEST)),
    ],
)
def test_a_name_is_read_as_container_engines_read_it(name: str, image: Image) -> None:
    assert image_of(name) == image


@pytest.mark.parametrize(
    ("registry", "begins"),
    [
        ("docker.io", "https://registry-1.docker.io/v2/"),
        ("registry.example:5000", "https://registry.example:5000/v2/"),
        ("10.0.0.7:5000", "https://10.0.0.7:5000/v2/"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
        ("localhost:5000", "http://localhost:5000/v2/"),
        ("localhost.example", "https://localhost.example/v2/"),
    ],
)
def test_only_loopback_is_asked_without_tls(registry: str, begins: str) -> None:
    assert Image(registry, "a", "1").url == f"{begins}a/manifests/1"


def test_the_images_of_an_overlay_are_found_in_all_its_kinds() -> None:
    named = {image.repository for image in images(render(MANIFESTS / "overlays" / "knative-cpu"))}

    assert named >= {"whimbrel/predictors", "whimbrel/transformers", "whimbrel/eventing"}


def test_what_pods_and_accounts_are_pulled_by_is_found() -> None:
    account = {"kind": "ServiceAccount", "imagePullSecrets": [{"name": "b"}]}
    service = {"spec": {"template": {"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}}}}

    assert pull_secrets([account, service]) == ["a", "b"]


def test_logins_are_read_by_registry_and_not_shown() -> None:
    hub = {"auths": {"https://index.docker.io/v1/": {"username": USER, "password": PASSWORD}}}
    found = logins_of(secret(json.dumps(hub))) | logins_of(secret(docker_config("registry.example:5000")))

    assert found == {"docker.io": LOGIN, "registry.example:5000": LOGIN}
    assert PASSWORD not in repr(found)
    assert (
        logins_of({"data": {"token": "x"}}) == logins_of(secret("[]")) == logins_of(secret('{"auths": {"a": 1}}')) == {}
    )


def secret(content: str) -> Object:
    data = {".dockerconfigjson": b64encode(content.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull", "namespace": "default"}, "data": data}


def asked(registry: ImageRegistry, *names: str, login: Login | None = None) -> list[Finding]:
    logins = {registry.host: login} if login else {}
    return image_findings([image_of(f"{registry.host}/{name}") for name in names], logins)


@pytest.mark.parametrize("challenge", ["bearer", "none"])
def test_an_image_that_anybody_may_pull_is_ok_and_another_is_missing(challenge: str) -> None:
    with image_registry(ImageRegistry(HELD, challenge=challenge)) as registry:  # type: ignore[arg-type]
        repository = "team/whimbrel/predictors"
        found = asked(registry, f"{repository}:0.1.0", f"{repository}@{DIGEST}", f"{repository}:9", "team/absent:1")

    assert [each.state for each in found] == [State.OK, State.OK, State.MISSING, State.MISSING]
    assert "make images" in found[2].remedy
    assert {method for method, path in registry.asked if path != "/token"} == {"HEAD"}


@pytest.mark.parametrize("challenge", ["bearer", "basic"])
def test_a_private_image_wants_the_credentials_of_a_pull_secret(challenge: str) -> None:
    private = frozenset({"team/private"})
    with image_registry(ImageRegistry(HELD, private, challenge=challenge)) as registry:  # type: ignore[arg-type]
        (anonymous,) = asked(registry, "team/private:1")
        (right,) = asked(registry, "team/private:1", login=LOGIN)
        (wrong,) = asked(registry, "team/private:1", login=Login(USER, "wrong"))

    assert [each.state for each in (anonymous, right, wrong)] == [State.UNKNOWN, State.OK, State.MISSING]
    assert f"--docker-server={registry.host}" in anonymous.remedy
    assert PASSWORD not in str((anonymous, right, wrong))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"realm": "http://tokens.example/token"}, "expected tokens over https, seen http://tokens.example"),
        ({"token_padding": 100_000}, "expected a token of at most 65536 bytes"),
        ({"garbled": True}, "expected a token in JSON"),
    ],
)
def test_what_is_no_registry_is_not_followed(options: dict[str, Any], said: str) -> None:
    with image_registry(ImageRegistry(HELD, **options)) as registry:
        found = asked(registry, "team/private:1", "team/whimbrel/predictors:0.1.0", login=LOGIN)

    (only,) = found
    assert only.state is State.UNKNOWN
    assert said in only.seen
    assert len([path for method, path in registry.asked if method == "HEAD"]) == 1  # not asked again


def test_a_registry_that_does_not_answer_is_unknown() -> None:
    image = image_of(f"127.0.0.1:{free_port()}/team/a:1")

    (found,) = image_findings([image], {})

    assert found.state is State.UNKNOWN
    assert "does not answer here" in found.seen
    assert found.remedy


def test_the_command_asks_for_what_is_applied_by_the_clusters_own_secret(tmp_path: Path) -> None:
    with image_registry(ImageRegistry(HELD, frozenset({"team/private"}))) as registry:
        containers = [
            {"name": "kserve-container", "image": f"{registry.host}/{name}"} for name in ("team/private:1", "team/no:1")
        ]
        service: Object = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "digits", "namespace": "default"},
            "spec": {"predictor": {"containers": containers}},
        }
        account: Object = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "whimbrel-predictor", "namespace": "default"},
            "imagePullSecrets": [{"name": "pull"}],
        }
        objects = [service, account, secret(docker_config(registry.host))]
        with recorded_cluster(RecordedCluster(objects, {"serving.kserve.io/v1beta1": ["InferenceService"]})) as running:
            config = write_kubeconfig(tmp_path / "config", running.url)
            done = subprocess.run(
                [sys.executable, "-m", "whimbrel.cli", "doctor", "-o", "json"],
                env=environment(KUBECONFIG=config), capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip

    found = {each["seen"]: each["state"] for each in json.loads(done.stdout) if each["check"] == "image"}
    assert found == {
        f"{registry.host}/team/private:1": "ok",
        f"{registry.host}/team/no:1 is not at its registry": "missing",
    }
    assert PASSWORD not in done.stdout + done.stderr
    assert {method for method, _ in running.asked} == {"GET"}
