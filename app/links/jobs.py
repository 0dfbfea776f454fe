"""Background tasks, in Celery: `celery -A links.jobs worker`.

A task is acknowledged when it has ended. If its worker is killed, another worker runs it again: tasks must be
idempotent. Only workers import this module: the web enqueues a task by its name, see broker.py.
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
# Imports the tracing packages now: Celery gives a new worker process only four seconds to start.
telemetry.wanted(settings)


@after_setup_logger.connect  # type: ignore[untyped-decorator]  # Celery has no types
@after_setup_task_logger.connect  # type: ignore[untyped-decorator]
def format_lines(logger: logging.Logger, **_: Any) -> None:
    """Log JSON lines, like the web."""
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def begin(**_: Any) -> None:
    """Start tracing in a process that runs tasks."""
    telemetry.start(settings)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def end(**_: Any) -> None:
    """Send the last spans when the process exits."""
    telemetry.stop()


@app.task(bind=True, name=REPORT)  # type: ignore[untyped-decorator]
def report(self: Any) -> dict[str, Any]:
    """Create the click report: the most followed links, and the sites that they lead to."""

    def progress(done: int, total: int) -> None:
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})

    return asyncio.run(click_report(settings, progress))


@app.task(name="links.jobs.pause")  # type: ignore[untyped-decorator]
def pause(seconds: float) -> dict[str, Any]:
    """Sleep for `seconds`: a task for tests of stopping and starting workers."""
    began = time.monotonic()
    log.info("Pausing for %g s", seconds)
    time.sleep(seconds)
    return {"slept": time.monotonic() - began, "pid": os.getpid(), "release": settings.release or LOADED_RELEASE}
