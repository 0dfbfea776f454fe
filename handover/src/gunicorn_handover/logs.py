"""Access and error logs: one JSON object per line, or plain text.

The ASGI middleware writes the access log, not a logger: an application that configures logging itself neither loses
nor duplicates it.
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
from collections.abc import MutableMapping
from typing import Any

from gunicorn.glogging import Logger, loggers

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""The id of the request that the current task serves."""

extension: contextvars.ContextVar[MutableMapping[str, Any] | None] = contextvars.ContextVar("extension", default=None)
"""This package's extension in the ASGI scope of that request. Contexts that the application copies share it."""

_encode = json.JSONEncoder(default=str).encode  # json.dumps would create an encoder for each line
_quote = json.encoder.encode_basestring_ascii  # the same encoding of a string

MAX_BATCH = 20  # access lines per write: usually at most 8 kB, so that lines of other workers don't interleave
_ACCESS = logging.makeLogRecord({"name": "access", "levelno": logging.INFO, "levelname": "INFO"}).__dict__

# Uvicorn's and Gunicorn's own messages; the application configures its loggers itself
SERVER_LOGGERS = ("gunicorn.error", "uvicorn.error")


def trace_id() -> Any:
    """The `trace_id` that the application has set in the extension of its request; None if there is none."""
    return (extension.get() or {}).get("trace_id")


def _value(value: Any) -> str:
    """A value as JSON."""
    kind = type(value)
    if kind is str:
        return _quote(value)
    return repr(value) if kind is int or kind is float else "null" if value is None else _encode(value)


def _stamp(moment: float) -> str:
    return f"{_second(int(moment))}.{int(moment * 1000) % 1000:03d}Z"


@functools.lru_cache(maxsize=1)
def _second(moment: int) -> str:
    """Cached, as many lines share a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def _access_record(created: float, fields: dict[str, Any]) -> logging.LogRecord:
    # without the constructor: half of a line's cost would be the caller's details, which it collects
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__.update(_ACCESS, created=created, process=os.getpid(), access=fields)
    return record


class LineFormatter(logging.Formatter):
    """Formats a record as one line, or as one line for each access entry of its `batch`."""

    def format(self, record: logging.LogRecord) -> str:
        batch = getattr(record, "batch", None)
        return self.line(record) if batch is None else "\n".join([self.access(*entry) for entry in batch])

    def access(self, created: float, fields: dict[str, Any]) -> str:
        """Formats one access line."""
        return self.line(_access_record(created, fields))

    def line(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        return super().format(record)


class JsonFormatter(LineFormatter):
    """Formats a record as one JSON object."""

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
            # set by an application that traces its requests: for this record, or for the request
            if trace := getattr(record, "trace_id", None) or trace_id():
                entry["trace_id"] = trace
            entry["message"] = record.getMessage().rstrip("\n")
            if record.exc_info:
                entry["exception"] = self.formatException(record.exc_info)
            if record.stack_info:
                entry["stack"] = record.stack_info
        entry["pid"] = record.process
        return _encode(entry)

    def access(self, created: float, fields: dict[str, Any]) -> str:
        # the same line as from `line`; a general encoder would be a third of this package's cost per request
        values = "".join([f', "{name}": {_value(value)}' for name, value in fields.items()])
        return f'{{"time": "{_stamp(created)}", "level": "info", "logger": "access"{values}, "pid": {os.getpid()}}}'


class TextFormatter(LineFormatter):
    """Plain text: `time [pid] [level] message`."""

    def line(self, record: logging.LogRecord) -> str:
        access = getattr(record, "access", None)
        if access is None:
            message = super().line(record)
        else:
            fields = {name: "-" if value is None else str(value) for name, value in access.items()}
            # the client controls these: escape them, so that they can't break the line
            for name in ("client", "method", "path", "request_id"):
                fields[name] = fields[name].encode("unicode_escape").decode()
            message = "{client} {method} {path} {protocol} {status} {bytes}B {duration_ms}ms {request_id}".format(
                **fields
            )
        return f"{_stamp(record.created)} [{record.process}] [{record.levelname.lower()}] {message}"


def without_query(record: logging.LogRecord) -> bool:
    """A filter that removes the query from Uvicorn's lines about WebSockets, as the access log contains none: clients
    that can't set headers, such as browsers, pass tokens in it."""
    if isinstance(record.msg, str) and "WebSocket %s" in record.msg and isinstance(record.args, tuple):
        record.args = tuple(value.partition("?")[0] if isinstance(value, str) else value for value in record.args)
    return True


def formatter(style: str) -> logging.Formatter:
    """The formatter of the setting `handover_log_format`."""
    return JsonFormatter() if style == "json" else TextFormatter()


class HandoverLogger(Logger):
    """Gunicorn's logger, with Gunicorn's destinations (`errorlog`, `accesslog`, syslog) and this package's format."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        ours = formatter(cfg.handover_log_format)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                if not isinstance(handler, logging.handlers.SysLogHandler):
                    handler.setFormatter(ours)
        # kept, as an application that configures logging may remove or close the loggers' handlers
        self._error_handlers: list[logging.Handler] = list(self.error_log.handlers)
        self._access_handlers: list[logging.Handler] = list(self.access_log.handlers)
        self._access_records: list[tuple[float, dict[str, Any]]] = []
        # For an application that configures no handlers. Its loggers inherit the root's level, WARNING, unless it sets
        # another one.
        last = logging.StreamHandler(sys.stderr)
        last.setLevel(self.error_log.level)
        last.setFormatter(ours)
        logging.lastResort = last

    def reopen_files(self) -> None:
        """Reopens the log files, after they were rotated."""
        # Gunicorn closes a file first, and if it then can't be opened, each later line raises
        try:
            for log in loggers():
                for handler in log.handlers:
                    if isinstance(handler, logging.FileHandler) and handler.stream:
                        open(handler.baseFilename, "ab").close()
        except OSError as error:
            self.error("The log files can't be reopened: %s", error)
        else:
            super().reopen_files()

    @property
    def logs_access(self) -> bool:
        """Whether the access log is enabled."""
        return bool(self._access_handlers)

    def access_line(self, fields: dict[str, Any]) -> None:
        """Writes one access line with `fields`.

        Lines of requests that end in the same iteration of the event loop are written together: it saves writes here,
        and wakes the journal only once.
        """
        self._access_records.append((time.time(), fields))
        if len(self._access_records) == 1:
            asyncio.get_running_loop().call_soon(self.write_access)
        elif len(self._access_records) == MAX_BATCH:
            self.write_access()

    def write_access(self) -> None:
        """Writes the pending access lines."""
        records, self._access_records = self._access_records, []
        if not records:
            return
        batch = _access_record(records[-1][0], {})
        batch.batch = records
        for handler in self._access_handlers:
            if isinstance(handler, logging.handlers.SysLogHandler):
                # syslog takes one message per datagram
                for record in records:
                    handler.handle(_access_record(*record))
            else:
                handler.handle(batch)

    def restore_loggers(self) -> None:
        """Restores the server's loggers, which the application may have disabled or emptied, removes queries from
        Uvicorn's lines, and silences Uvicorn's access log, which this one replaces."""
        for name in SERVER_LOGGERS:
            log = logging.getLogger(name)
            log.disabled = False
            if not log.hasHandlers():
                log.handlers = list(self._error_handlers)
        logging.getLogger("uvicorn.error").addFilter(without_query)
        access = logging.getLogger("uvicorn.access")
        access.handlers = []
        access.propagate = False
        access.disabled = True
