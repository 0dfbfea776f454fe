"""Logs: one JSON object a line (or plain text), access and error alike.

The access log is written by what wraps the application, not through a logger: an application that configures
logging for itself neither loses nor doubles it.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import logging.handlers
import os
import sys
from typing import Any

from gunicorn.glogging import Logger

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""The id of the request that the running task serves."""

_encode = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each line

# Uvicorn's and Gunicorn's own messages; the application's loggers are its own affair
SERVER_LOGGERS = ("gunicorn.error", "uvicorn.error")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object for a record. The keys are in the README."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        access = getattr(record, "access", None)
        if access is not None:
            entry.update(access)
        else:
            if identifier := request_id.get():
                entry["request_id"] = identifier
            entry["message"] = record.getMessage().rstrip("\n")
            if record.exc_info:
                entry["exception"] = self.formatException(record.exc_info)
            if record.stack_info:
                entry["stack"] = record.stack_info
        entry["pid"] = record.process
        return _encode(entry)


class TextFormatter(logging.Formatter):
    """The same for people: `time [pid] [level] message`."""

    def format(self, record: logging.LogRecord) -> str:
        access = getattr(record, "access", None)
        if access is None:
            message = super().format(record)
        else:
            fields = {name: "-" if value is None else str(value) for name, value in access.items()}
            # a client chose these: nothing of theirs may break the line
            for name in ("client", "method", "path", "request_id"):
                fields[name] = fields[name].encode("unicode_escape").decode()
            message = "{client} {method} {path} {protocol} {status} {bytes}B {duration_ms}ms {request_id}".format(
                **fields
            )
        return f"{_time(record)} [{record.process}] [{record.levelname.lower()}] {message}"


def formatter(style: str) -> logging.Formatter:
    """The formatter of the setting `handover_log_format`."""
    return JsonFormatter() if style == "json" else TextFormatter()


class HandoverLogger(Logger):
    """Gunicorn's logger with its own destinations (`errorlog`, `accesslog`, syslog) and our form."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        ours = formatter(cfg.handover_log_format)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                if not isinstance(handler, logging.handlers.SysLogHandler):
                    handler.setFormatter(ours)
        # kept, because an application that configures logging may empty or close what hangs on the loggers
        self._error_handlers: list[logging.Handler] = list(self.error_log.handlers)
        self._access_handlers: list[logging.Handler] = list(self.access_log.handlers)
        # what an application logs without having configured logging
        last = logging.StreamHandler(sys.stderr)
        last.setLevel(logging.WARNING)
        last.setFormatter(ours)
        logging.lastResort = last

    @property
    def logs_access(self) -> bool:
        """Whether anybody reads the access log."""
        return bool(self._access_handlers)

    def access_line(self, fields: dict[str, Any]) -> None:
        """Writes one access line; `fields` are the keys that the README lists."""
        record = logging.makeLogRecord(
            {"name": "access", "levelno": logging.INFO, "levelname": "INFO", "process": os.getpid(), "access": fields}
        )
        for handler in self._access_handlers:
            handler.handle(record)

    def claim(self) -> None:
        """Takes the server's own loggers back after the application may have disabled or emptied them, and silences
        Uvicorn's access log: ours takes its place."""
        for name in SERVER_LOGGERS:
            log = logging.getLogger(name)
            log.disabled = False
            if not log.hasHandlers():
                log.handlers = list(self._error_handlers)
        access = logging.getLogger("uvicorn.access")
        access.handlers = []
        access.propagate = False
        access.disabled = True
