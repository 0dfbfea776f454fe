"""Run a command with the service's user, sandbox, limits, environment and secrets, in a transient unit."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator, Sequence

from ..host import bounded, systemd
from . import layout

# Directives and variables that are only for a server, not for a command.
_LEFT_OUT = {"Type", "NotifyAccess", "Sockets", "Restart", "RestartSec", "KillMode"}
_LEFT_OUT |= {"TimeoutStartSec", "TimeoutStopSec"}
_SERVERS_OWN = ("Environment=PYTHONPATH=", "Environment=GUNICORN_HANDOVER_", "ReadWritePaths=-/run/baton/")
# only the master may write its status
_ADDED = "ReadOnlyPaths=-/run/baton"
MOST = 2**20  # bytes of a command's output that are kept
_READER_POLL = 500  # milliseconds


def properties(unit: str) -> list[str]:
    """Return the properties for a command, from the text of the service's unit file."""
    section, found = "", []
    for line in unit.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line
        name, separator, _ = line.partition("=")
        if section != "[Service]" or not separator or line.startswith(("#", ";", *_SERVERS_OWN)):
            continue
        if name not in _LEFT_OUT and not name.startswith("Exec"):
            line = line.replace("%%", "%")  # systemd-run's properties have no specifiers
            found.append(line)
    return [*found, _ADDED]


def invocation(app: layout.Application, release: str, command: str, timeout: int, name: str) -> list[str]:
    """Return the systemd-run command for a shell command in a release. It contains no secrets, only their files.

    `name`: that of the unit. `timeout`: in seconds, then the command is stopped.
    """
    folder = app.release(release)
    unit = app.path("etc/systemd/system", app.service).read_text(encoding="utf-8")
    given = [
        *properties(unit),
        f"EnvironmentFile=/etc/{app.name}/environment",
        f"RuntimeMaxSec={timeout}",
        "TimeoutStopSec=10",
    ]
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--unit={name}"),
        f"--description=A command in {app.name}",
        *(f"--property={line}" for line in given),
        *(str(folder / "venv/bin/python"), str(app.path("opt", app.name, "release-exec")), str(folder)),
        command.replace("$", "$$"),  # otherwise systemd would expand variables
    ]


def run(argv: Sequence[str], timeout: float, name: str) -> tuple[int | None, str]:
    """Run a command. Returns its exit status, None after a timeout, and the last `MOST` bytes of its output.

    Stops the unit `name` once this program's standard output has no reader.
    """
    with _stopped_without_reader(name):
        done = bounded.run(argv, timeout=timeout, output=MOST, together=True)
    omitted = f"[output before the last {MOST // 1024} KiB is omitted]\n" if done.cut else ""
    return done.status, omitted + done.output.decode(errors="replace")


@contextlib.contextmanager
def _stopped_without_reader(name: str) -> Iterator[None]:
    """Stop a unit if the connection to the controller ends: Ctrl-C there reaches no process of this host."""
    ended = threading.Event()

    def watch() -> None:
        stdout = select.poll()
        stdout.register(1, 0)  # no events but the reader's end
        while not ended.is_set():
            if stdout.poll(_READER_POLL):
                systemd.systemctl("stop", name)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
