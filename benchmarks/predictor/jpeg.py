"""From a JPEG file to its labels: our transformer and predictor against a KServe predictor that does it all itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clients import Form, answer_of, image_body, v1_base64
from peers.catalog import KSERVE
from peers.process import end, free_ports, serving
from PIL import Image
from predictor.contenders import rate
from predictor.measured import THREADS, Setting, conditions, each_network
from predictor.process import START_SECONDS, predictor
from report import spread
from sklearn.datasets import load_sample_image

from whimbrel.core.package import Package

CLIENTS = 8


def section(setting: Setting) -> list[str]:
    content = _photograph()
    condition = f"a JPEG of 640 x 427 pixels, {len(content) / 1000:.0f} kB, {CLIENTS} at once, float32"
    return [
        conditions(setting, condition),
        "",
        f"| Network | images/s, whimbrel: transformer and predictor | {KSERVE.name} | ratio |",
        "|---|---|---|---|",
        *each_network(setting, lambda name, package: [_row(name, package, content, setting)]),
    ]


def _row(name: str, package: Package, content: bytes, setting: Setting) -> str:
    ours, theirs = list[float](), list[float]()
    for _ in range(setting.rounds):
        form: Form = image_body(content)
        with predictor(package, {"torch_threads": str(THREADS)}) as served, _transformer(served.port, form) as port:
            ours.append(rate(form, port, CLIENTS, setting)[0])
        form = v1_base64(content)
        with serving(KSERVE, package.folder, THREADS, form) as port:
            theirs.append(rate(form, port, CLIENTS, setting)[0])
    ratio = [our / their for our, their in zip(ours, theirs, strict=True)]
    return f"| {name} | {spread(ours, 1)} | {spread(theirs, 1)} | {spread(ratio, 2)} |"


@contextmanager
def _transformer(predictor_port: int, form: Form) -> Iterator[int]:
    """Our transformer as a process of its own, when it has answered."""
    (port,) = free_ports(1)
    options = ["--model-name", "m", "--predictor-host", f"127.0.0.1:{predictor_port}", "--http-port", str(port)]
    quiet = {"WHIMBREL_LOG_LEVEL": "warning", "WHIMBREL_GRPC_PORT": "0", "WHIMBREL_DRAIN_SECONDS": "0"}
    process = subprocess.Popen([sys.executable, "-m", "whimbrel.transformers", *options], env=os.environ | quiet)
    started = time.perf_counter()
    try:
        while answer_of(form, port) is None:
            assert process.poll() is None, "the transformer has ended"
            assert time.perf_counter() - started < START_SECONDS, "the transformer does not answer"
            time.sleep(0.05)
        yield port
    finally:
        end(process)


def _photograph() -> bytes:
    file = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(file, "JPEG", quality=90)
    return file.getvalue()
