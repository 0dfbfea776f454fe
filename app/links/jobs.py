"""Work that takes longer than a request may, in Celery: `celery -A links.jobs worker`.

A task is acknowledged when it has ended. One whose worker was killed is given to another worker: a task must be
right when it runs twice. Only workers import this module: the web asks for a job by its name, see broker.py.
"""

import asyncio
import os
import time
from typing import Any

from links.broker import REPORT, create_celery
from links.demo import LOADED_RELEASE
from links.report import click_report
from links.request_id import get_logger
from links.settings import Settings

log = get_logger(__name__)

settings = Settings()
app = create_celery(settings)


@app.task(bind=True, name=REPORT)  # type: ignore[untyped-decorator]  # Celery has no types
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
