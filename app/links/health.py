"""Two questions of operators: is the process alive, and can it serve?"""

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

log = get_logger(__name__)
router = APIRouter(tags=["health"])

MIGRATE_FIRST = "run `python -m links.migrate`"


@router.api_route("/healthz", methods=["GET", "HEAD"], response_class=JSONResponse)
async def healthz() -> JSONResponse:
    """The process answers. Depends on nothing, so that an outage elsewhere never gets it restarted."""
    return _answer({"status": "ok"})


@router.api_route("/readyz", methods=["GET", "HEAD"], response_class=JSONResponse)
async def readyz(request: Request) -> JSONResponse:
    """The database answers and has the tables that this release needs; else 503, naming what fails.

    The answer holds names only: no address, no user, no message of a library.
    """
    settings: Settings = request.app.state.settings
    checks = {"database": "ok", "schema": "unknown"}
    try:
        async with asyncio.timeout(settings.ready_timeout):
            found = await _database_revision(request.app.state.engine)
    except TimeoutError:
        checks["database"] = f"no answer within {settings.ready_timeout:g} s"
    except DATABASE_ERRORS as error:
        checks["database"] = "unreachable"
        log.warning("Not ready: %s", error)
    else:
        checks["schema"] = _schema_state(found)

    if set(checks.values()) == {"ok"}:
        return _answer({"status": "ok", "checks": checks})
    return _answer({"status": "unavailable", "checks": checks}, status_code=503)


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
    # A revision that this release doesn't know comes from a newer one. Migrations only ever add, so that the
    # release before still works on it: while a newer one rolls out, and after it has been rolled back.
    if found in REVISIONS[:-1]:
        return f"outdated: {MIGRATE_FIRST}"
    return "ok"


def _answer(content: Mapping[str, Any], status_code: int = 200) -> JSONResponse:
    return JSONResponse(content, status_code, headers={"Cache-Control": "no-store"})
