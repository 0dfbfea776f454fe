"""Logs: one JSON object a line (or plain text), access and error alike.

The access log is written by what wraps the application, not through a logger: an application that configures
logging for itself neither loses nor doubles it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import logging
import logging.handlers
import os
import sys
import time
from typing import Any

from gunicorn.glogging import Logger

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""The id of the request that the running task serves."""

_encode = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each line
_quote = json.encoder.encode_basestring_ascii  # a string as that has it

MOST_AT_ONCE = 20  # access lines: a write of 8 kB at most, as a rule, which no other worker's comes in between
_ACCESS = logging.makeLogRecord({"name": "access", "levelno": logging.INFO, "levelname": "INFO"}).__dict__

# Uvicorn's and Gunicorn's own messages; the application's loggers are its own affair
SERVER_LOGGERS = ("gunicorn.error", "uvicorn.error")


def _value(value: Any) -> str:
    """A value as JSON has it."""
    kind = type(value)
    if kind is str:
        return _quote(value)
    return repr(value) if kind is int or kind is float else "null" if value is None else _encode(value)


def _stamp(moment: float) -> str:
    return f"{_second(int(moment))}.{int(moment * 1000) % 1000:03d}Z"


@functools.lru_cache(maxsize=1)
def _second(moment: int) -> str:
    """All lines of a second share it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def _access_record(created: float, fields: dict[str, Any]) -> logging.LogRecord:
    # by no constructor: half of a line's cost would be what logging finds out about its caller
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__.update(_ACCESS, created=created, process=os.getpid(), access=fields)
    return record


class LineFormatter(logging.Formatter):
    """A line for a record, or for each access line that it stands for (`batch`)."""

    def format(self, record: logging.LogRecord) -> str:
        batch = getattr(record, "batch", None)
        return self.line(record) if batch is None else "\n".join([self.access(*entry) for entry in batch])

    def access(self, created: float, fields: dict[str, Any]) -> str:
        """One access line."""
        return self.line(_access_record(created, fields))

    def line(self, record: logging.LogRecord) -> str:
        """One record."""
        return super().format(record)


class JsonFormatter(LineFormatter):
    """One JSON object for a record. The keys are in the README."""

    def line(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        access = getattr(record, "access", None)
        if access is not None:
            entry.update(access)
        else:
            if identifier := request_id.get():
                entry["request_id"] = identifier
            # an application whose requests are traced says so of its records
            if trace := getattr(record, "trace_id", None):
                entry["trace_id"] = trace
            entry["message"] = record.getMessage().rstrip("\n")
            if record.exc_info:
                entry["exception"] = self.formatException(record.exc_info)
            if record.stack_info:
                entry["stack"] = record.stack_info
        entry["pid"] = record.process
        return _encode(entry)

    def access(self, created: float, fields: dict[str, Any]) -> str:
        # the same line; an encoder for all that JSON knows would be a third of what a request costs here
        values = "".join([f', "{name}": {_value(value)}' for name, value in fields.items()])
        return f'{{"time": "{_stamp(created)}", "level": "info", "logger": "access"{values}, "pid": {os.getpid()}}}'


class TextFormatter(LineFormatter):
    """The same for people: `time [pid] [level] message`."""

    def line(self, record: logging.LogRecord) -> str:
        access = getattr(record, "access", None)
        if access is None:
            message = super().line(record)
        else:
            fields = {name: "-" if value is None else str(value) for name, value in access.items()}
            # a client chose these: nothing of theirs may break the line
            for name in ("client", "method", "path", "request_id"):
                fields[name] = fields[name].encode("unicode_escape").decode()
            message = "{client} {method} {path} {protocol} {status} {bytes}B {duration_ms}ms {request_id}".format(
                **fields
            )
        return f"{_stamp(record.created)} [{record.process}] [{record.levelname.lower()}] {message}"


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
        self._access_records: list[tuple[float, dict[str, Any]]] = []
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
        """Writes one access line; `fields` are the keys that the README lists.

        What ends in the same turn of the event loop is written at once, for the sake of both ends: it wakes the
        journal once.
        """
        self._access_records.append((time.time(), fields))
        if len(self._access_records) == 1:
            asyncio.get_running_loop().call_soon(self.write_access)
        elif len(self._access_records) == MOST_AT_ONCE:
            self.write_access()

    def write_access(self) -> None:
        """Writes the access lines that wait for the end of the event loop's turn."""
        records, self._access_records = self._access_records, []
        if not records:
            return
        batch = _access_record(records[-1][0], {})
        batch.batch = records
        for handler in self._access_handlers:
            if isinstance(handler, logging.handlers.SysLogHandler):
                # each message is a datagram of its own there
                for record in records:
                    handler.handle(_access_record(*record))
            else:
                handler.handle(batch)

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
