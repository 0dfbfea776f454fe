"""Request metrics for Prometheus, of all workers on the host.

If the server sets PROMETHEUS_MULTIPROC_DIR, as gunicorn_handover does, any worker returns the metrics of all workers;
otherwise only its own.
"""

import os
import time

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from links.tokens import require_metrics_token

REQUESTS = Counter("links_requests", "Requests by method, route and status", ["method", "route", "status"])
SECONDS = Histogram("links_response_seconds", "Seconds from a request to the start of its response", ["route"])

# Other methods are counted together: clients could create any number of series otherwise.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

router = APIRouter(tags=["metrics"])


class MetricsMiddleware:
    """Counts each HTTP request when its response starts."""

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
            # the pattern, not the path, which clients choose; "none" without a matching route
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


# Not `async`: it reads files, so FastAPI runs it in a thread.
@router.get("/metrics", dependencies=[Depends(require_metrics_token)], response_class=Response)
def read_metrics() -> Response:
    """Return the metrics of all workers on this host in Prometheus's text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
