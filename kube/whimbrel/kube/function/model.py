"""The fields of a function file, each defined once: the reader, the JSON schema and the reference come from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA = "whimbrel.dev/function/v1"


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _uri_as_model(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


def _count_as_gpu(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value} if value else None
    return value


# Knative makes `latest-NAME-transformer` of it, which is one label of a host name.
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
Bucket = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
Cpu = Annotated[
    str,
    Field(pattern=r"^([1-9][0-9]*m|(0\.[0-9]{0,2}[1-9]|[1-9][0-9]*(\.[0-9]{1,3})?))$"),
    BeforeValidator(_number_as_text, json_schema_input_type=str | float),
]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)$")]

_MODEL = r"^((pointer\+)?s3://[^/\s]+/\S+|file:///\S+|models:/[^/]+(@|/)[^/@]+|null:((detection|pose):)?[0-9]+(,[0-9]+x[0-9]+)?(,\S+)?)$"
_DIGEST = r"^sha256:[0-9a-f]{64}$"


class Section(BaseModel):
    """Part of a function file. An unknown field is an error, and nothing is converted: 3 is no text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class SecretKey(Section):
    """One key of a Secret in the function's namespace."""

    secret: ObjectName = Field(description="name of the Secret")
    key: str = Field(min_length=1, max_length=253, description="key in it")


class Sqs(Section):
    """The store puts its notifications into a queue of SQS; AWS, and the one-machine engine."""

    kind: Literal["sqs"]
    queue: str = Field(min_length=1, description="name or URL of the queue")
    endpoint: Url | None = Field(default=None, description="URL of the queue service; absent: AWS, or the engine's own")


class RgwPubsub(Section):
    """Ceph RGW keeps the notifications of a pubsub zone, and they are pulled."""

    kind: Literal["rgw-pubsub"]
    endpoint: Url = Field(description="URL of the gateway of the pubsub zone")
    subscription: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$", description="name of the subscription, of this function alone"
    )


class Amqp(Section):
    """The store sends its notifications to RabbitMQ."""

    kind: Literal["amqp"]
    url: SecretKey = Field(description="key of a Secret with amqp://USER:PASSWORD@HOST:PORT/VHOST")
    queue: str = Field(min_length=1, max_length=255, description="name of the queue")


class Kafka(Section):
    """The store sends its notifications to a topic of Kafka."""

    kind: Literal["kafka"]
    brokers: str = Field(min_length=1, description="brokers to begin with, HOST:PORT, separated by commas")
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$", description="name of the topic")
    group: str = Field(
        default="", max_length=255, description="consumer group; default: whimbrel- and the function's name"
    )
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext", description="how to speak to the brokers"
    )
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how to say who one is, with a sasl security"
    )
    username: SecretKey | None = Field(default=None, description="key of a Secret with the user, with a sasl security")
    password: SecretKey | None = Field(default=None, description="key of a Secret with the password")


class Push(Section):
    """The store posts its notifications over HTTP, RGW's or those of MinIO and others, to the service NAME-source."""

    kind: Literal["rgw-push", "s3-push"]
    token: SecretKey | None = Field(default=None, description="key of a Secret with the bearer token that is asked for")
    user: str | None = Field(default=None, min_length=1, description="user of basic authentication, with password")
    password: SecretKey | None = Field(default=None, description="key of a Secret with that user's password")


Source: TypeAlias = Annotated[Sqs | RgwPubsub | Amqp | Kafka | Push, Field(discriminator="kind")]
SOURCES: Mapping[str, type[Section]] = {
    **{"sqs": Sqs, "rgw-pubsub": RgwPubsub, "amqp": Amqp, "kafka": Kafka},
    **{"rgw-push": Push, "s3-push": Push},
}


class Input(Section):
    """Which objects are classified."""

    bucket: Bucket = Field(description="bucket that the images are put in")
    prefix: str = Field(default="", max_length=1024, description="only objects whose key begins so")
    suffixes: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(),
        max_length=16,
        strict=False,
        description="only objects whose key ends with one of these; case counts",
    )
    source: Source = Field(description="how the bucket's notifications come")


