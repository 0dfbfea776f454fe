"""Work that takes longer than a request may, in Celery: `celery -A links.jobs worker`.

A task is acknowledged when it has ended. One whose worker was killed is given to another worker: a task must be
right when it runs twice. Only workers import this module: the web asks for a job by its name, see broker.py.
"""

import asyncio
import logging
import os
import time
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger, worker_process_init, worker_process_shutdown

from links import telemetry
from links.broker import REPORT, create_celery
from links.demo import LOADED_RELEASE
from links.logs import JsonFormatter
from links.report import click_report
from links.request_id import get_logger
from links.settings import Settings

log = get_logger(__name__)

settings = Settings()
app = create_celery(settings)
# What a worker's processes would import otherwise as they start, which Celery gives them four seconds for.
telemetry.wanted(settings)


@after_setup_logger.connect  # type: ignore[untyped-decorator]  # Celery has no types
@after_setup_task_logger.connect  # type: ignore[untyped-decorator]
def format_lines(logger: logging.Logger, **_: Any) -> None:
    """Log as the web does."""
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def begin(**_: Any) -> None:
    """Begin a process that runs tasks."""
    telemetry.start(settings)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def end(**_: Any) -> None:
    """End it."""
    telemetry.stop()


@app.task(bind=True, name=REPORT)  # type: ignore[untyped-decorator]
def report(self: Any) -> dict[str, Any]:
    """Sum up all clicks: the links that were followed most, and the sites that they lead to."""

    def progress(done: int, total: int) -> None:
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})

    return asyncio.run(click_report(settings, progress))


@app.task(name="links.jobs.pause")  # type: ignore[untyped-decorator]
def pause(seconds: float) -> dict[str, Any]:
    """Take this long: a task for those who watch how workers stop and start."""
    began = time.monotonic()
    log.info("Pausing for %g s", seconds)
    time.sleep(seconds)
    return {"slept": time.monotonic() - began, "pid": os.getpid(), "release": settings.release or LOADED_RELEASE}
