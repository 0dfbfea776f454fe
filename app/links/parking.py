"""The consumer of the workers: it parks tasks that its release doesn't know for workers that do.

Celery would discard them. They exist after a rollback, and after a deploy that was reverted: the web processes of the
release that was left have enqueued them.
"""

from typing import Any

from celery.contrib.migrate import republish
from celery.worker.consumer import Consumer

from links.request_id import continued, get_logger

# Begins the names of the queues; the name of the task follows.
PARKED = "links.parked."
BUILTIN = "celery."

log = get_logger(__name__)


class ParkingConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Parks each unknown task in a queue of that task's name, from which every worker that knows it takes tasks.

    Not acknowledging it instead would use up the worker's prefetch count, and requeueing it would be a busy loop.
    """

    def update_strategies(self) -> None:
        """Also take the parked tasks that this release knows. Celery calls this before it starts to consume."""
        super().update_strategies()
        for name in self.strategies:
            if not name.startswith(BUILTIN):
                self.app.amqp.queues.select_add(PARKED + name)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Move the task to the queue of its name."""
        del body
        # Celery looked it up by its name.
        name = str(exc.args[0])
        with self.app.producer_or_acquire() as producer:
            republish(producer, message, exchange="", routing_key=PARKED + name)
        # Only now: if the worker is killed before, the task is there twice, instead of lost.
        message.ack_log_error(log, self.connection_errors)
        with continued(message.headers.get("request_id")):
            log.warning("Parked task %s for a release that knows it", name)
