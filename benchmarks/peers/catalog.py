"""The peers: what each is installed from and started by, and the fastest form of asking that it documents."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clients import Form, form_field, ppm, raw_body, v2_binary_of_the_documentation, v2_grpc
from peers.environments import NotInstalled, environment, version_in

from whimbrel.predictors.network import Images

_SAFETENSORS = "safetensors>=0.5"


@dataclass(frozen=True)
class Peer:
    """`requirements` empty: it runs in the benchmark's own environment. `arguments`: of its Python. `asked`: how, for
    the table. `program`: what it needs beside Python."""

    name: str
    package: str
    requirements: tuple[str, ...]
    arguments: tuple[str, ...]
    form: Callable[[Images], Form]
    asked: str
    environment: dict[str, str] = field(default_factory=dict)
    program: str | None = None

    def python(self) -> Path:
        """The interpreter that runs it; made, the first time. Raises NotInstalled."""
        if self.program is not None and shutil.which(self.program) is None:
            raise NotInstalled(f"not started: needs {self.program}, which is not installed")
        if not self.requirements:
            return Path(sys.executable)
        return environment(self.package, (*self.requirements, _SAFETENSORS))

    def version(self) -> str:
        return version_in(self.python(), self.package)


KSERVE = Peer(
    "KServe custom predictor (naive)",
    "kserve",
    (),
    ("-m", "peers.kserve_server"),
    v2_binary_of_the_documentation,
    "V2 REST, binary tensor; no batches",
)

PEERS = (
    KSERVE,
    Peer(
        "LitServe",
        "litserve",
        ("litserve>=0.2.17,<0.3", "python-multipart"),
        ("-m", "peers.litserve_server"),
        lambda image: form_field(
            "image", image.tobytes(), "application/octet-stream", "/predict", lambda answer: answer
        ),
        "multipart form, raw pixels",
    ),
    Peer(
        "Ray Serve",
        "ray",
        ("ray[serve]>=2.50,<3",),
        ("-m", "peers.ray_server"),
        lambda image: raw_body(image, "/"),
        "body of raw pixels",
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    ),
    Peer(
        "BentoML",
        "bentoml",
        ("bentoml>=1.4,<1.5",),
        ("-m", "peers.bentoml_server"),
        lambda image: form_field("images", ppm(image), "image/ppm", "/classify", lambda answer: answer[0]),
        "multipart form, PPM",
        {"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Peer(
        "MLServer",
        "mlserver",
        ("mlserver>=1.7,<2", "uvloop<0.22"),  # its workers ask newer ones for an event loop that these do not make
        ("-m", "peers.mlserver_server"),
        v2_grpc,
        "V2 gRPC, raw contents",
    ),
    Peer(
        "TorchServe",
        "torchserve",
        ("torchserve>=0.12,<0.13", "torch-model-archiver>=0.12,<0.13", "captum", "pyyaml"),
        ("-m", "peers.torchserve_server"),
        lambda image: raw_body(image, "/predictions/m"),
        "body of raw pixels",
        program="java",
    ),
)
