"""Digests of everything that a process has loaded; their comparison determines the method of a handover."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from ..app import server_status
from ..app.layout import Application, ProcessType, current, describe, read_json
from ..host import mapped, systemd, untrusted

Method = Literal["none", "start", "reload", "bridge", "reopen", "overlap", "replace", "stop"]
# The master imports these: after a HUP it still has the versions that it was started with. The server's other packages
# (parsers, event loop, WebSockets) are imported only by workers, from their own release.
MASTER_PACKAGES = ("gunicorn", "gunicorn-handover", "uvicorn", "uvicorn-worker", "click", "packaging", "setproctitle")
# Directives that only systemd reads: a daemon-reload applies them, and no process depends on them.
SYSTEMD_DIRECTIVES = (
    *("Description", "Documentation", "WantedBy", "ExecReload", "Restart", "RestartSec", "OOMPolicy", "KillMode"),
    *("TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "MemoryMax"),
)
MAX_CODE_SIZE = 2**27  # bytes of a file
MAX_CODE = 2**30  # bytes of all files
MAX_MODULES = 20000
MAX_FOLDERS = 64  # with .pth files


@dataclasses.dataclass(frozen=True)
class Digests:
    """What the processes of a type depend on, grouped by how a change of it is applied. All but `release` are hashes.

    A change of `reload` needs a reload, of `restart` a new master, of `socket` a new socket.
    """

    release: str
    reload: str  # gunicorn.conf.py, environment, and the unit files including their comments
    restart: str  # Python, the server's packages, import paths, the unit's directives for the process, secrets
    socket: str  # the socket unit's directives


def _digest(*parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def content(path: pathlib.Path) -> bytes:
    """Return a file's content; empty if it doesn't exist."""
    return path.read_bytes() if path.exists() else b""


def _environment(etc: pathlib.Path) -> bytes:
    """Return the environment and the CA file that it names, which a process may read only when it starts."""
    return content(etc / "environment") + content(etc / "services-ca.pem")


def digests(app: Application, release: str) -> Digests:
    """Return the digests of the web processes if the release were activated with the current files."""
    described = describe(app, release)
    etc, units = app.path("etc", app.name), app.path("etc/systemd/system")
    secrets = _secrets(app)
    server = {name: described["packages"].get(name) for name in MASTER_PACKAGES}
    # the one package whose content may change under the same version; RECORD has the hash of each file
    launcher = [
        line
        for path in app.release(release).glob("server/gunicorn_handover-*.dist-info/RECORD")
        for line in path.read_bytes().splitlines()
        # only modules: what the installer adds (times, and a command whose first line contains the release's path)
        # differs between installations, and no process loads it
        if line.startswith(b"gunicorn_handover/")
    ]
    service, listener = (content(units / unit) for unit in (app.service, app.socket))
    return Digests(
        release=release,
        reload=_digest(content(etc / "gunicorn.conf.py"), _environment(etc), service, listener),
        restart=_digest(
            # a reload can add import paths, but not remove any
            json.dumps([described["python"], server, described.get("import_paths")], sort_keys=True).encode(),
            *launcher,
            *_process_directives(service),
            *secrets,
        ),
        socket=_digest(*_process_directives(listener)),
    )


def _secrets(app: Application) -> list[bytes]:
    """Return the names of the application's secrets, each with a digest of its content."""
    salt = content(app.path("etc/machine-id"))  # without a salt, a short secret could be guessed from its hash
    return [
        part
        for file in sorted(app.path("etc", app.name, "secrets").glob("[!.]*"))
        for part in (file.name.encode(), _digest(salt, file.read_bytes()).encode())
    ]


def background(app: Application, process: ProcessType, release: str) -> Digests:
    """Return the digests of a type's background processes if the release were activated with the current files."""
    describe(app, release)
    units = [content(app.path("etc/systemd/system", unit)) for unit in process.templates]
    settings = json.dumps(dataclasses.asdict(process), sort_keys=True).encode()
    environment = _environment(app.path("etc", app.name))
    # a background process can't reload: it keeps all of this from its start
    return Digests(
        release=release, reload=_digest(settings, *units), restart=_digest(environment, *_secrets(app)), socket=""
    )


