"""Traces of requests and tasks, with OpenTelemetry, for the collector at OTEL_EXPORTER_OTLP_ENDPOINT.

Spans are created with OpenTelemetry's API, a dependency of FastAPI that does nothing on its own. The SDK, which sends
them, is the extra `otel`: it is imported only if the variable is set, and reads its own variables (`OTEL_…`).
"""

import threading
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig

from links.request_id import get_logger
from links.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = get_logger(__name__)

# Requested periodically by the server, proxies and Prometheus; their traces would be noise.
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
# User agent of the warm-up requests that gunicorn_handover makes before a worker accepts connections.
WARMUP_AGENT = b"gunicorn-handover-warmup/"
# Seconds that an exiting process has to send its last spans.
FLUSH = 2

_provider: "TracerProvider | None" = None


def untraced(scope: MutableMapping[str, Any]) -> bool:
    """Return whether a request, given as its ASGI scope, is a health check, scrape or warm-up."""
    return scope["path"] in UNTRACED or any(
        name == b"user-agent" and value.startswith(WARMUP_AGENT) for name, value in scope["headers"]
    )


# metrics.py counts requests already, and the server logs them.
REQUESTS: TelemetryConfig = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": untraced,
}


def wanted(settings: Settings) -> bool:
    """Return whether traces are enabled: a collector is set, and the packages are installed. Imports the packages, so
    that processes forked later share them.
    """
    if settings.otlp_endpoint is None:
        return False
    try:
        import links.spans  # noqa: F401
    except ModuleNotFoundError as error:
        log.warning(
            "No traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but %s is not installed. Install requirements-otel.txt",
            error.name,
        )
        return False
    return True


def start(settings: Settings) -> None:
    """Start tracing this process, if traces are enabled. Call it once per process, after the last fork, as a thread
    sends the spans.
    """
    global _provider
    if wanted(settings):
        from links import spans

        _provider = spans.start(settings)


def stop() -> None:
    """Send the last spans, for at most FLUSH seconds: spans not sent by then are lost."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        # The SDK would wait for half a minute. A daemon thread, as the interpreter's exit must not wait for it either.
        flushing = threading.Thread(target=provider.shutdown, name="telemetry-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH)
