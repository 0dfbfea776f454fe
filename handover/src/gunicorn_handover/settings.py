"""The settings of this package. They are Gunicorn settings like any other: names in gunicorn.conf.py, read again at
each reload. Importing this module makes them known to Gunicorn."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from gunicorn import config

from gunicorn_handover import resources

STATUS_VARIABLE = "GUNICORN_HANDOVER_STATUS"
RELEASE_VARIABLE = "GUNICORN_HANDOVER_RELEASE_FILE"
METRICS_VARIABLE = "GUNICORN_HANDOVER_METRICS"
_PATH = re.compile(r"/[!-\"$-~]*")  # no blank, no fragment
_HOST = re.compile(r"[0-9A-Za-z_.:\[\]-]+")


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{value!r} is no number of seconds. Give one of 0 or more.")
    return seconds


def _optional_seconds(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _positive_seconds(value: Any) -> float:
    seconds = _seconds(value)
    if seconds == 0:
        raise ValueError("0 seconds is no deadline. Give a number above 0.")
    return seconds


def _at_least_one(value: Any) -> int:
    number = int(config.validate_pos_int(value))
    if number < 1:
        raise ValueError(f"{value!r} is not 1 or more.")
    return number


def _nice(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= 19:
        raise ValueError(f"{value!r} is no niceness. Give one of 0 (off) to 19.")
    return number


def _paths(setting: str) -> Any:
    def validate(value: Any) -> list[str]:
        entries = [value] if isinstance(value, str) else list(value or [])
        for entry in entries:
            if not isinstance(entry, str) or not _PATH.fullmatch(entry):
                raise ValueError(
                    f"{setting} has {entry!r}, which is no path. "
                    "Write what follows the host in an address, percent-encoded: /readyz or /search?q=a%20b."
                )
        return list(dict.fromkeys(entries))

    return validate


def _host(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError(
            f"handover_warmup_host is {value!r}, which is no Host header. Give a name such as example.com."
        )
    return value


def _one_of(*choices: str) -> Any:
    def validate(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}.")
        return str(value)

    return validate


def _variables(value: Any) -> list[str]:
    entries = [value] if isinstance(value, str) else list(value or [])
    if not all(isinstance(entry, str) for entry in entries):
        raise TypeError("raw_env holds something that is no string. Write each entry as NAME=value.")
    return entries


# Gunicorn accepts 0, and then serves no request
config.Workers.validator = staticmethod(_at_least_one)
# Gunicorn's own strips blanks off the end, which belong to the value
config.Env.validator = staticmethod(_variables)


def _define(name: str, default: Any, validator: Callable[[Any], Any], description: str) -> None:
    """Makes the setting known: Gunicorn registers every class derived from its Setting."""
    attributes = {
        "name": name,
        "section": "Handover",
        "default": default,
        "validator": validator,
        "desc": description,
    }
    type(config.Setting)(name, (config.Setting,), attributes)


_define(
    "handover_status_file",
    os.environ.get(STATUS_VARIABLE) or None,
    config.validate_string,
    "Where the master keeps its status as JSON. No file when unset.",
)
_define(
    "handover_release_file",
    os.environ.get(RELEASE_VARIABLE) or None,
    config.validate_string,
    "A JSON file whose `id` names the release; read for each worker.",
)
_define(
    "handover_metrics_directory",
    os.environ.get(METRICS_VARIABLE) or None,
    config.validate_string,
    "Where prometheus_client keeps the metrics of all workers. Each counts for itself when unset.",
)
_define(
    "handover_boot_timeout",
    120.0,
    _positive_seconds,
    "Seconds that a worker may take from its fork until its lifespan startup has ended.",
)
# One alone keeps one processor to itself, and crowds all that serves onto the others. With one more than processors,
# 2n+1 workers take two rounds, and one that waits for a file or another server leaves no processor idle.
_define(
    "handover_boot_at_once",
    resources.cores() + 1,
    _at_least_one,
    "How many workers boot at the same time. Default: one for each processor that the service may use, and one.",
)
_define("handover_boot_nice", 19, _nice, "Niceness of a worker that boots while others serve; 0 leaves it as it is.")
_define(
    "handover_idle_timeout",
    None,
    _optional_seconds,
    "Seconds that a draining worker keeps a connection with no request on it. Unset: keepalive + 1.",
)
_define(
    "handover_websocket_grace",
    0.0,
    _seconds,
    "Seconds that WebSockets live on in a draining worker before they are closed with 1012.",
)
_define(
    "handover_websocket_spread",
    0.0,
    _seconds,
    "Seconds over which a draining worker spreads the closes of its WebSockets; it ends within graceful_timeout.",
)
_define(
    "handover_exit_timeout",
    5.0,
    _seconds,
    "Seconds beyond graceful_timeout for the lifespan shutdown; then the worker is killed.",
)
_define(
    "handover_urgent_paths",
    [],
    _paths("handover_urgent_paths"),
    "Paths, such as the health check's, that are answered before requests that wait for the processor.",
)
_define(
    "handover_warmup_paths",
    [],
    _paths("handover_warmup_paths"),
    "Paths that a worker asks its own application for, by GET, before it accepts connections.",
)
_define(
    "handover_warmup_timeout",
    10.0,
    _positive_seconds,
    "Seconds that the warm-up of a worker may take in all.",
)
_define(
    "handover_warmup_host",
    "localhost",
    _host,
    "Host header of the warm-up's requests.",
)
_define(
    "handover_warmup_required",
    False,
    config.validate_bool,
    "Whether a worker whose warm-up fails has failed to boot.",
)
_define(
    "handover_http",
    "httptools",
    _one_of("httptools", "h11"),
    "The HTTP parser. h11 is slower and answers some ambiguous requests twice.",
)
_define(
    "handover_loop", "auto", _one_of("auto", "uvloop", "asyncio"), "The event loop; auto is uvloop where it imports."
)
_define("handover_log_format", "json", _one_of("json", "text"), "The form of the access and error logs.")
