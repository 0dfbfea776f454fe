"""The internals of Gunicorn and Uvicorn that this package uses beyond their documented interfaces, in one place.

They are checked when a server starts: an unknown version or a changed internal is an error then, not a lost request
later.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from typing import Any

from gunicorn_handover import __version__

SUPPORTED: dict[str, tuple[str, str]] = {
    # distribution: (oldest supported, first unsupported); the tests run with the oldest and the newest
    "gunicorn": ("26.2", "28"),
    "uvicorn": ("0.35", "0.55"),
    "uvicorn-worker": ("0.3", "0.5"),
}

CALLABLES: dict[str, tuple[str, ...]] = {
    # what is called or overridden: its parameter names
    "gunicorn.arbiter:Arbiter.__init__": ("self", "app"),
    "gunicorn.arbiter:Arbiter.setup": ("self", "app"),
    "gunicorn.arbiter:Arbiter.run": ("self",),
    "gunicorn.arbiter:Arbiter.wait_for_signals": ("self", "timeout"),
    "gunicorn.arbiter:Arbiter.signal": ("self", "sig", "frame"),
    "gunicorn.arbiter:Arbiter.manage_workers": ("self",),
    "gunicorn.arbiter:Arbiter.murder_workers": ("self",),
    "gunicorn.arbiter:Arbiter.reap_workers": ("self",),
    "gunicorn.arbiter:Arbiter.spawn_worker": ("self",),
    "gunicorn.arbiter:Arbiter.kill_worker": ("self", "pid", "sig"),
    "gunicorn.arbiter:Arbiter.stop": ("self", "graceful"),
    "gunicorn.arbiter:Arbiter.halt": ("self", "reason", "exit_status"),
    "gunicorn.arbiter:Arbiter.handle_hup": ("self",),
    "gunicorn.arbiter:Arbiter.handle_usr2": ("self",),
    "gunicorn.arbiter:Arbiter.handle_ttin": ("self",),
    "gunicorn.arbiter:Arbiter.handle_ttou": ("self",),
    "gunicorn.arbiter:Arbiter.num_workers.fset": ("self", "value"),
    "gunicorn.sock:close_sockets": ("listeners", "unlink"),
    "gunicorn.pidfile:Pidfile.validate": ("self",),
    "gunicorn.config:Setting.set": ("self", "val"),
    "gunicorn.app.base:Application.chdir": ("self",),
    "gunicorn.app.base:BaseApplication.load_default_config": ("self",),
    "gunicorn.app.base:BaseApplication.reload": ("self",),
    "gunicorn.app.wsgiapp:WSGIApplication.load_config": ("self",),
    "gunicorn.workers.base:Worker.init_process": ("self",),
    "gunicorn.workers.base:Worker.notify": ("self",),
    "gunicorn.glogging:loggers": (),
    "gunicorn.glogging:Logger.setup": ("self", "cfg"),
    "gunicorn.glogging:Logger.reopen_files": ("self",),
    "uvicorn_worker:UvicornWorker.init_signals": ("self",),
    "uvicorn.config:Config.load": ("self",),
    "uvicorn.server:Server.__init__": ("self", "config"),
    "uvicorn.server:Server.serve": ("self", "sockets"),
    "uvicorn.server:Server.startup": ("self", "sockets"),
    "uvicorn.server:Server.shutdown": ("self", "sockets"),
    "uvicorn.server:Server.handle_exit": ("self", "sig", "frame"),
    "uvicorn.server:Server.capture_signals": ("self",),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    # method: attribute names that its code uses
    "gunicorn.arbiter:Arbiter.run": ("start", "manage_workers", "wait_for_signals", "murder_workers"),
    "gunicorn.arbiter:Arbiter.setup": ("cfg", "worker_class", "num_workers", "log"),
    "gunicorn.arbiter:Arbiter.spawn_worker": ("WORKERS", "LISTENERS", "worker_class", "pid"),
    "gunicorn.arbiter:Arbiter.reap_workers": ("WORKERS", "tmp", "child_exit"),
    "gunicorn.arbiter:Arbiter.stop": ("cfg", "graceful_timeout", "kill_workers", "reap_workers"),
    "gunicorn.arbiter:Arbiter.start": ("systemd", "cfg", "LISTENERS"),
    "gunicorn.config:Config.__init__": ("settings", "env_orig"),
    "gunicorn.workers.base:Worker.__init__": ("age", "ppid", "sockets", "cfg", "log", "tmp", "max_requests"),
    "gunicorn.workers.base:Worker.init_process": ("init_signals", "load_wsgi", "run"),
    "gunicorn.workers.base:Worker.load_wsgi": ("wsgi",),
    "gunicorn.sock:BaseSocket.__init__": ("sock",),
    "gunicorn.glogging:Logger.__init__": ("error_log", "access_log"),
    "uvicorn_worker:UvicornWorker.__init__": ("config",),
    "uvicorn.config:Config.__init__": ("app", "http", "limit_max_requests", "timeout_graceful_shutdown", "loaded"),
    "uvicorn.config:Config.load": ("loaded_app",),
    "uvicorn.server:Server.__init__": ("server_state", "started", "should_exit", "force_exit"),
    "uvicorn.server:Server.startup": ("lifespan",),
    "uvicorn.server:Server.shutdown": ("timeout_graceful_shutdown", "connections", "shutdown"),
    "uvicorn.server:ServerState.__init__": ("connections", "total_requests"),
}

PROTOCOL_CLASSES = {"httptools": "HttpToolsProtocol", "h11": "H11Protocol"}
PROTOCOL_PARAMETERS = ("self", "config", "server_state", "app_state", "_loop")
PROTOCOLS: dict[str, dict[str, tuple[str, ...]]] = {
    # checked in the worker: the master imports no parser, so that a reload can replace its version
    name: {
        f"uvicorn.protocols.http.{name}_impl:{protocol}.__init__": ("cycle", "scope"),
        f"uvicorn.protocols.http.{name}_impl:{protocol}.shutdown": ("cycle", "response_complete", "transport"),
        f"uvicorn.protocols.http.{name}_impl:RequestResponseCycle.__init__": ("response_complete",),
    }
    for name, protocol in PROTOCOL_CLASSES.items()
}


class UnsupportedError(RuntimeError):
    """An installed version isn't supported. The message names the part and the fix."""


