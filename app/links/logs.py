"""Log lines of the Celery workers: one JSON object per line, with the same keys as gunicorn_handover's.

The web's log format is its server's; Celery's own format has no fields for ids.
"""

import json
import logging
import time
from typing import Any

from celery import current_task
from opentelemetry import propagate

from links.request_id import trace_id


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, request_id and trace_id if set, message, exception, stack and pid."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        ids = {name: getattr(record, name, None) for name in ("request_id", "trace_id")}
        # Celery's own records, such as those about a task's result, have no such attributes.
        if current_task:
            ids["request_id"] = ids["request_id"] or current_task.request.get("request_id")
            ids["trace_id"] = ids["trace_id"] or trace_id(propagate.extract(current_task.request))
        entry |= {name: value for name, value in ids.items() if value}
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        entry["pid"] = record.process
        return json.dumps(entry, default=str)
