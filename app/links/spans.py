"""The part of telemetry.py that needs the extra `otel`."""

import os
import socket
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from links.demo import LOADED_RELEASE
from links.settings import Settings


class TraceRequired(Sampler):
    """Drops client spans outside traced requests and tasks, such as those of health checks."""

    def __init__(self, configured: Sampler) -> None:
        self._configured = configured

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Drop such spans; leave others to the sampler of OTEL_TRACES_SAMPLER."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if kind is SpanKind.CLIENT and not parent.is_valid:
            return SamplingResult(Decision.DROP)
        return self._configured.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return the names of both samplers."""
        return f"TraceRequired({self._configured.get_description()})"


def resource(settings: Settings) -> Resource:
    """Return the resource of this process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    ours: dict[str, str | int] = {
        "service.name": "links",
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    if release := settings.release or LOADED_RELEASE:
        ours["service.version"] = release
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def start(settings: Settings) -> TracerProvider:
    """Start to record spans in this process, and to send them in the background."""
    # No shutdown at the interpreter's exit, which has no timeout: see telemetry.stop().
    provider = TracerProvider(resource=resource(settings), shutdown_on_exit=False)
    provider.sampler = TraceRequired(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    RedisInstrumentor().instrument()
    HTTPXClientInstrumentor().instrument()
    # Its list of supported versions lacks SQLAlchemy 2.1, which has the same events.
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)
    return provider
