"""One trace of one image, from the put to its result, out of every process that it passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.collector import Collector, Span, collecting
from testbed.engine import one_machine, picture
from testbed.processes import wait_for

# (service, span) in the order of their start; each begins inside the one that it is indented under.
WAY = [
    ("whimbrel-source-sqs", "source.deliver"),
    ("whimbrel-broker", "broker.deliver"),
    ("whimbrel-transformer", "transformer.event"),
    ("whimbrel-transformer", "transformer.fetch"),
    ("whimbrel-transformer", "transformer.decode"),
    ("whimbrel-transformer", "transformer.predict"),
    ("whimbrel-predictor", "model.infer"),
    ("whimbrel-broker", "broker.deliver"),
    ("whimbrel-results-sink", "sink.results"),
]
PARENTS = [None, 0, 1, 2, 2, 2, 5, 1, 7]


def complete_traces(collector: Collector) -> list[list[Span]]:
    traces = [collector.trace(span.trace) for span in list(collector.spans) if span.name == "sink.results"]
    return [trace for trace in traces if trace[0].name == "source.deliver"]


def test_a_put_is_one_trace_until_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        with one_machine(tmp_path / "state") as machine:
            machine.put({"first.png": picture(1)})  # it finds out which preset the predictor has
            wait_for(lambda: complete_traces(collector), "the first trace", 60)
            first = {span.trace for span in collector.spans}
            machine.put({"second.png": picture(2)})
            wait_for(lambda: len(complete_traces(collector)) == 2, "the second trace", 60)
        (trace,) = [trace for trace in complete_traces(collector) if trace[0].trace not in first]
    assert [(span.service, span.name) for span in trace] == WAY
    parents = ["" if parent is None else trace[parent].id for parent in PARENTS]
    assert [span.parent for span in trace] == parents
    assert all(span.started <= span.ended <= trace[0].ended for span in trace[1:])
