"""The W3C context of a client reaches the predictor, over REST and gRPC; without a collector nothing is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.collector import collecting
from testbed.images import object_event, png
from testbed.plain_servers import HEIGHT, LABELS, WIDTH, Plain, plain_grpc, plain_v1
from testbed.predictors import running_predictor
from testbed.processes import environment, wait_for
from testbed.stores import Store
from testbed.transformers import running_transformer
from whimbrel.core import cloudevent

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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


def test_an_event_whose_headers_were_dropped_is_followed_by_its_extension_and_over_grpc(
    store: Store, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    s3.put_object(Bucket=bucket, Key="a.png", Body=png(1))
    event = object_event(bucket, "a.png").with_extensions({"traceparent": f"00-{TRACE}-{CALLER}-01"})
    headers, body = cloudevent.structured(event)
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        grpc = ("--predictor-protocol", "grpc-v2")
        with (
            running_predictor(tmp_path / "predictor.log") as predictor,
            running_transformer(tmp_path / "log", store, predictor.grpc_target, *grpc) as transformer,
        ):
            answer = httpx.post(f"{transformer.url}/events", content=body, headers=headers, timeout=30)
        (reply,) = cloudevent.parse(answer.headers, answer.content)
        spans = wait_for(lambda: collector.trace(TRACE), "the spans")
    assert reply.extensions["traceparent"] == f"00-{TRACE}-{CALLER}-01"
    assert (spans[0].name, spans[0].parent) == ("transformer.event", CALLER)
    by_id = {span.id: span for span in spans}
    computed = [span for span in spans if span.service == "whimbrel-predictor"]
    assert len(computed) == 2  # which preset it has, and the image
    assert {by_id[span.parent].name for span in computed} == {"transformer.predict"}


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
