"""Transformer to predictor: one port and one protocol on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, warning
from whimbrel.kube.lint.workloads import KSERVE, argument, environment

_H2C = ("h2c", "grpc", "http2")
_GRPC = "grpc-v2"
_PROTOCOL = "predictor_protocol"


def _pairs(manifests: Manifests) -> Iterator[tuple[Rendered, Mapping[str, Any], Mapping[str, Any]]]:
    """The first container of each transformer that is one of its own, and of its predictor ({} where it is a model)."""
    for document in manifests.of(KSERVE, "InferenceService"):
        spec = mapping(document.object.get("spec"))
        containers = {
            role: mapping(next(iter(items(mapping(spec.get(role)).get("containers"))), None))
            for role in ("transformer", "predictor")
        }
        if containers["transformer"]:
            yield document, containers["transformer"], containers["predictor"]


def _speaks_grpc(predictor: Mapping[str, Any]) -> bool:
    return any(str(mapping(port).get("name", "")).startswith(_H2C) for port in items(predictor.get("ports")))


def _protocol(transformer: Mapping[str, Any]) -> str | None:
    """Said by argument or, for this project's transformer, in the environment."""
    for _, name, value in environment(transformer):
        if name == "WHIMBREL_PREDICTOR_PROTOCOL":
            return str(value)
    return argument(transformer, _PROTOCOL)


def _grpc_port(manifests: Manifests) -> Iterator[Fault]:
    for document, transformer, predictor in _pairs(manifests):
        if _protocol(transformer) == _GRPC and predictor and not _speaks_grpc(predictor):
            ports = ", ".join(str(mapping(port).get("name")) for port in items(predictor.get("ports"))) or "none"
            yield Fault(
                document, "spec.predictor.containers[0].ports", f"ports named {ports}, and {_GRPC} spoken to them"
            )


def _rest_to_grpc(manifests: Manifests) -> Iterator[Fault]:
    for document, transformer, predictor in _pairs(manifests):
        if _protocol(transformer) != _GRPC and _speaks_grpc(predictor):
            yield Fault(document, "spec.transformer.containers[0].args", "REST to a predictor whose port is h2c")


def _unset(manifests: Manifests) -> Iterator[Fault]:
    for document, transformer, _ in _pairs(manifests):
        ours = "/transformers" in str(transformer.get("image", ""))
        if not ours and _protocol(transformer) is None:
            yield Fault(document, "spec.transformer.containers[0].args", f"no --{_PROTOCOL}")


def _environment(manifests: Manifests) -> Iterator[Fault]:
    for document, transformer, predictor in _pairs(manifests):
        for role, container in (("transformer", transformer), ("predictor", predictor)):
            for index, name, value in environment(container):
                if name == "PROTOCOL" and value not in ("v1", "v2"):
                    yield Fault(document, f"spec.{role}.containers[0].env[{index}]", f"PROTOCOL {value!r}")


def _retries(manifests: Manifests) -> Iterator[Fault]:
    for document, transformer, _ in _pairs(manifests):
        if argument(transformer, "predictor_request_retries") == "1" and _protocol(transformer) == _GRPC:
            yield Fault(document, "spec.transformer.containers[0].args", "--predictor_request_retries=1")


RULES: tuple[Rule, ...] = (
    error(
        "grpc-port",
        "Knative speaks HTTP/1 to a port that is not named h2c, and every gRPC call fails",
        "give the predictor one port, name: h2c, containerPort: 8081",
        _grpc_port,
    ),
    error(
        "rest-to-h2c",
        "REST through a service whose port is h2c is answered 502",
        f"speak gRPC (--{_PROTOCOL}={_GRPC}), or give the predictor an HTTP port",
        _rest_to_grpc,
    ),
    warning(
        "predictor-protocol",
        "KServe's transformers speak V1 unless told otherwise",
        f"add --{_PROTOCOL}=v1, v2 or {_GRPC}",
        _unset,
    ),
    error(
        "protocol-environment",
        "KServe knows v1 and v2 in PROTOCOL, and nothing else",
        f"leave PROTOCOL out; say --{_PROTOCOL}",
        _environment,
    ),
    error(
        "grpc-retries",
        "with one retry every gRPC call of KServe's SDK fails with INVALID_ARGUMENT",
        "write 0, or 2 to 5",
        _retries,
    ),
)
