"""Counters of requests for Prometheus, over all workers of the host.

Each worker counts for itself. Where the server sets PROMETHEUS_MULTIPROC_DIR, as gunicorn_handover does, any of them
answers for all.
"""

import os
import time

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from links.tokens import require_metrics_token

REQUESTS = Counter("links_requests", "Requests by how they were answered", ["method", "route", "status"])
SECONDS = Histogram("links_response_seconds", "Seconds from a request to the beginning of its answer", ["route"])

# Clients choose methods and paths: each of their own would be a series for ever.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

router = APIRouter(tags=["metrics"])


class MetricsMiddleware:
    """Count each HTTP request when its answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        counted = False

        def count(code: int) -> None:
            nonlocal counted
            counted = True
            method = scope["method"] if scope["method"] in METHODS else "other"
            # the pattern, not the path; none for what no route takes
            route = getattr(scope.get("route"), "path", "none")
            REQUESTS.labels(method, route, str(code)).inc()
            SECONDS.labels(route).observe(time.perf_counter() - began)

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not counted:
                count(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        except Exception:
            if not counted:
                count(500)
            raise


# Reading files: in a thread, so not `async`.
@router.get("/metrics", dependencies=[Depends(require_metrics_token)], response_class=Response)
def read_metrics() -> Response:
    """The counters of all workers of this host, as Prometheus reads them."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