def scheduled(app: Application, process: ProcessType, release: str) -> Digests:
    """Return the digests of a schedule's timer; the command reads everything else when it starts."""
    describe(app, release)
    units = [content(app.path("etc/systemd/system", unit)) for unit in process.templates]
    return Digests(release=release, reload=_digest(*units), restart="", socket="")


def _process_directives(unit: bytes) -> list[bytes]:
    """Return the lines of a unit that its process or socket depends on: no comments, no SYSTEMD_DIRECTIVES."""
    lines = [line.strip() for line in unit.replace(b"\\\n", b" ").splitlines()]
    names = [name.encode() for name in SYSTEMD_DIRECTIVES]
    return [
        line
        for line in lines
        if line and not line.startswith((b"#", b";")) and line.partition(b"=")[0].strip() not in names
    ]


def recorded(app: Application, process: str = "web") -> Digests | None:
    """Return the digests of a type as of its last activation; None if there was none or the record is unreadable."""
    return all_recorded(app).get(process)


def all_recorded(app: Application) -> dict[str, Digests]:
    """Return the digests as of the last activations, by process type; empty if the record is unreadable."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        record = read_json(app.record)
        # records of versions without process types have `digests`, those of the web processes
        processes = record["processes"] if "processes" in record else {"web": record["digests"]}
        return {name: Digests(**about) for name, about in processes.items()}
    return {}


def master_outdated(app: Application, release: str, status: Mapping[str, Any]) -> bool:
    """Whether a master has loaded files that differ in the release, so that a HUP would keep the old ones.

    `status`: what the master reports (see `server_status`). True as well if it doesn't report what it has loaded.
    """
    code = _Code()
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        loaded, root = status["fingerprint"], app.release(release)
        python = os.path.realpath(root / "venv/bin/python")
        if (python, code.sha256(python)) != (loaded["python"]["executable"], loaded["python"]["executable_sha256"]):
            return True
        # names are relative to the release, or absolute
        files, startup = loaded["files"].items(), loaded.get("startup", {}).items()
        if len(files) > MAX_MODULES or len(startup) > MAX_FOLDERS:
            return True
        if any(code.sha256(root / name) != digest for name, digest in files):
            return True
        # Python executes .pth files only when it starts: a worker forked later would lack another release's
        return any(code.pth_files(root / name) != found for name, found in startup)
    return True


class _Code:
    """Digests of files whose paths come from the application's own process, which is untrusted."""

    def __init__(self) -> None:
        self._left = MAX_CODE

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """Return the digest of a regular file up to MAX_CODE_SIZE, and MAX_CODE in all; empty for anything else."""
        most = min(MAX_CODE_SIZE, self._left)
        try:
            content = untrusted.read(path, most, follow=True)
        except (FileNotFoundError, ValueError):  # a name may contain a NUL
            return ""
        except OSError:
            self._left -= most  # it may have been read until it was too large
            return ""
        self._left -= len(content)
        return hashlib.sha256(content).hexdigest()

    def pth_files(self, folder: pathlib.Path) -> dict[str, str]:
        """Return the digests of a folder's .pth files, by name; empty if it can't be read."""
        with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
            names = [one.name for one in itertools.islice(entries, MAX_MODULES) if one.name.endswith(".pth")]
            return {name: self.sha256(folder / name) for name in names}
        return {}


def choose(app: Application, wanted: Digests) -> Method:
    """Choose the method that gets the web processes from what runs to what is wanted."""
    if not systemd.is_active(app.service):
        return "start"
    before = recorded(app)
    if before is None:
        return "bridge"
    if before.socket != wanted.socket:
        return "reopen"
    status = server_status.read(app, app.service)
    if (
        before.restart != wanted.restart
        or master_outdated(app, wanted.release, status)
        or mapped.replaced(app.service, str(app.root))
    ):
        return "bridge"
    serving = {worker["release"] for worker in status["workers"]}
    if before != wanted or current(app) != wanted.release or serving - {wanted.release}:
        return "reload"
    return "start" if systemd.is_active(app.bridge) else "none"
