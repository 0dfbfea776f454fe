"""Health checks: liveness (`/healthz`) and readiness (`/readyz`)."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from links.database import DATABASE_ERRORS
from links.migrations import REVISIONS
from links.request_id import get_logger
from links.settings import Settings
from links.shared import Shared

log = get_logger(__name__)
router = APIRouter(tags=["health"])

MIGRATE_FIRST = "run `python -m links.migrate`"


@router.get("/healthz", response_class=JSONResponse)
@router.head("/healthz", include_in_schema=False)
async def healthz() -> JSONResponse:
    """The process answers. Has no dependencies, so that an outage elsewhere never causes a restart."""
    return _answer({"status": "ok"})


@router.get("/readyz", response_class=JSONResponse)
@router.head("/readyz", include_in_schema=False)
async def readyz(request: Request) -> JSONResponse:
    """The database answers and has the schema of this release, and Redis answers; otherwise 503 with the reason.

    The answer contains only names: no address, user or library message.

    A draining worker answers 503, "draining", so that a client with a kept connection uses another worker. On a new
    connection, a worker that serves answers.
    """
    if _is_draining(request):
        return _answer({"status": "draining", "checks": {}}, status_code=503)
    settings: Settings = request.app.state.settings
    shared: Shared | None = request.app.state.shared
    asked = [_check_database(request.app.state.health_engine, settings.ready_timeout)]
    if shared is not None:
        asked.append(_check_redis(shared, settings.ready_timeout))
    # Concurrently: the slowest check determines the time.
    checks = {name: state for found in await asyncio.gather(*asked) for name, state in found.items()}

    if set(checks.values()) == {"ok"}:
        return _answer({"status": "ok", "checks": checks})
    return _answer({"status": "unavailable", "checks": checks}, status_code=503)


def _is_draining(request: Request) -> bool:
    """Return whether the worker drains. gunicorn_handover sets this in each request's scope; other servers don't."""
    extension: Mapping[str, Any] = request.scope.get("extensions", {}).get("gunicorn_handover", {})
    return bool(extension.get("draining", False))


async def _check_database(engine: AsyncEngine, seconds: float) -> dict[str, str]:
    checks = {"database": "ok", "schema": "unknown"}
    try:
        async with asyncio.timeout(seconds):
            found = await _database_revision(engine)
    except TimeoutError:
        checks["database"] = _silent(seconds)
    except DATABASE_ERRORS as error:
        checks["database"] = "unreachable"
        log.warning("Not ready: %s", error)
    else:
        checks["schema"] = _schema_state(found)
    return checks


async def _check_redis(shared: Shared, seconds: float) -> dict[str, str]:
    try:
        async with asyncio.timeout(seconds):
            await shared.ping()
    except TimeoutError:
        return {"redis": _silent(seconds)}
    except shared.errors as error:
        log.warning("Not ready: Redis can't be reached: %s", type(error).__name__)
        return {"redis": "unreachable"}
    return {"redis": "ok"}


def _silent(seconds: float) -> str:
    return f"no answer within {seconds:g} s"


async def _database_revision(engine: AsyncEngine) -> str | None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
            return None
        revision: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def _schema_state(found: str | None) -> str:
    if found is None:
        return f"missing: {MIGRATE_FIRST}"
    # An unknown revision comes from a newer release. As migrations only add, this release still works with it:
    # while the newer release is rolled out, and after it has been rolled back.
    if found in REVISIONS[:-1]:
        return f"outdated: {MIGRATE_FIRST}"
    return "ok"


def _answer(content: Mapping[str, Any], status_code: int = 200) -> JSONResponse:
    return JSONResponse(content, status_code, headers={"Cache-Control": "no-store"})
