"""The consumer of the workers: it loses no task when its release doesn't know one, or when the queue fails.

Celery would discard tasks that the release doesn't know. They exist after a rollback, and after a deploy that was
reverted: the web processes of the release that was left have enqueued them.
"""

from typing import Any

from celery.contrib.migrate import republish
from celery.worker.consumer import Consumer
from celery.worker.state import active_requests

from links.request_id import continued, get_logger

# Begins the names of the queues; the name of the task follows.
PARKED = "links.parked."
BUILTIN = "celery."

log = get_logger(__name__)


class WorkerConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Parks unknown tasks, and returns the running ones to the queue if the connection to it is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Delivery tags of cancelled tasks.
        self._cancelled: list[str] = []

    def update_strategies(self) -> None:
        """Also take the parked tasks that this release knows. Celery calls this before it starts to consume."""
        super().update_strategies()
        for name in self.strategies:
            if not name.startswith(BUILTIN):
                self.app.amqp.queues.select_add(PARKED + name)

    def on_ready(self) -> None:
        """Return the cancelled tasks to the queue. Celery calls this for each connection once it consumes."""
        super().on_ready()
        while self._cancelled:
            # Does nothing if the task is in the queue already.
            self.connection.default_channel.qos.restore_by_tag(self._cancelled[-1])
            self._cancelled.pop()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Cancel the running tasks: as soon as the queue answers again, they return to it.

        Celery would only cancel them. They would run again when the queue considers them lost, or never: Celery revokes
        a cancelled task whose new state it can't store within 20 seconds.
        """
        for request in tuple(active_requests):
            if request.task.acks_late and not request.acknowledged:
                with continued(request.request_dict.get("request_id")):
                    log.warning("Cancelled task %s[%s]: the queue can't be reached", request.name, request.id)
                self._cancelled.append(request.message.delivery_tag)
                request.cancel(self.pool, emit_retry=False)
        super().on_connection_error_after_connected(exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Park the task in the queue of its name, from which every worker that knows it takes tasks.

        Not acknowledging it instead would use up the worker's prefetch count, and requeueing it would be a busy loop.
        """
        del body
        # Celery looked it up by its name.
        name = str(exc.args[0])
        with self.app.producer_or_acquire() as producer:
            republish(producer, message, exchange="", routing_key=PARKED + name)
        # Only now: if the worker is killed before, the task is there twice, instead of lost.
        message.ack_log_error(log, self.connection_errors)
        with continued(message.headers.get("request_id")):
            log.warning("Parked task %s for a release that knows it", name)
