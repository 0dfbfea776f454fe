"""The API of click reports: request one, poll its progress, get the result. The task in jobs.py creates it."""

import asyncio
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, status
from opentelemetry import propagate
from pydantic import BaseModel

from links.request_id import get_logger, request_id
from links.shared import Shared, limit_rate
from links.tokens import require_token

if TYPE_CHECKING:
    from celery import Celery

log = get_logger(__name__)
router = APIRouter(prefix="/api/reports", tags=["reports"])

# Seconds that the queue may take to answer, and that a report is kept.
TIMEOUT = 3
KEPT = 24 * 3600

STATES: dict[str, Literal["queued", "running", "done", "failed"]] = {
    "PENDING": "queued",
    "RECEIVED": "queued",
    "STARTED": "running",
    "PROGRESS": "running",
    "RETRY": "running",
    "SUCCESS": "done",
}


class Report(BaseModel):
    """A report and its progress: `done` of `total` links."""

    id: UUID
    state: Literal["queued", "running", "done", "failed"]
    done: int | None = None
    total: int | None = None
    result: dict[str, Any] | None = None


def _unavailable() -> HTTPException:
    return HTTPException(
        status.HTTP_503_SERVICE_UNAVAILABLE,
        "The queue can't answer now. Try again later.",
        headers={"Retry-After": "5"},
    )


async def _queue(app: FastAPI) -> "Celery":
    """Return the queue. The first call imports Celery, in a thread, so that other requests aren't blocked."""

    def create() -> "Celery":
        from links.broker import create_celery

        return create_celery(app.state.settings, TIMEOUT)

    if app.state.queue is None:
        app.state.queue = await asyncio.to_thread(create)
    queue: Celery = app.state.queue
    return queue


def _shared(request: Request) -> Shared:
    shared: Shared | None = request.app.state.shared
    if shared is None:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "The queue is not configured: set REDIS_URL")
    return shared


@router.post("", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(require_token), Depends(limit_rate)])
async def ask_for_report(request: Request, response: Response) -> Report:
    """Enqueue a report; `Location` is its address."""
    shared = _shared(request)
    queue = await _queue(request.app)
    from celery.exceptions import OperationalError

    from links.broker import REPORT

    report_id, headers = uuid4(), {"request_id": request_id()}
    # The worker continues the request's trace, if there is one.
    propagate.inject(headers)

    def send() -> None:
        queue.send_task(REPORT, task_id=str(report_id), headers=headers, retry=False)

    try:
        async with asyncio.timeout(TIMEOUT):
            await shared.redis.set(f"links:report:{report_id}", "", ex=KEPT)
            await asyncio.to_thread(send)
    # Celery raises the second one for all errors of its connection.
    except (*shared.errors, OperationalError) as error:
        log.warning("The report can't be enqueued: %s", type(error).__name__)
        raise _unavailable() from error
    log.info("Enqueued report %s", report_id)
    response.headers["Location"] = str(request.url_for("read_report", report_id=report_id))
    return Report(id=report_id, state="queued")


@router.get("/{report_id}")
async def read_report(report_id: UUID, request: Request) -> Report:
    """Return a report's progress and result."""
    shared = _shared(request)
    queue = await _queue(request.app)
    try:
        async with asyncio.timeout(TIMEOUT):
            known = await shared.redis.exists(f"links:report:{report_id}")
            meta = await asyncio.to_thread(queue.backend.get_task_meta, str(report_id)) if known else None
    except shared.errors as error:
        raise _unavailable() from error
    if meta is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no report {report_id}")
    state = STATES.get(meta["status"], "failed")
    found = meta["result"] if isinstance(meta["result"], dict) else {}
    if state == "done":
        return Report(id=report_id, state=state, result=found)
    progress = found if meta["status"] == "PROGRESS" else {}
    return Report(id=report_id, state=state, done=progress.get("done"), total=progress.get("total"))
