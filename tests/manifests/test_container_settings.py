"""What the manifests set is a setting of the program that runs there, with a value that it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import AliasChoices

from testbed.combinations import COMBINATIONS, EXAMPLES, rendered
from whimbrel.core.settings import ComponentSettings, environment_name, load
from whimbrel.eventing.settings import DeadLetterSinkSettings, ResultsSinkSettings
from whimbrel.kube.lint.rule import Manifests
from whimbrel.kube.lint.workloads import Pod, pods
from whimbrel.mlflow.rollout.controller import RolloutSettings
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.transformers.outputs.settings import OutputsSettings
from whimbrel.transformers.settings import TransformerSettings

# What KServe and Knative, the Secret, or the InferenceService of a runtime give.
GIVEN = {
    "predictors": {"WHIMBREL_MODEL_DIGEST": f"sha256:{'0' * 64}"},
    "transformers": {"WHIMBREL_PREDICTOR_HOST": "digits-predictor.whimbrel"},
    "mlflow": {},
    "eventing": {"K_SINK": "http://broker-ingress.knative-eventing.svc.cluster.local/whimbrel/default"},
}
SETTINGS = {
    "WHIMBREL_S3_ENDPOINT": "http://store.whimbrel.svc",
    "WHIMBREL_SQS_ENDPOINT": "http://queue.whimbrel.svc",
    "WHIMBREL_MLFLOW_TRACKING_URI": "http://mlflow.whimbrel.svc",
}


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours, as all combinations have it: its room, its arguments, and the variables that it sets."""

    name: str
    service: str
    room: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]

    @property
    def has_model(self) -> bool:
        """`base` leaves a predictor's model to the overlay."""
        texts = (*self.arguments, *(name for name, _ in self.variables))
        named = ("--model=", "--model-uri=", "WHIMBREL_MODEL_URI")
        return self.room != "predictors" or any(text.startswith(named) for text in texts)

    @property
    def given(self) -> Mapping[str, str]:
        """A digest belongs to a package that KServe mounts."""
        if self.room == "predictors" and "--model-uri=file:///mnt/models" not in self.arguments:
            return {}
        return GIVEN[self.room]


def containers() -> list[Container]:
    found = {
        _container(pod, container)
        for combination in (*COMBINATIONS, *EXAMPLES)
        for pod in pods(Manifests(rendered(combination)))
        for _, container in pod.containers()
        if "whimbrel/" in str(container.get("image", ""))
    }
    return sorted(
        (each for each in found if each.has_model), key=lambda each: (each.name, each.arguments, each.variables)
    )


def _container(pod: Pod, container: Mapping[str, Any]) -> Container:
    found = pod.document.object
    return Container(
        name=f"{found['kind']}/{found['metadata']['name']} {pod.path}",
        service=found["metadata"]["name"],
        room=container["image"].partition(":")[0].rpartition("/")[2].partition("-")[0],
        arguments=tuple(each.replace("{{.Name}}", "digits") for each in container.get("args", [])),
        # A secret's value, whatever it is; a file that only the pod has is read by a test of its own.
        variables=tuple(
            (entry["name"], entry.get("value", "secret"))
            for entry in container["env"]
            if "CONTRACT" not in entry["name"]
        ),
    )


PROGRAMS: dict[tuple[str, ...], type[ComponentSettings]] = {
    ("sink", "results"): ResultsSinkSettings,
    ("sink", "dead-letters"): DeadLetterSinkSettings,
    ("outputs",): OutputsSettings,
    ("rollouts",): RolloutSettings,
}


def program(room: str, arguments: list[str], name: str) -> tuple[type[ComponentSettings], list[str]]:
    """The settings class of a container's program, and the arguments that it reads."""
    for words, settings in PROGRAMS.items():
        if tuple(arguments[: len(words)]) == words:
            return settings, arguments[len(words) :]
    if arguments[:1] == ["source"]:
        source = importlib.import_module(f"whimbrel.eventing.sources.{arguments[1].replace('-', '_')}")
        return source.SETTINGS, arguments[2:]
    if room == "transformers":
        return TransformerSettings, [*arguments, f"--model_name={name}", "--http_port=8080"]
    assert room == "predictors"
    return PredictorSettings, arguments


def variables(settings: type[ComponentSettings]) -> set[str]:
    names = {environment_name(field) for field in settings.model_fields}
    for field in settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names |= {str(choice) for choice in field.validation_alias.choices}
    return names


@pytest.mark.parametrize("container", containers(), ids=lambda each: each.name)
def test_every_variable_and_argument_is_a_setting(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, arguments = program(container.room, list(container.arguments), container.service)
    for variable, value in (SETTINGS | dict(container.given) | dict(container.variables)).items():
        monkeypatch.setenv(variable, value)

    assert {name for name, _ in container.variables} <= variables(settings)
    # Without its contract, a transformer takes no V1.
    loaded = load(settings, [each for each in arguments if "protocol=v1" not in each], program=container.name)
    assert loaded.model_fields_set


def test_the_containers_of_every_room_are_among_them() -> None:
    assert {each.room for each in containers()} == {"predictors", "transformers", "eventing", "mlflow"}