class Output(Section):
    """Where the results go."""

    bucket: Bucket = Field(default="results", description="bucket of the results")
    prefix: str = Field(
        default="{bucket}", max_length=512, description="prefix of their keys; {bucket} is the input's bucket"
    )
    dead_letters: Bucket = Field(
        default="dead-letters", description="bucket of what was refused or given up, with the reason"
    )


class Model(Section):
    """Which model answers."""

    uri: str = Field(
        pattern=_MODEL,
        description="models:/NAME@ALIAS or models:/NAME/VERSION of the registry, s3://BUCKET/PREFIX, "
        "pointer+s3://BUCKET/KEY, or null:[TASK:]CLASSES, which answers by rule",
    )
    digest: str | None = Field(
        default=None, pattern=_DIGEST, description="digest of the package to expect; required with s3:// and file://"
    )


class Resources(Section):
    """What a process is promised, and the most that it may take."""

    cpu: Cpu | None = Field(default=None, description="processors, such as 2 or 500m")
    memory: Memory | None = Field(default=None, description="memory, such as 3Gi")


class Gpu(Section):
    """Processors of the predictor's device."""

    count: int = Field(default=1, ge=1, le=16, description="how many a replica")
    resource: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$", description="as the nodes call them"
    )
    tolerate: bool = Field(
        default=False,
        description="also on nodes that are tainted for it; Knative needs the flag kubernetes.podspec-tolerations",
    )


_GpuCount: TypeAlias = Annotated[int, Field(ge=0, le=16)]


class Scale(Section):
    """How many replicas."""

    min: int = Field(default=0, ge=0, le=1000, description="least; 0: none while no image comes")
    max: int = Field(default=4, ge=1, le=1000, description="most")
    concurrency: int = Field(default=8, ge=1, le=1000, description="requests at once that one replica is meant to have")


class TransformerScale(Scale):
    """How many replicas of the transformer."""

    max: int = Field(default=8, ge=1, le=1000, description="most")


class Transformer(Section):
    """The part that fetches and decodes; it needs no GPU."""

    resources: Resources = Field(default=Resources(), description="default: cpu 1, memory 1536Mi")
    scale: TransformerScale = Field(default=TransformerScale(), description="default: min 0, max 8, concurrency 8")


class Images(Section):
    """Where the container images come from."""

    registry: str = Field(
        default="", pattern=r"^([a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*)?$", description="before the images' names"
    )
    tag: str = Field(
        default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$", description="default: this version's"
    )


class Function(Section):
    """Put an image in a bucket, get its labels back."""

    format: Literal["whimbrel.dev/function/v1"] = Field(alias="schema", description="the version of this format")
    name: Name = Field(description="name of the InferenceService, and the first part of all other names")
    input: Input = Field(description="which objects are classified")
    output: Output = Field(default=Output(), description="where the results go")
    model: Annotated[Model, BeforeValidator(_uri_as_model, json_schema_input_type=str | Model)] = Field(
        description="which model answers: its URI, or uri and digest"
    )
    task: Literal["classification", "detection", "pose"] = Field(
        default="classification", description="what the model answers; a label of what is made"
    )
    resources: Resources = Field(
        default=Resources(), description="of each predictor; default: cpu 2, memory 3Gi; with a GPU cpu 4, memory 8Gi"
    )
    gpu: Annotated[Gpu | None, BeforeValidator(_count_as_gpu, json_schema_input_type=_GpuCount | Gpu)] = Field(
        default=None, description="GPUs of each predictor: how many, or count and resource; 0: it computes without"
    )
    scale: Scale = Field(default=Scale(), description="of the predictor; default: min 0, max 4, concurrency 8")
    transformer: Transformer = Field(default=Transformer(), description="the part that fetches and decodes")
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="Kubernetes labels of everything that is made")
    environment: dict[Variable, str] = Field(
        default={}, description="environment variables of the predictor and the transformer"
    )
    secrets: dict[Variable, SecretKey] = Field(
        default={}, description="environment variables of the predictor and the transformer, from Secrets"
    )
    settings: ObjectName = Field(
        default="whimbrel-settings", description="ConfigMap with the addresses of the store, the queue and the registry"
    )
    credentials: ObjectName = Field(default="whimbrel-s3", description="Secret with the store's credentials")
    images: Images = Field(default=Images(), description="where the container images come from")