def versions() -> dict[str, str]:
    """The installed versions of the distributions in SUPPORTED. Raises UnsupportedError if one is missing."""
    found = {}
    for name in SUPPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UnsupportedError(f"{name} is not installed. Install {_range(name)}.") from None
    return found


def check_master(http: str) -> None:
    """Checks what the master needs, and that the parser `http` is importable. Raises UnsupportedError."""
    for name, version in versions().items():
        oldest, unsupported = SUPPORTED[name]
        if not _release(oldest) <= _release(version) < _release(unsupported):
            raise UnsupportedError(
                f"{name} {version} is not supported by gunicorn_handover {__version__}. Install {_range(name)}."
            )
    for place, parameters in CALLABLES.items():
        _check_parameters(place, parameters)
    _check_attributes(ATTRIBUTES)
    if importlib.util.find_spec(http) is None:
        raise UnsupportedError(
            f"The HTTP parser {http} is not installed. Install it, or set handover_http to another one."
        )


def check_protocol(http: str) -> None:
    """Checks the protocol classes of the parser `http`, in the worker. Raises ImportError or UnsupportedError."""
    importlib.import_module(http)
    _check_parameters(f"uvicorn.protocols.http.{http}_impl:{PROTOCOL_CLASSES[http]}.__init__", PROTOCOL_PARAMETERS)
    _check_attributes(PROTOCOLS[http])


def _check_parameters(place: str, parameters: tuple[str, ...]) -> None:
    found = tuple(inspect.signature(_resolve(place)).parameters)
    if found != parameters:
        raise _changed(place, f"takes ({', '.join(found)}) instead of ({', '.join(parameters)})")


def _check_attributes(expected: dict[str, tuple[str, ...]]) -> None:
    for place, names in expected.items():
        code = _resolve(place).__code__
        missing = set(names) - set(code.co_names)
        if missing:
            raise _changed(place, f"no longer uses {', '.join(sorted(missing))}")


def _resolve(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        raise _changed(place, "is missing") from None
    return found


def _changed(place: str, how: str) -> UnsupportedError:
    known = ", ".join(_range(name) for name in SUPPORTED)
    return UnsupportedError(f"{place} {how}: gunicorn_handover {__version__} doesn't support it. Install {known}.")


def _range(name: str) -> str:
    oldest, unsupported = SUPPORTED[name]
    return f"{name}>={oldest},<{unsupported}"


def _release(version: str) -> tuple[int, ...]:
    """The numeric part of a version, without trailing zeros: 26.2.0rc1 is (26, 2)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
