"""What decides how a change reaches the processes, and the strategy that follows from it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from ..app import server_status
from ..app.layout import Application, ProcessType, current, describe, read_note
from ..host import systemd, untrusted

Way = Literal["none", "start", "reload", "bridge", "reopen", "overlap", "replace", "stop"]
# The master has these in memory: a HUP goes on with the versions that it was started with. Others of the server's
# packages (the parsers, the loop, WebSockets) only a worker imports, from its own release.
MASTER_PACKAGES = ("gunicorn", "gunicorn-handover", "uvicorn", "uvicorn-worker", "click", "packaging", "setproctitle")
# What systemd itself goes by, and reads anew by a daemon-reload: no process holds it.
SYSTEMD_S_OWN = (
    *("Description", "Documentation", "WantedBy", "ExecReload", "Restart", "RestartSec", "OOMPolicy", "KillMode"),
    *("TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "MemoryMax"),
)
# Where the distribution, or python_runtime, puts what the master runs on.
SYSTEM_FILES = ("/usr/", "/lib", "/var/lib/baton/python/")
CODE_SIZE = 2**27
MODULES = 20000


@dataclasses.dataclass(frozen=True)
class Digests:
    """What decides how a change reaches the processes of a type; each but the release's id a hash."""

    release: str
    reload: str  # gunicorn.conf.py, environment, and the units' files, be it a comment in one
    restart: str  # Python, the server's packages, import paths, what a process has of its unit, secrets
    socket: str  # what a socket has of its unit


