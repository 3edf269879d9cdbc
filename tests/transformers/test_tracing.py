"""The W3C context of a client reaches the predictor, over REST and gRPC; without a collector nothing is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.collector import collecting
from testbed.images import png
from testbed.plain_servers import HEIGHT, LABELS, WIDTH, Plain, plain_grpc, plain_v1
from testbed.processes import environment, wait_for
from testbed.stores import Store
from testbed.transformers import running_transformer

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTRACT = {"size": [HEIGHT, WIDTH], "labels": list(LABELS), "activation": "logits", "model_name": "plain"}
REST = {**CONTRACT, "protocol": "v1", "layout": "NHWC", "dtype": "uint8"}
GRPC = {
    **CONTRACT,
    **{"protocol": "grpc-v2", "layout": "NCHW", "dtype": "float32", "normalisation": {}},
    **{"input": "pixels", "output": "means"},
}


@pytest.mark.parametrize(("server", "contract"), [(plain_v1(), REST), (plain_grpc(), GRPC)], ids=["rest", "grpc"])
def test_the_context_of_a_request_goes_on_to_the_predictor(
    store: Store, tmp_path: Path, server: AbstractContextManager[Plain], contract: dict[str, Any]
) -> None:
    headers = {"content-type": "image/png", "traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "client=7"}
    with server as plain, collecting() as collector, pytest.MonkeyPatch.context() as patch:
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        options = ("--predictor-contract", json.dumps(contract))
        with running_transformer(tmp_path / "log", store, plain.address, *options) as transformer:
            url = f"{transformer.url}/v1/models/digits:predict"
            assert httpx.post(url, content=png(1), headers=headers, timeout=30).status_code == 200
        spans = wait_for(lambda: collector.trace(TRACE), "the spans")
    assert [span.name for span in spans] == ["model.infer", "transformer.decode", "transformer.predict"]
    request, decode, predict = spans
    assert (request.parent, decode.parent, predict.parent) == (CALLER, request.id, request.id)
    assert plain.headers["traceparent"] == f"00-{TRACE}-{predict.id}-01"
    assert plain.headers["tracestate"] == "client=7"


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**variables), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


NOTHING_IS_DONE = """
import sys
from whimbrel.core import tracing
tracing.configure("transformer")
with tracing.span("a", tracing.carrier({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})):
    assert tracing.current() == {}
tracing.shutdown()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_without_an_endpoint_no_sdk_is_imported(variables: dict[str, str]) -> None:
    ended = run(NOTHING_IS_DONE, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_endpoint_without_the_sdk_ends_the_start_with_one_line() -> None:
    program = "import sys\nsys.modules['opentelemetry.exporter'] = None\n"
    program += "from whimbrel.transformers.__main__ import main\nsys.argv = ['x', '--model-name', 'digits',"
    program += " '--predictor-host', 'predictor']\nsys.exit(main())"
    ended = run(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("OTEL_EXPORTER_OTLP_ENDPOINT is set, but opentelemetry.exporter")
    assert line.endswith("install 'whimbrel[tracing]'")
