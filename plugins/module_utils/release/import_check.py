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

OUTPUT_BYTES = 64 * 1024  # bytes of the import's output that are kept
LINES, LONGEST = 8, 1000  # lines of the output that a message contains, and characters of a line
LEEWAY = 30.0  # seconds for systemd to start and end the import


@dataclass(frozen=True)
class ImportCheck:
    """The user and environment of a test import of the application."""

    user: str
    environment_file: str = ""
    credentials_dir: str = ""
    timeout: float = 120
    unit_file: str = ""  # the service's, for its sandbox and limits; if it doesn't exist, defaults apply


_IMPORT = """
import importlib, os, sys
result = os.dup(1)  # the application may close or redirect its standard output
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
os.write(result, sys.argv[3].encode())  # an application may end with status 0 as well
os._exit(0)  # threads that an import started must not hold us up
"""

# by systemd's Result=, if the application printed nothing
_REASONS = {
    "oom-kill": "it ran out of memory (MemoryMax)",
    "signal": "a signal ended it, perhaps the kernel's because it exceeded its memory limit",
    "core-dump": "it crashed",
}


def check_import(folder: Path, artifact: Mapping[str, Any], check: ImportCheck) -> None:
    """Import the application with the service's user, sandbox, limits, paths, environment and secrets.

    Runs in a transient unit, which leaves no process behind. Raises BatonError.
    """
    module = str(artifact["module"]).partition(":")[0]
    unit, token, started = f"baton-import-{os.getpid()}.service", uuid.uuid4().hex, time.monotonic()
    since = time.time()
    argv = _invocation(folder, artifact, check, unit, token)
    done = bounded.run(argv, timeout=check.timeout + LEEWAY, output=OUTPUT_BYTES, together=True)
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
            "Check what it waits for, such as a service that doesn't answer, or raise app_release_import_timeout.",
        )
    if not shown:
        ending = systemd.ending(unit, since)
        # the log has systemd's own errors about the unit
        shown = f"{_REASONS.get(ending.result) or ending.log or f'it ended with exit status {done.status}'}."
    raise BatonError(
        f"{artifact['module']} can't be imported as user {check.user}:\n{shown}\n",
        "Correct the application, its environment (app_config) or app_module; nothing has changed on this host.",
    )


def _invocation(folder: Path, artifact: Mapping[str, Any], check: ImportCheck, unit: str, token: str) -> list[str]:
    """Return the command that runs the import."""
    try:
        account = pwd.getpwnam(check.user)
    except KeyError:
        raise BatonError(
            f"The user {check.user!r} doesn't exist on this host.", "Create it first (role app_account)."
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
        # kill immediately: neither a hanging import nor its left-over processes need to shut down cleanly
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
    """Return the properties of the service's unit, or defaults if there is none yet. Secrets stay in their files."""
    found: list[str] = []
    try:
        if check.environment_file and os.path.exists(check.environment_file):
            environment.read(check.environment_file)  # raises for lines that systemd would silently ignore
            found.append(f"EnvironmentFile={check.environment_file}")
        if check.unit_file and os.path.exists(check.unit_file):
            return [*transient_unit.properties(Path(check.unit_file).read_text(encoding="utf-8")), *found]
        secrets = sorted(path for path in Path(check.credentials_dir or os.devnull).glob("*") if path.is_file())
    except (OSError, environment.EnvironmentFileError) as error:
        raise BatonError(str(error), "Apply the role app_config.") from None
    return [*sandbox.CONFINED, *(credential.property_of(path) for path in secrets), *found]


def _last_lines(output: str, check: ImportCheck) -> str:
    """Return the last lines of the output, without secrets and control characters."""
    text = untrusted.printable(masking.mask_of_folders([check.credentials_dir])(output))
    lines = [line[-LONGEST:] for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-LINES:])
