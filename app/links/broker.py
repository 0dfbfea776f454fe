"""The queue between web and Celery workers: Celery on Redis."""

import ssl
from typing import Any

from celery import Celery, Task
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from links.request_id import continued
from links.settings import Settings

QUEUE = "links"
# Never rename a task: the previous release may still enqueue it.
REPORT = "links.jobs.report"
# Seconds, after a task's time limit and a worker's stop timeout, until the queue considers the task lost.
MARGIN = 60
RESULT_SECONDS = 24 * 3600


class TracedTask(Task):  # type: ignore[misc]  # Celery has no types
    """Logs with the id of the request that enqueued it, and continues its trace."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task."""
        span = trace.get_tracer("links").start_as_current_span(
            f"process {self.name}",
            # Celery passes the task's headers as attributes of its request.
            context=propagate.extract(self.request),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "celery",
                "messaging.operation.type": "process",
                "messaging.destination.name": QUEUE,
                "messaging.message.id": self.request.id or "",
            },
        )
        with span, continued(self.request.get("request_id")):
            return self.run(*args, **kwargs)


def create_celery(settings: Settings, timeout: float = 30) -> Celery:
    """Create the Celery application. It doesn't connect yet; its commands to Redis take at most `timeout` seconds.

    Raise RuntimeError without REDIS_URL.
    """
    if settings.redis_url is None:
        message = "Tasks need Redis: set REDIS_URL to redis://USER:PASSWORD@HOST:6379/0"
        raise RuntimeError(message)
    url = settings.redis_url.get_secret_value()
    # After this time the broker redelivers an unacknowledged task: never while its first worker may still run it.
    transport = {
        "visibility_timeout": settings.job_time_limit + settings.job_stop_timeout + MARGIN,
        "socket_connect_timeout": min(timeout, 3),
        "socket_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    celery = Celery("links", task_cls=TracedTask)
    celery.conf.update(
        broker_url=url,
        result_backend=url,
        broker_transport_options=transport,
        result_backend_transport_options=transport,
        broker_connection_retry_on_startup=True,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        task_time_limit=settings.job_time_limit,
        # One at a time, so that a stopping worker has reserved no task that another one could run.
        worker_prefetch_multiplier=1,
        # A name, because the web doesn't need it.
        worker_consumer="links.consumer:WorkerConsumer",
        worker_soft_shutdown_timeout=settings.job_stop_timeout,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        # If Redis fails between its result and its acknowledgement, a task returns to the queue.
        worker_deduplicate_successful_tasks=True,
        worker_hijack_root_logger=False,
        result_expires=RESULT_SECONDS,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        timezone="UTC",
    )
    if url.startswith("rediss://"):
        celery.conf.update(
            broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED},
            redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED},
        )
    return celery
