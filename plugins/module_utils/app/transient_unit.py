"""Running a command as the service would: its user, sandbox, limits, environment and secrets, in a unit of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ..host import bounded
from . import layout

# What makes the service a server: of no use to a command, or its own.
_LEFT_OUT = {"Type", "NotifyAccess", "Sockets", "Restart", "RestartSec", "KillMode"}
_LEFT_OUT |= {"TimeoutStartSec", "TimeoutStopSec"}
_SERVERS_OWN = ("Environment=PYTHONPATH=", "Environment=GUNICORN_HANDOVER_", "ReadWritePaths=-/run/baton/")
# the status is of the master that serves
_ADDED = "ReadOnlyPaths=-/run/baton"
MOST = 2**20  # bytes of what a command prints that are kept


def properties(unit: str) -> list[str]:
    """The properties for a command, from the text of the service's unit file."""
    section, found = "", []
    for line in unit.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line
        name, separator, _ = line.partition("=")
        if section != "[Service]" or not separator or line.startswith(("#", ";", *_SERVERS_OWN)):
            continue
        if name not in _LEFT_OUT and not name.startswith("Exec"):
            line = line.replace("%%", "%")  # properties given by hand have no specifiers
            found.append(line)
    return [*found, _ADDED]


def invocation(app: layout.Application, release: str, command: str, timeout: int) -> list[str]:
    """How systemd runs a shell command in a release. Secrets stay in the files that it reads."""
    folder = app.release(release)
    unit = app.path("etc/systemd/system", app.service).read_text(encoding="utf-8")
    given = [
        *properties(unit),
        f"EnvironmentFile=/etc/{app.name}/environment",
        f"RuntimeMaxSec={timeout}",
        "TimeoutStopSec=10",
    ]
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--description=A command in {app.name}"),
        *(f"--property={line}" for line in given),
        *(str(folder / "venv/bin/python"), str(app.path("opt", app.name, "release-exec")), str(folder)),
        command.replace("$", "$$"),  # which is for the shell, not for systemd
    ]


def run(argv: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """Run it to its end: its exit status, None where it took too long, and the last `MOST` bytes that it printed."""
    done = bounded.run(argv, timeout=timeout, output=MOST, together=True)
    left_out = f"[what it printed before the last {MOST // 1024} KiB is left out]\n" if done.cut else ""
    return done.status, left_out + done.output.decode(errors="replace")
