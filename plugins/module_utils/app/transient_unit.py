"""Running a command as the service would: its user, sandbox, limits, environment and secrets, in a unit of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from . import layout

# What makes the service a server: of no use to a command, or its own.
_LEFT_OUT = {"Type", "NotifyAccess", "Sockets", "Restart", "RestartSec", "KillMode"}
_LEFT_OUT |= {"TimeoutStartSec", "TimeoutStopSec"}
_SERVERS_OWN = ("Environment=PYTHONPATH=", "Environment=GUNICORN_HANDOVER_")


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
            found.append(line.replace("%%", "%"))  # properties given by hand have no specifiers
    return found


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


def run(argv: Sequence[str], timeout: float) -> tuple[int, str]:
    """Run it to its end: its exit status, and all that it printed."""
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    return done.returncode, done.stdout
