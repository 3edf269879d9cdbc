"""OpenTelemetry traces across the rooms: spans, and their context in HTTP headers and CloudEvents.

Off, and without a cost, unless OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set: then
`configure` imports the SDK (the extra `tracing`), which reads all its other settings from its own OTEL_ variables.

Each hop passes its span on in the W3C headers of its request (https://www.w3.org/TR/trace-context/). The CloudEvents
extension for distributed tracing names the span that an event began with; it is written once and carried along, so
the trace holds together where something between drops the headers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from whimbrel.core.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
CONTEXT_NAMES = (TRACEPARENT, TRACESTATE)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_EXPORT_SECONDS = 3.0  # the SDK's own is 10: so long an exit would wait for a collector that is away
_NOTHING: Mapping[str, str] = MappingProxyType({})
_provider: TracerProvider | None = None


def configure(component: str) -> None:
    """Export this process's spans where the environment names an endpoint. Raises SettingsError."""
    global _provider  # noqa: PLW0603  one of a process, as the SDK's own
    if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        seen = next(name for name in _ENDPOINTS if os.environ.get(name))
        raise SettingsError(f"{seen} is set, but {error.name} is not installed; install 'whimbrel[tracing]'") from None
    name = os.environ.get("OTEL_SERVICE_NAME") or f"whimbrel-{component}"
    _provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    timeout = None if any(os.environ.get(name) for name in _TIMEOUTS) else _EXPORT_SECONDS
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))


def shutdown() -> None:
    """Send what is not sent yet, within the exporter's own timeout; a process that exits the usual way need not."""
    if _provider is not None:
        _provider.shutdown()


def enabled() -> bool:
    """Whether spans are exported."""
    return _provider is not None


def span(name: str, parent: Mapping[str, str] = _NOTHING, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span for the length of a block, below the current one, else below the one that `parent` carries."""
    if _provider is None:
        return nullcontext()
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None
    if not trace.get_current_span().get_span_context().is_valid:
        context = TraceContextTextMapPropagator().extract(dict(parent))
    return _provider.get_tracer("whimbrel").start_as_current_span(name, context=context, attributes=attributes)


def current() -> dict[str, str]:
    """`traceparent` and `tracestate` of the current span, for a request's headers; empty when there is none."""
    found: dict[str, str] = {}
    if _provider is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(found)
    return found


def carrier(headers: Mapping[str, str], extensions: Mapping[str, str] = _NOTHING) -> Mapping[str, str]:
    """The context that a message came with: in its headers, else in the extensions of its event."""
    if _provider is None:
        return _NOTHING
    if TRACEPARENT in headers:
        return {name: headers[name] for name in CONTEXT_NAMES if name in headers}
    of_binary_event = {name: headers[f"ce-{name}"] for name in CONTEXT_NAMES if f"ce-{name}" in headers}
    return of_binary_event or {name: extensions[name] for name in CONTEXT_NAMES if name in extensions}
