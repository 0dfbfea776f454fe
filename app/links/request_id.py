"""The request's id in the application's log records, and in its span; the trace's id in all lines of the request.

The server owns the log handlers and their format; records only have the attributes `request_id` and `trace_id`.
gunicorn_handover also prints the trace's id in lines that aren't the application's, such as those of the access log.
"""

import logging
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import Context
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,128}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def request_id() -> str | None:
    """Return the id of the current request; None outside a request."""
    return _current.get()


def trace_id(context: Context | None = None) -> str | None:
    """Return the id of the trace in a context (by default the current one) in hexadecimal digits; None if no trace is
    recorded.
    """
    span = trace.get_current_span(context).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.trace_flags.sampled else None


@contextmanager
def continued(given: str | None) -> Iterator[None]:
    """Log with this request id, such as that of the request that enqueued a task; None for no request."""
    token = _current.set(given)
    if given is not None:
        trace.get_current_span().set_attribute("request_id", given)
    try:
        yield
    finally:
        _current.reset(token)


class RequestIdMiddleware:
    """Takes X-Request-ID from the proxy, or generates an id if it is missing or invalid."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        if (traced := trace_id()) and (extension := scope.get("extensions", {}).get("gunicorn_handover")) is not None:
            extension["trace_id"] = traced
        with continued(given if _ACCEPTED.fullmatch(given) else uuid4().hex):
            await self.app(scope, receive, send)


class _RequestLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {"request_id": request_id(), "trace_id": trace_id(), **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a standard logger whose records have `request_id` and `trace_id`."""
    return _RequestLogger(logging.getLogger(name))
