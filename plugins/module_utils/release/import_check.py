"""Importing an application once, as its service would, before it is rehearsed."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..app import environment, masking, transient_unit
from ..host import bounded, credential, sandbox, systemd, untrusted
from ..host.command import BatonError

PRINTED = 64 * 1024  # bytes of what the import prints that are kept
LINES, LONGEST = 8, 1000  # the last lines of that which are told, and the characters of one
LEEWAY = 30.0  # seconds for systemd to start the import and to end it


@dataclass(frozen=True)
class ImportCheck:
    """Under whom and with what environment the application is imported once."""

    user: str
    environment_file: str = ""
    credentials_dir: str = ""
    timeout: float = 120
    unit_file: str = ""  # of the service, whose sandbox and limits the import has; where there is none, Baton's own


_IMPORT = """
import importlib, os, sys
told = os.dup(1)  # the application may do to its standard output what it likes
from gunicorn_handover import environment
environment.export_credentials(os.environ)
for name in ("uvloop", "httptools"):
    importlib.import_module(name)
found = importlib.import_module(sys.argv[1])
for part in sys.argv[2].split("."):
    try:
        found = getattr(found, part)
    except AttributeError:
        names = ", ".join(name for name in dir(found) if not name.startswith("_"))
        sys.exit(f"{sys.argv[1]} has no {sys.argv[2]!r}; it has: {names}")
if not callable(found):
    sys.exit(f"{sys.argv[1]}:{sys.argv[2]} is a {type(found).__name__}, which can't be called")
os.write(told, sys.argv[3].encode())  # an application may end with status 0 as well
os._exit(0)  # threads that an import started must not hold us up
"""

# by systemd's word for how a unit ended, where the application said nothing
_REASONS = {
    "oom-kill": "it ran out of memory (MemoryMax)",
    "signal": "a signal ended it, as the kernel's does when the memory that it may have is used up",
    "core-dump": "it crashed",
}


def check_import(folder: Path, artifact: Mapping[str, Any], check: ImportCheck) -> None:
    """Import the application as its service would: user, sandbox, limits, paths, environment and secrets.

    In a unit of its own, of which no process is left at its end. Raises BatonError.
    """
    module = str(artifact["module"]).partition(":")[0]
    unit, token, started = f"baton-import-{os.getpid()}.service", uuid.uuid4().hex, time.monotonic()
    since = time.time()
    argv = _invocation(folder, artifact, check, unit, token)
    done = bounded.run(argv, timeout=check.timeout + LEEWAY, output=PRINTED, together=True)
    output = done.output.decode(errors="replace")
    if done.status == 0 and token in output:
        return
    late = time.monotonic() - started >= check.timeout
    if done.status is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            systemd.systemctl("stop", unit)
    shown = _last_lines(output.replace(str(folder), str(folder.parent / artifact["id"])), check)
    if late:
        raise BatonError(
            f"Importing {module} took longer than {check.timeout:.0f} s as user {check.user}. {shown}".rstrip() + ".",
            "Correct what it waits for (a service that is away?), or raise app_release_import_timeout.",
        )
    if not shown:
        ending = systemd.ending(unit, since)
        # systemd itself says there what it could not do for the unit
        shown = f"{_REASONS.get(ending.result) or ending.log or f'it ended with exit status {done.status}'}."
    raise BatonError(
        f"{artifact['module']} can't be imported as user {check.user}:\n{shown}\n",
        "Correct the application, its environment (app_config) or app_module; nothing has changed on this host.",
    )


def _invocation(folder: Path, artifact: Mapping[str, Any], check: ImportCheck, unit: str, token: str) -> list[str]:
    """How systemd runs the import."""
    try:
        account = pwd.getpwnam(check.user)
    except KeyError:
        raise BatonError(
            f"The user {check.user!r} is not on this host.", "Create it first (role app_account)."
        ) from None
    module, _, attribute = str(artifact["module"]).partition(":")
    paths = [folder / "server", *(folder / path for path in artifact["import_paths"])]
    variables = {
        "PATH": f"{folder}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": ":".join(str(path) for path in paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "RELEASE_ID": str(artifact["id"]),
    }
    properties = [
        *sandbox.BOUNDS,
        *_confinement(check),
        f"User={check.user}",
        f"Group={account.pw_gid}",
        f"WorkingDirectory={folder / str(artifact['working_directory'])}",
        # of what hangs nothing is to be had, and of what it left behind neither
        f"RuntimeMaxSec={check.timeout:g}",
        "KillMode=control-group",
        "KillSignal=SIGKILL",
        "OOMPolicy=kill",
    ]
    words = [_IMPORT, module, (attribute or "application").partition("(")[0].strip(), token]
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--unit={unit}"),
        f"--description=Import of {module} by Baton",
        *(f"--property={line}" for line in properties),
        *(f"--setenv={name}={value}" for name, value in variables.items()),
        *(str(folder / "venv/bin/python"), "-c", *(word.replace("$", "$$") for word in words)),
    ]


def _confinement(check: ImportCheck) -> list[str]:
    """The properties of the service's unit; where there is none yet, Baton's own. Secrets stay in their files."""
    found: list[str] = []
    try:
        if check.environment_file and os.path.exists(check.environment_file):
            environment.read(check.environment_file)  # systemd would only leave out what it can't read
            found.append(f"EnvironmentFile={check.environment_file}")
        if check.unit_file and os.path.exists(check.unit_file):
            return [*transient_unit.properties(Path(check.unit_file).read_text(encoding="utf-8")), *found]
        secrets = sorted(path for path in Path(check.credentials_dir or os.devnull).glob("*") if path.is_file())
    except (OSError, environment.EnvironmentFileError) as error:
        raise BatonError(str(error), "Apply the role app_config.") from None
    return [*sandbox.CONFINED, *(credential.property_of(path) for path in secrets), *found]


def _last_lines(output: str, check: ImportCheck) -> str:
    """The last of what it said, without secrets, and with nothing that a terminal would obey."""
    told = untrusted.printable(masking.mask_of_folders([check.credentials_dir])(output))
    lines = [line[-LONGEST:] for line in told.splitlines() if line.strip()]
    return "\n".join(lines[-LINES:])
