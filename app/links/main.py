"""The application: `links.main:app`, or the factory `links.main:create_app()`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from links import api, clicks, demo, health, metrics, pages, reports, telemetry, titles
from links.clicks import ClickFeed
from links.database import DATABASE_ERRORS, Sessions, create_engine, is_temporary
from links.request_id import RequestIdMiddleware, get_logger
from links.settings import Settings
from links.shared import create_shared
from links.titles import Titles

log = get_logger(__name__)

MAX_BODY_BYTES = 64 * 1024


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create and close the connection pools, and start and stop tracing.

    It creates no tables, as every worker on every host runs this at the same time. It doesn't connect either: a worker
    boots even if the database is down, and /readyz reports that.
    """
    settings: Settings = app.state.settings
    telemetry.start(settings)
    app.state.engine = create_engine(settings)
    # of its own: otherwise /readyz would wait behind all other requests of an overloaded worker
    one = {"database_pool_size": 1, "database_max_overflow": 0}
    app.state.health_engine = create_engine(settings.model_copy(update=one))
    app.state.sessions = Sessions(app.state.engine, settings)
    app.state.shared = create_shared(settings)
    app.state.clicks = ClickFeed(app.state.shared) if app.state.shared else None
    app.state.titles = Titles(settings)
    app.state.queue = None
    log.info(
        "Started, with %s%s",
        "SQLite" if settings.database_url is None else "PostgreSQL",
        " and Redis" if app.state.shared else "",
    )
    try:
        yield
    finally:
        await app.state.titles.close()
        if app.state.shared:
            await app.state.clicks.close()
            await app.state.shared.close()
        if app.state.queue is not None:
            app.state.queue.close()
        await app.state.health_engine.dispose()
        await app.state.engine.dispose()
        await asyncio.to_thread(telemetry.stop)


async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """Answer 503 with Retry-After if the database is temporarily unavailable."""
    if not is_temporary(error):
        raise error
    log.error("%s %s needs the database: %s", request.method, request.url.path, error)
    return JSONResponse(
        {"detail": "The database can't answer now. Try again in a few seconds."}, 503, headers={"Retry-After": "5"}
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application."""
    app = FastAPI(
        title="Links",
        summary="Short addresses that count their clicks",
        lifespan=lifespan,
        max_body_size=MAX_BODY_BYTES,
        telemetry=telemetry.REQUESTS,
        openapi_url="/api/openapi.json",
        docs_url="/api/docs",
        redoc_url=None,
    )
    app.state.settings = settings or Settings()
    # The server has the handlers. By default, Python's loggers drop what is less than a warning.
    logging.getLogger("links").setLevel(app.state.settings.log_level.upper())
    app.add_middleware(metrics.MetricsMiddleware)
    app.add_middleware(RequestIdMiddleware)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, unavailable)

    app.include_router(health.router)
    app.include_router(api.router)
    app.include_router(titles.router)
    app.include_router(clicks.router)
    app.include_router(reports.router)
    app.include_router(demo.whoami_router)
    if app.state.settings.metrics_token:
        app.include_router(metrics.router)
    if app.state.settings.demo_endpoints:
        app.include_router(demo.router)
    app.mount("/static", pages.static, name="static")
    app.include_router(pages.router)
    # Last, as it matches every path with one segment.
    app.include_router(api.redirects)
    return app


app = create_app()
