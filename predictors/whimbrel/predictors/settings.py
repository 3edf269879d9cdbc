"""The predictor's settings: its models, where they come from, and how they are computed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import NoDecode

from whimbrel.core.attestations import NOTHING, Attestations
from whimbrel.core.model_server import ModelServerSettings
from whimbrel.core.package import Digest
from whimbrel.core.settings import CommaSeparated, HttpUrl, Port, Repeated, S3Settings, Seconds, split_commas
from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.named_models import (
    NAME,
    URI,
    NamedEnsemble,
    NamedModel,
    check_names,
    check_pinned,
    check_pointers,
    ensembles_of,
    models_of,
)
from whimbrel.predictors.precision import Precision


class PredictorSettings(ModelServerSettings, S3Settings):
    """Serves the versions of one model or of several: KServe's V1, V2 REST and V2 gRPC."""

    model: Annotated[tuple[NamedModel, ...], NoDecode, Repeated(), BeforeValidator(models_of)] = Field(
        default=(), description="a model as NAME=URI or NAME=URI@sha256:DIGEST, URIs and digests as below"
    )
    ensemble: Annotated[tuple[NamedEnsemble, ...], NoDecode, Repeated(), BeforeValidator(ensembles_of)] = Field(
        default=(),
        description="a model that averages the scores of others, or lets them vote: "
        "NAME=average:MEMBER,MEMBER or NAME=vote:MEMBER*WEIGHT,MEMBER*WEIGHT",
    )
    model_name: str | None = Field(
        default=None,
        pattern=f"^{NAME}$",
        description="short form of one more model: its name in the paths of the API",
    )
    model_uri: str | None = Field(
        default=None,
        pattern=f"^{URI}$",
        description="s3://BUCKET/PREFIX, pointer+s3://BUCKET/KEY, file:///FOLDER, models:/NAME@ALIAS, "
        "models:/NAME/VERSION, or null:[TASK:]CLASSES[,HEIGHTxWIDTH][,MILLISECONDSms][,PREFIX]",
    )
    model_digest: Digest | None = Field(default=None, description="the package to expect; required for s3 and file")
    model_attestations: str | None = Field(
        default=None,
        max_length=64 * 1024,
        description="what the registry attests of that package, as JSON: `attestations` of 'whimbrel model show'; for "
        "s3 and file, where no registry is asked",
    )
    model_version: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="version to answer with; default: the registry's, or 12 digits of the digest",
    )
    model_cache: Path = Field(
        default=Path(tempfile.gettempdir()) / "whimbrel-models", description="folder that packages are downloaded to"
    )
    model_cache_bytes: int = Field(
        default=2 * 1024**3,
        ge=0,
        description="bytes of packages kept there; above it those that no process uses are removed, oldest use first",
    )
    mlflow_tracking_uri: HttpUrl | None = Field(default=None, description="MLflow's URL, for models:/ URIs")
    start_timeout_seconds: Seconds = Field(
        default=120.0, description="longest wait at the start for a store or a registry that does not answer"
    )

    repository_api: bool = Field(
        default=False, description="whether clients may load and unload versions: whoever reaches the port"
    )
    allowed_uri_prefixes: Annotated[CommaSeparated, BeforeValidator(split_commas)] = Field(
        default=(),
        description="where versions may be loaded from on request, as s3://BUCKET/PREFIX, separated by commas",
    )
    pointer_poll_seconds: Seconds = Field(default=5.0, description="seconds between two looks at a model pointer")
    pointer_lease_seconds: Seconds = Field(default=60.0, description="how long a replica's report counts")
    model_memory_bytes: int | None = Field(
        default=None, ge=1, description="most bytes that resident versions may take; absent: what is free"
    )

    grpc_port: Port | None = Field(default=8081, description="port for V2 gRPC")
    timing: bool = Field(default=False, description="whether to log how long each stage of the start took")
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$", description="auto, cpu, cuda or cuda:N"
    )
    dtype: Precision = Field(
        default="auto",
        description="auto, float32, bfloat16 or float16; auto: what the hardware multiplies in, where it was measured "
        "to agree with float32 on the package's calibration set",
    )
    calibration_seconds: Seconds = Field(
        default=60.0, description="longest that a load may measure that; past it float32 until the next load"
    )
    compiled_code: bool = Field(
        default=False,
        description="whether to load machine code whose digest the registry or the model pointer names",
    )
    cuda_graphs: bool = Field(
        default=False, description="whether batch sizes that come often become CUDA graphs; not run on a GPU yet"
    )
    torch_threads: int | None = Field(
        default=None, ge=1, le=1024, description="threads of one batch; default: torch's own"
    )
    device_timeout_seconds: Seconds = Field(
        default=120.0, description="longest that one batch may compute; past it neither ready nor live"
    )
    null_delay_seconds: float = Field(default=0.0, ge=0, le=60, description="how long null: takes for a batch")

    batching: Literal["adaptive", "fixed"] = Field(
        default="adaptive", description="adaptive: size and delay from measured times, below the maxima; fixed: these"
    )
    max_batch_size: int = Field(default=64, ge=1, le=4096, description="most images a batch")
    max_delay_ms: float = Field(default=5.0, ge=0, le=1000, description="longest wait for others to join a batch")
    latency_budget_ms: float = Field(
        default=250.0, gt=0, le=60_000, description="what waiting and computing one batch may take (adaptive)"
    )
    warm_up_seconds: float = Field(
        default=0.25,
        ge=0,
        le=600,
        description="time for batch sizes before ready; the rest is learned later (adaptive)",
    )
    max_queued_images: int = Field(default=1024, ge=1, le=1_000_000, description="images waiting; above it 503")
    max_images_per_request: int = Field(default=256, ge=1, le=65536, description="images in one request; above it 400")
    top_k: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="labels or objects an image where the request does not say; absent: the task's own, 5 labels",
    )
    score_threshold: float = Field(
        default=0.5, ge=0, le=1, description="objects below it are left out where the request does not say"
    )
    allowed_tasks: Annotated[CommaSeparated, BeforeValidator(split_commas)] = Field(
        default=(),
        description="installed tasks that packages may name, entry points of the group whimbrel.tasks, by commas",
    )

    @property
    def attestations(self) -> Attestations:
        return NOTHING if self.model_attestations is None else Attestations.model_validate_json(self.model_attestations)

    @property
    def batch_limits(self) -> BatchLimits:
        return BatchLimits(
            self.max_batch_size,
            self.max_delay_ms / 1000,
            self.max_queued_images,
            self.batching == "adaptive",
            self.latency_budget_ms / 1000,
        )

    @property
    def models(self) -> tuple[NamedModel, ...]:
        """All of them, the one of the short form first."""
        if self.model_name is None or self.model_uri is None:
            return self.model
        short = NamedModel(self.model_name, self.model_uri, self.model_digest, self.model_version, self.attestations)
        return short, *self.model

    @model_validator(mode="after")
    def _named(self) -> PredictorSettings:
        """The short form is whole or absent."""
        if self.model_uri is not None and self.model_name is None:
            raise ValueError("WHIMBREL_MODEL_NAME (--model-name): missing; model_uri needs a name")
        if self.model_uri is None and (self.model_name is not None or not self.model):
            raise ValueError("WHIMBREL_MODEL_URI (--model-uri): missing; or name models by --model NAME=URI alone")
        if self.model_uri is None and (self.model_digest or self.model_version or self.model_attestations):
            raise ValueError(
                "WHIMBREL_MODEL_DIGEST, WHIMBREL_MODEL_VERSION, WHIMBREL_MODEL_ATTESTATIONS: expected beside a "
                "model_uri, seen alone"
            )
        if str(self.model_uri).startswith(("s3:", "file:")) and self.model_digest is None:
            raise ValueError(
                f"WHIMBREL_MODEL_DIGEST (--model-digest): missing; {self.model_uri!r} does not load unpinned"
            )
        return self

    @model_validator(mode="after")
    def _attested(self) -> PredictorSettings:
        try:
            _ = self.attestations
        except ValidationError as error:
            raise ValueError(
                "WHIMBREL_MODEL_ATTESTATIONS (--model-attestations): expected the JSON `attestations` of 'whimbrel "
                f"model show'; {error.errors()[0]['msg']}"
            ) from None
        return self

    @model_validator(mode="after")
    def _consistent(self) -> PredictorSettings:
        check_names(self.models, self.ensemble)
        for model in self.models:
            check_pinned(model)
        check_pointers(self.models)
        if self.repository_api and any(model.is_pointed for model in self.models):
            raise ValueError(
                "WHIMBREL_REPOSITORY_API (--repository-api): expected false while a model pointer decides what is "
                "loaded, seen true"
            )
        if self.max_queued_images < max(self.max_batch_size, self.max_images_per_request):
            raise ValueError(
                f"WHIMBREL_MAX_QUEUED_IMAGES (--max-queued-images): expected at least max_batch_size "
                f"({self.max_batch_size}) and max_images_per_request ({self.max_images_per_request}), "
                f"seen {self.max_queued_images}"
            )
        return self