def _digest(*parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def content(path: pathlib.Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _environment(etc: pathlib.Path) -> bytes:
    """The environment and the authority that it names, which a process may read when it starts and never again."""
    return content(etc / "environment") + content(etc / "services-ca.pem")


def digests(app: Application, release: str) -> Digests:
    """What would run if the release were activated with the files as they are now."""
    described = describe(app, release)
    etc, units = app.path("etc", app.name), app.path("etc/systemd/system")
    secrets = _secrets(app)
    server = {name: described["packages"].get(name) for name in MASTER_PACKAGES}
    # the one whose content may change under the same version: it lists the hash of each of its files
    launcher = [
        line
        for path in app.release(release).glob("server/gunicorn_handover-*.dist-info/RECORD")
        for line in path.read_bytes().splitlines()
        # its modules alone: what the installer adds (times, and a command whose first line names the release's own
        # folder) differs from one installation to the next, and no process holds it
        if line.startswith(b"gunicorn_handover/")
    ]
    service, listener = (content(units / unit) for unit in (app.service, app.socket))
    return Digests(
        release=release,
        reload=_digest(content(etc / "gunicorn.conf.py"), _environment(etc), service, listener),
        restart=_digest(
            # a reload adds import paths, and takes none away
            json.dumps([described["python"], server, described.get("import_paths")], sort_keys=True).encode(),
            *launcher,
            *_held(service),
            *secrets,
        ),
        socket=_digest(*_held(listener)),
    )


def _secrets(app: Application) -> list[bytes]:
    """The names of the application's secrets, each with a digest of its content."""
    salt = content(app.path("etc/machine-id"))  # a hash of a short secret alone could be guessed
    return [
        part
        for file in sorted(app.path("etc", app.name, "secrets").glob("[!.]*"))
        for part in (file.name.encode(), _digest(salt, file.read_bytes()).encode())
    ]


def background(app: Application, process: ProcessType, release: str) -> Digests:
    """What background processes of a type would be if the release were activated with the files as they are now."""
    describe(app, release)
    units = [content(app.path("etc/systemd/system", unit)) for unit in process.templates]
    settings = json.dumps(dataclasses.asdict(process), sort_keys=True).encode()
    environment = _environment(app.path("etc", app.name))
    # they hold all of it from their start on
    return Digests(
        release=release, reload=_digest(settings, *units), restart=_digest(environment, *_secrets(app)), socket=""
    )


def scheduled(app: Application, process: ProcessType, release: str) -> Digests:
    """What the timer of a scheduled command would be: the command reads all else when it starts."""
    describe(app, release)
    units = [content(app.path("etc/systemd/system", unit)) for unit in process.templates]
    return Digests(release=release, reload=_digest(*units), restart="", socket="")


def _held(unit: bytes) -> list[bytes]:
    """The lines of a unit that its process or socket was made by: neither comments nor what is systemd's own."""
    lines = [line.strip() for line in unit.replace(b"\\\n", b" ").splitlines()]
    names = [name.encode() for name in SYSTEMD_S_OWN]
    return [
        line
        for line in lines
        if line and not line.startswith((b"#", b";")) and line.partition(b"=")[0].strip() not in names
    ]


def recorded(app: Application, process: str = "web") -> Digests | None:
    """What the last activation left running of a process type; None when there was none or its record is unreadable."""
    return all_recorded(app).get(process)


def all_recorded(app: Application) -> dict[str, Digests]:
    """What the last activations left running, by process type; none where the record is unreadable."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        noted = read_note(app.record)
        # before there were process types, a record was of the web processes
        processes = noted["processes"] if "processes" in noted else {"web": noted["digests"]}
        return {name: Digests(**about) for name, about in processes.items()}
    return {}


def outdated(app: Application, release: str, said: Mapping[str, Any]) -> bool:
    """Whether a master holds in memory what is different in the release, so that a HUP would go on with the old.

    True as well when it doesn't say what it holds.
    """
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        held, root = said["fingerprint"], app.release(release)
        python = os.path.realpath(root / "venv/bin/python")
        if (python, _sha256(python)) != (held["python"]["executable"], held["python"]["executable_sha256"]):
            return True
        # names are relative to the release, or absolute
        files = held["files"].items()
        if len(files) > MODULES or any(_sha256(root / name) != digest for name, digest in files):
            return True
        # what Python executes when it starts, a worker of another release would lack
        startup = held.get("startup", {}).items()
        return any(
            {path.name: _sha256(path) for path in (root / name).glob("*.pth")} != found for name, found in startup
        )
    return True


def _sha256(path: str | os.PathLike[str]) -> str:
    """The digest of a regular file of a size that code has; empty for anything else.

    The list of files is the word of a process that isn't ours to trust.
    """
    with contextlib.suppress(OSError, ValueError):  # a name may hold a NUL
        return hashlib.sha256(untrusted.read(path, CODE_SIZE, follow=True)).hexdigest()
    return ""


def replaced(app: Application, said: Mapping[str, Any]) -> set[str]:
    """The system's files, such as Python and its libraries, that an upgrade replaced under the running master."""
    pid = said.get("master", {}).get("pid")
    with contextlib.suppress(OSError):
        maps = app.path("proc", str(pid), "maps").read_text(errors="replace")  # a file may have any name
        lines = [line.split(maxsplit=5) for line in maps.splitlines()]
        gone = [line[5] for line in lines if len(line) == 6 and "x" in line[1] and line[5].endswith(" (deleted)")]
        # not those of a release that was pruned: they are no newer in another one
        return {path.removesuffix(" (deleted)") for path in gone if path.startswith(SYSTEM_FILES)}
    return set()


def choose(app: Application, wanted: Digests) -> Way:
    """How to get from what runs to what is wanted."""
    if not systemd.is_active(app.service):
        return "start"
    before = recorded(app)
    if before is None:
        return "bridge"
    if before.socket != wanted.socket:
        return "reopen"
    said = server_status.read(app, app.service)
    if before.restart != wanted.restart or outdated(app, wanted.release, said) or replaced(app, said):
        return "bridge"
    serving = {worker["release"] for worker in said["workers"]}
    if before != wanted or current(app) != wanted.release or serving - {wanted.release}:
        return "reload"
    return "start" if systemd.is_active(app.bridge) else "none"
