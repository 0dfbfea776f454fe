"""Importing an application once, under its user, before it is rehearsed."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..app import environment, masking
from ..host.command import BatonError


@dataclass(frozen=True)
class ImportCheck:
    """Under whom and with what environment the application is imported once."""

    user: str
    environment_file: str = ""
    credentials_dir: str = ""
    timeout: float = 120


_IMPORT = """
import importlib, os, sys
for name in ("gunicorn_handover", "uvloop", "httptools"):
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
sys.stdout.flush()
os._exit(0)  # threads that an import started must not hold us up
"""


def check_import(folder: Path, artifact: Mapping[str, Any], check: ImportCheck) -> None:
    """Import the application under its user, with the service's paths and environment."""
    module, _, attribute = str(artifact["module"]).partition(":")
    variables: dict[str, str] = {}
    secrets: dict[str, str] = {}
    try:
        if check.environment_file and os.path.exists(check.environment_file):
            variables = environment.read(check.environment_file)
        if os.path.isdir(check.credentials_dir):
            secrets = environment.credentials(check.credentials_dir)
    except (OSError, environment.EnvironmentFileError) as error:
        raise BatonError(str(error), "Apply the role app_config.") from None
    try:
        account = pwd.getpwnam(check.user)
    except KeyError:
        raise BatonError(
            f"The user {check.user!r} is not on this host.", "Create it first (role app_account)."
        ) from None
    paths = [folder / "server", *(folder / path for path in artifact["import_paths"])]
    given = {
        "PATH": f"{folder}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": account.pw_dir,
        "USER": check.user,
        **variables,
        **secrets,
        "PYTHONPATH": ":".join(str(path) for path in paths),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [
        str(folder / "venv/bin/python"),
        "-c",
        _IMPORT,
        module,
        (attribute or "application").partition("(")[0].strip(),
    ]
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": os.getgrouplist(check.user, account.pw_gid),
        }
    process = subprocess.Popen(
        argv,
        cwd=folder / str(artifact["working_directory"]),
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **identity,
    )
    try:
        output = process.communicate(timeout=check.timeout)[0].decode(errors="replace")
        ended = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output = process.communicate()[0].decode(errors="replace")
        ended = None
    if ended == 0:
        return
    output = masking.without(output, secrets.values())
    lines = [
        line for line in output.replace(str(folder), str(folder.parent / artifact["id"])).splitlines() if line.strip()
    ]
    shown = "\n".join(lines[-8:])
    if ended is None:
        raise BatonError(
            f"Importing {module} took longer than {check.timeout:.0f} s as user {check.user}. {shown}".rstrip() + ".",
            "Correct what it waits for (a service that is away?), or raise app_release_import_timeout.",
        )
    raise BatonError(
        f"{artifact['module']} can't be imported as user {check.user}:\n{shown}\n",
        "Correct the application, its environment (app_config) or app_module; nothing has changed on this host.",
    )
