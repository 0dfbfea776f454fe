"""The settings of this package. They are ordinary Gunicorn settings: names in gunicorn.conf.py, read again at each
reload. Importing this module registers them with Gunicorn."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from gunicorn import config

from gunicorn_handover import resources, status

RELEASE_VARIABLE = "GUNICORN_HANDOVER_RELEASE_FILE"
METRICS_VARIABLE = "GUNICORN_HANDOVER_METRICS"
_PATH = re.compile(r"/[!-\"$-~]*")  # no space, no fragment
_HOST = re.compile(r"[0-9A-Za-z_.:\[\]-]+")


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{value!r} is not a valid number of seconds. Set it to 0 or more.")
    return seconds


def _optional_seconds(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _positive_seconds(value: Any) -> float:
    seconds = _seconds(value)
    if seconds == 0:
        raise ValueError(f"{value!r} is not a valid timeout. Set it to more than 0 seconds.")
    return seconds


def _at_least_one(value: Any) -> int:
    number = int(config.validate_pos_int(value))
    if number < 1:
        raise ValueError(f"{value!r} is too low. Set it to 1 or more.")
    return number


def _nice(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= 19:
        raise ValueError(f"{value!r} is not a valid niceness. Set it to 0 (off) to 19.")
    return number


def _paths(setting: str) -> Any:
    def validate(value: Any) -> list[str]:
        entries = [value] if isinstance(value, str) else list(value or [])
        for entry in entries:
            if not isinstance(entry, str) or not _PATH.fullmatch(entry):
                raise ValueError(
                    f"{setting} contains {entry!r}, which is not a path. "
                    "Write the path and query of a URL, percent-encoded: /readyz or /search?q=a%20b."
                )
        return list(dict.fromkeys(entries))

    return validate


def _host(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError(
            f"handover_warmup_host is {value!r}, which is not a valid Host header. Set a name such as example.com."
        )
    return value


def _one_of(*choices: str) -> Any:
    def validate(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}.")
        return str(value)

    return validate


def _variables(value: Any) -> list[str]:
    entries = [value] if isinstance(value, str) else list(value or [])
    if not all(isinstance(entry, str) for entry in entries):
        raise TypeError("raw_env contains an entry that is not a string. Write each entry as NAME=value.")
    return entries


# Gunicorn accepts 0, and then serves no requests
config.Workers.validator = staticmethod(_at_least_one)
# Gunicorn's own validator strips trailing spaces, which are part of the value
config.Env.validator = staticmethod(_variables)


def _define(name: str, default: Any, validator: Callable[[Any], Any], description: str) -> None:
    """Registers a setting: Gunicorn registers every class derived from its Setting."""
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
    os.environ.get(status.PATH_VARIABLE) or None,
    config.validate_string,
    "File to which the master writes its status as JSON. None if unset.",
)
_define(
    "handover_release_file",
    os.environ.get(RELEASE_VARIABLE) or None,
    config.validate_string,
    "JSON file whose `id` is the release's id; read when a worker starts.",
)
_define(
    "handover_metrics_directory",
    os.environ.get(METRICS_VARIABLE) or None,
    config.validate_string,
    "Directory in which prometheus_client keeps the metrics of all workers. If unset, each worker has its own metrics.",
)
_define(
    "handover_boot_timeout",
    120.0,
    _positive_seconds,
    "Seconds from a worker's fork to the end of its lifespan startup, at most.",
)
# With one boot more than processors, 2n+1 workers boot in two rounds, and a boot that waits for I/O leaves no processor
# idle. While workers serve, HandoverArbiter.free_boots leaves them a processor.
_define(
    "handover_boot_at_once",
    resources.cores() + 1,
    _at_least_one,
    "Number of workers that boot at the same time, at most. Default: the processors that the service may use, plus 1. "
    "During a reload, boots that want a processor are fewer than these, but at least one.",
)
_define("handover_boot_nice", 19, _nice, "Niceness of a worker that boots while others serve; 0 leaves it unchanged.")
_define(
    "handover_idle_timeout",
    None,
    _optional_seconds,
    "Seconds that a draining worker keeps an idle connection open. If unset: keepalive + 1.",
)
_define(
    "handover_websocket_grace",
    0.0,
    _seconds,
    "Seconds that WebSockets stay open in a draining worker before they are closed with 1012.",
)
_define(
    "handover_websocket_spread",
    0.0,
    _seconds,
    "Seconds over which a draining worker spreads the closing of its WebSockets, within graceful_timeout.",
)
_define(
    "handover_exit_timeout",
    5.0,
    _seconds,
    "Seconds after graceful_timeout for the lifespan shutdown; then the worker is killed.",
)
_define(
    "handover_urgent_paths",
    [],
    _paths("handover_urgent_paths"),
    "Paths, such as the health check's, whose requests skip the queue in an overloaded worker.",
)
_define(
    "handover_warmup_paths",
    [],
    _paths("handover_warmup_paths"),
    "Paths that a worker requests from its own application, with GET, before it accepts connections.",
)
_define(
    "handover_warmup_timeout",
    10.0,
    _positive_seconds,
    "Seconds that a worker's warm-up may take in total.",
)
_define(
    "handover_warmup_host",
    "localhost",
    _host,
    "Host header of the warm-up requests.",
)
_define(
    "handover_warmup_required",
    False,
    config.validate_bool,
    "Whether a failed warm-up makes the worker's boot fail.",
)
_define(
    "handover_http",
    "httptools",
    _one_of("httptools", "h11"),
    "The HTTP parser. h11 is slower and answers some ambiguous requests twice.",
)
_define("handover_loop", "auto", _one_of("auto", "uvloop", "asyncio"), "The event loop; auto is uvloop if installed.")
_define("handover_log_format", "json", _one_of("json", "text"), "The format of the access and error logs.")
