"""From the settings to a predictor that they name: ours, or another maker's by its contract."""

from __future__ import annotations

import re
from dataclasses import replace

from whimbrel.core.tensors import KNATIVE_TAG_HEADER, LATEST_TAG, PREVIOUS_TAG
from whimbrel.transformers.answers import Inference
from whimbrel.transformers.classifier import Answering
from whimbrel.transformers.contract import Contract
from whimbrel.transformers.foreign import FOREIGN_TOP_K, Exchange, ForeignPredictor
from whimbrel.transformers.named_predictors import NamedPredictor
from whimbrel.transformers.predictor import Predictor
from whimbrel.transformers.predictor_http import PredictorHttp
from whimbrel.transformers.rest_inference import RestInference
from whimbrel.transformers.settings import TransformerSettings

_NUMERIC = re.compile(r"[0-9.]+(:[0-9]+)?")


def predictor_of(settings: TransformerSettings, named: NamedPredictor) -> Answering:
    contract = settings.predictor_contract
    if contract is None:
        tagged = {tag: inference(settings, named, tag) for tag in (LATEST_TAG, PREVIOUS_TAG)}
        top_k, threshold = settings.top_k, settings.score_threshold
        return Predictor(inference(settings, named), top_k=top_k, score_threshold=threshold, tagged=tagged)
    top_k = settings.top_k or FOREIGN_TOP_K
    return ForeignPredictor(contract, exchange(settings, named, contract), named.model_name, top_k=top_k)


def inference(settings: TransformerSettings, named: NamedPredictor, tag: str | None = None) -> Inference:
    """The way to a predictor of ours, or to its revision with that tag."""
    host, headers = addressed(str(named.host), tag)
    named = replace(named, host=host)
    timeout_seconds = settings.predictor_request_timeout_seconds
    if settings.predictor_protocol == "grpc-v2":
        from whimbrel.transformers.grpc_inference import GrpcInference

        target, tls = _grpc_target(settings, named), settings.predictor_use_ssl
        return GrpcInference(target, named.model_name, timeout_seconds=timeout_seconds, tls=tls, headers=headers)
    return RestInference(
        _base_url(settings, named),
        named.model_name,
        timeout_seconds=timeout_seconds,
        connections=settings.predictor_connections,
        headers=headers,
    )


def addressed(host: str, tag: str | None) -> tuple[str, dict[str, str]]:
    """Host and headers of the revision with that tag, by Knative's rule: a name of its own before the service's. A
    number has no such name, as on one machine; there the header alone tells."""
    if tag is None:
        return host, {}
    return host if _NUMERIC.fullmatch(host) else f"{tag}-{host}", {KNATIVE_TAG_HEADER: tag}


def exchange(settings: TransformerSettings, named: NamedPredictor, contract: Contract) -> Exchange:
    """The way to another maker's predictor."""
    model_name = contract.model_name or named.model_name
    timeout_seconds = settings.predictor_request_timeout_seconds
    if contract.protocol == "grpc-v2":
        from whimbrel.transformers.foreign_grpc import GrpcExchange
        from whimbrel.transformers.grpc_calls import GrpcCalls

        target, tls = _grpc_target(settings, named), settings.predictor_use_ssl
        return GrpcExchange(GrpcCalls(target, timeout_seconds=timeout_seconds, tls=tls), contract, model_name)
    from whimbrel.transformers.foreign_rest import V1Exchange, V2Exchange

    connections = settings.predictor_connections
    http = PredictorHttp(_base_url(settings, named), timeout_seconds=timeout_seconds, connections=connections)
    return (
        V1Exchange(http, contract, model_name) if contract.protocol == "v1" else V2Exchange(http, contract, model_name)
    )


def _base_url(settings: TransformerSettings, named: NamedPredictor) -> str:
    return f"{'https' if settings.predictor_use_ssl else 'http'}://{named.host}"


def _grpc_target(settings: TransformerSettings, named: NamedPredictor) -> str:
    host, _, port = str(named.host).partition(":")
    return f"{host}:{port or (443 if settings.predictor_use_ssl else 80)}"
