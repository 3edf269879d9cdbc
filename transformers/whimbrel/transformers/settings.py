"""The transformer's settings: the store, the server, the predictor behind it, and the limits on images."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from whimbrel.core.model_server import ModelServerSettings
from whimbrel.core.settings import BucketName, CommaSeparated, Port, Repeated, Seconds, split_commas
from whimbrel.transformers.contract import Contract, contract_of
from whimbrel.transformers.image_settings import ImageSettings
from whimbrel.transformers.named_predictors import HOST, NAME, NamedPredictor, predictors_of
from whimbrel.transformers.url_rule import UrlRule, parse_host_rule

_BUCKET = re.compile(r"\*|[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")

Flag = Annotated[bool, BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)]


class TransformerSettings(ImageSettings, ModelServerSettings):
    """Settings of the transformer: images in, labels out. KServe's own spellings (--predictor_host) are read too."""

    model_name: str = Field(pattern=f"^{NAME}$", description="the InferenceService's name")
    predictor_host: str = Field(pattern=f"^{HOST}$", description="HOST or HOST:PORT of the predictor")
    model: Annotated[tuple[NamedPredictor, ...], NoDecode, Repeated(), BeforeValidator(predictors_of)] = Field(
        default=(), description="one more model, as NAME where that predictor serves it too, else NAME=HOST[:PORT]"
    )
    predictor_contract: Annotated[Contract | None, NoDecode, BeforeValidator(contract_of)] = Field(
        default=None,
        description="for a predictor of another maker: what it wants and answers, in YAML or JSON, or the file of that",
    )
    predictor_protocol: Literal["v1", "v2", "grpc-v2"] = Field(default="v2", description="protocol of the predictor")
    predictor_use_ssl: Flag = Field(default=False, description="TLS to the predictor")
    predictor_request_timeout_seconds: Seconds = Field(
        default=60.0, description="longest wait for the predictor, its start from zero included"
    )
    predictor_connections: int = Field(default=64, ge=1, le=4096, description="most REST requests to it at once")
    workers: int = Field(default=1, ge=1, le=1, description="processes; KServe passes it, more are more replicas")
    top_k: int | None = Field(
        default=None, ge=1, le=1000, description="most labels or objects in an answer; absent: as the predictor has it"
    )
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, description="objects below it are left out; absent: as the predictor has it"
    )
    reply_format: Literal["predictions", "data-uid"] = Field(
        default="predictions",
        description='shape of V1 answers; data-uid: {"data": [[label, score, [x, y, w, h]]], "uid", "success"}',
    )
    reference_buckets: CommaSeparated = Field(
        default=(), description="buckets whose objects a request may name as s3://BUCKET/KEY; * for any; empty: none"
    )

    results_bucket: BucketName | None = Field(
        default=None, description="bucket of the results, where the answer of a redelivered event is looked up first"
    )
    results_prefix: str = Field(default="{bucket}", description="prefix of their keys, as the results sink has it")

    url_hosts: CommaSeparated = Field(
        default=(), description="hosts whose http(s) URLs are fetched: names and *.suffix; empty: none"
    )
    url_ports: Annotated[tuple[Port, ...], NoDecode] = Field(default=(80, 443), description="their ports")
    url_networks: CommaSeparated = Field(
        default=(), description="networks (CIDR) that they may be in besides the public internet"
    )
    url_max_redirects: int = Field(default=3, ge=0, le=20, description="redirects followed, each by the same rule")
    url_seconds: Seconds = Field(default=20.0, description="longest time to read one URL, redirects included")
    url_connections: int = Field(default=16, ge=1, le=256, description="URLs read at the same time")
    url_ca_bundle: str | None = Field(default=None, description="file with the certificates to trust instead")

    @field_validator("reference_buckets", "url_hosts", "url_ports", "url_networks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("predictor_protocol")
    @classmethod
    def _spoken(cls, value: str, info: ValidationInfo) -> str:
        if value == "v1" and info.data.get("predictor_contract") is None:
            raise ValueError("expected 'v2' or 'grpc-v2'; 'v1' needs a predictor_contract")
        return value

    @field_validator("reference_buckets")
    @classmethod
    def _bucket_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_BUCKET.fullmatch(name) for name in value):
            raise ValueError("expected names of buckets, or *")
        return value

    @field_validator("url_hosts")
    @classmethod
    def _host_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_host_rule(each) for each in value)

    @field_validator("url_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_network(each)) for each in value)

    @model_validator(mode="after")
    def _budget_holds_one_image(self) -> TransformerSettings:
        if self.byte_budget < self.image_max_bytes:
            raise ValueError("byte_budget: expected at least image_max_bytes, so that the largest image is admitted")
        return self

    @model_validator(mode="after")
    def _one_protocol(self) -> TransformerSettings:
        contract, given = self.predictor_contract, "predictor_protocol" in self.model_fields_set
        if contract is not None and given and self.predictor_protocol != contract.protocol:
            raise ValueError(
                f"predictor_protocol: expected {contract.protocol!r} or none, as predictor_contract says, seen"
                f" {self.predictor_protocol!r}"
            )
        return self

    @model_validator(mode="after")
    def _models_apart(self) -> TransformerSettings:
        names = [each.model_name for each in self.predictors]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"model: expected each name once, seen {twice!r} again")
        if self.model and self.predictor_contract is not None:
            raise ValueError("model: expected none beside a predictor_contract, which describes one predictor")
        return self

    @property
    def predictors(self) -> tuple[NamedPredictor, ...]:
        """All of them, each with its host, that of `model_name` first."""
        first = NamedPredictor(self.model_name, self.predictor_host)
        return (first, *(NamedPredictor(each.model_name, each.host or self.predictor_host) for each in self.model))

    @property
    def url_rule(self) -> UrlRule:
        return UrlRule(self.url_hosts, self.url_ports, tuple(ip_network(each) for each in self.url_networks))
