"""Log lines of the workers for long work: one JSON object each, with the keys that gunicorn_handover's have.

The web's server owns the format of its lines; Celery's own has no place for ids.
"""

import json
import logging
import time
from typing import Any

from celery import current_task


class JsonFormatter(logging.Formatter):
    """One JSON object for a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write it: time (UTC), level, logger, request_id and trace_id where there are, message, exception, pid."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        # Celery says itself how a task ended, outside of what the task logs.
        request_id = getattr(record, "request_id", None) or (current_task and current_task.request.get("request_id"))
        ids = {"request_id": request_id, "trace_id": getattr(record, "trace_id", None)}
        entry |= {name: value for name, value in ids.items() if value}
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        entry["pid"] = record.process
        return json.dumps(entry, default=str)
