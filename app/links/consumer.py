"""The consumer of the workers: it loses no task when its release doesn't know one, or when the queue fails.

Celery would discard tasks that the release doesn't know. They exist after a rollback, and after a deploy that was
reverted: the web processes of the release that was left have enqueued them.
"""

import time
from typing import Any

from celery.contrib.migrate import republish
from celery.worker.consumer import Consumer
from celery.worker.state import reserved_requests

from links.request_id import continued, get_logger

# Begins the names of the queues; the name of the task follows.
PARKED = "links.parked."
BUILTIN = "celery."

log = get_logger(__name__)


class WorkerConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Parks unknown tasks, and returns the running ones to the queue if the connection to it is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Tasks that are neither acknowledged nor in the queue: delivery tag, and when the connection was lost.
        self._unreturned: list[tuple[str, float]] = []

    def update_strategies(self) -> None:
        """Also take the parked tasks that this release knows. Celery calls this before it starts to consume."""
        super().update_strategies()
        for name in self.strategies:
            if not name.startswith(BUILTIN):
                self.app.amqp.queues.select_add(PARKED + name)

    def on_ready(self) -> None:
        """Return tasks of a lost connection to the queue. Celery calls this for each connection once it consumes."""
        super().on_ready()
        channel = self.connection.default_channel
        while self._unreturned:
            tag, lost = self._unreturned[-1]
            with channel.conn_or_acquire() as client:
                taken = client.zscore(channel.unacked_index_key, tag)
            # Not one that another worker has taken since: the queue had considered it lost.
            if taken is None or taken < lost:
                # Does nothing if the task is in the queue already.
                channel.qos.restore_by_tag(tag)
            self._unreturned.pop()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Cancel the tasks that run or are about to: as soon as the queue answers again, they return to it.

        Celery would only cancel the running ones. They would run again when the queue considers them lost, or never:
        Celery revokes a cancelled task whose new state it can't store within 20 seconds. The others it would forget.
        """
        lost = time.time()
        qos = self.task_consumer.channel.qos if self.task_consumer else None
        tags = []
        for request in tuple(reserved_requests):
            if request.task.acks_late and not request.acknowledged:
                with continued(request.request_dict.get("request_id")):
                    log.warning("Cancelled task %s[%s]: the queue can't be reached", request.name, request.id)
                tags.append(request.message.delivery_tag)
                request.cancel(self.pool, emit_retry=False)
        super().on_connection_error_after_connected(exc)
        # Celery has closed the connection. If Redis answered, this has returned all tasks to the queue, and another
        # worker may run them by now.
        self._unreturned += [(tag, lost) for tag in tags if qos is not None and _holds(qos, tag)]

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


def _holds(qos: Any, tag: str) -> bool:
    """Tell whether a channel still has to return or acknowledge a task."""
    try:
        qos.get(tag)
    except KeyError:
        return False
    return True
