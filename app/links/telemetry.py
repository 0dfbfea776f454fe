"""Traces of requests and jobs, by OpenTelemetry, for the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.

What makes a span here is OpenTelemetry's API, which FastAPI brings and which does nothing by itself. The SDK that sends
spans is the extra `otel`: it is imported only where the variable is set, and reads its own variables (`OTEL_…`).
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

# The server, proxies and Prometheus request these periodically; their traces would be noise.
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
# Of the requests that gunicorn_handover makes before a worker is admitted.
WARMUP_AGENT = b"gunicorn-handover-warmup/"
# Seconds that a process which ends has to send its last spans.
FLUSH = 2

_provider: "TracerProvider | None" = None


def untraced(scope: MutableMapping[str, Any]) -> bool:
    """Tell whether a request (its ASGI scope) is none that a client waits for."""
    return scope["path"] in UNTRACED or any(
        name == b"user-agent" and value.startswith(WARMUP_AGENT) for name, value in scope["headers"]
    )


# Requests have counters already, see metrics.py, and lines in the log.
REQUESTS: TelemetryConfig = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": untraced,
}


def wanted(settings: Settings) -> bool:
    """Tell whether there are traces: a collector, and the packages. Imports them, so that processes forked later share
    them.
    """
    if settings.otlp_endpoint is None:
        return False
    try:
        import links.spans  # noqa: F401
    except ModuleNotFoundError as error:
        log.warning(
            "No traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, and there is no package %s. Install requirements-otel.txt",
            error.name,
        )
        return False
    return True


def start(settings: Settings) -> None:
    """Trace this process from now on, if there is a collector. Once in a process, after the last fork: what sends the
    spans is a thread.
    """
    global _provider
    if wanted(settings):
        from links import spans

        _provider = spans.start(settings)


def stop() -> None:
    """Send the last spans, in FLUSH seconds at most: what a collector hasn't taken by then is lost."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        # The SDK would wait for half a minute. A daemon, so that the interpreter's end doesn't wait for it either.
        flushing = threading.Thread(target=provider.shutdown, name="telemetry-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH)
