"""Handing an application over to a release on one host: what is to be done, how, and the proof.

The way is chosen from what changed since the last activation, never by the user:
`start` when nothing serves, `reload` (HUP) for code, settings and gunicorn.conf.py, and `bridge` (a second service on
the same socket while the first restarts) for what a HUP can't carry: Python, the server's packages, unit, secrets, and
system libraries that an upgrade replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import filecmp
import hashlib
import http
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from . import retry_after, systemd, untrusted
from .process import make_folder

Way = Literal["none", "start", "reload", "bridge", "reopen", "stop"]
# The master has these in memory: a HUP goes on with the versions that it was started with. Others of the server's
# packages (the parsers, the loop, WebSockets) only a worker imports, from its own release.
MASTER_PACKAGES = ("gunicorn", "gunicorn-handover", "uvicorn", "uvicorn-worker", "click", "packaging", "setproctitle")
# What systemd itself goes by, and reads anew by a daemon-reload: no process holds it.
SYSTEMD_S_OWN = (
    *("Description", "Documentation", "WantedBy", "ExecReload", "Restart", "RestartSec", "OOMPolicy", "KillMode"),
    *("TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec"),
)
# Where the distribution, or python_runtime, puts what the master runs on.
SYSTEM_FILES = ("/usr/", "/lib", "/var/lib/baton/python/")


# what a status, and a file of code, may hold in bytes; and how many modules a master may say it has imported
STATUS_SIZE, CODE_SIZE, MODULES = 2**22, 2**27, 20_000
# seconds between two requests for the health page: the first time, and when it has not been well for a while
PAUSE, LONGEST_PAUSE = 0.25, 2.0
MOST_PROCESSES = 2**22  # the kernel gives no larger number to a process


class ActivationError(Exception):
    """The release doesn't serve. The message says why, and what serves instead."""


# what a host does to a handover: a unit that doesn't start, a disk that is full or broken
FAILURES = (systemd.UnitError, OSError, subprocess.SubprocessError)


@dataclasses.dataclass(frozen=True)
class Application:
    """Where an application keeps its files on a host."""

    name: str
    root: str = "/"

    def path(self, *parts: str) -> pathlib.Path:
        """A path below the host's root."""
        return pathlib.Path(self.root, *parts)

    @property
    def current(self) -> pathlib.Path:
        """The symlink to the release that serves."""
        return self.path("opt", self.name, "current")

    @property
    def state(self) -> pathlib.Path:
        """What Baton itself remembers of the application on this host."""
        return self.path("var/lib/baton", self.name)

    @property
    def record(self) -> pathlib.Path:
        """What the last activation left running."""
        return self.state / "active.json"

    @property
    def kept(self) -> pathlib.Path:
        """A copy of the configuration that is known to serve."""
        return self.state / "kept"

    @property
    def before(self) -> pathlib.Path:
        """What served before the last transaction changed anything here."""
        return self.state / "before"

    def release(self, release: str) -> pathlib.Path:
        """The folder of a release."""
        return self.path("opt", self.name, "releases", release)

    @property
    def socket_folder(self) -> pathlib.Path:
        """Where the socket is: root's, so that nobody can put a link in the place of what systemd and root open."""
        return self.path("run", self.name)

    def status_file(self, unit: str) -> pathlib.Path:
        """Where the master of a unit keeps its status, in a folder of the application's own."""
        name = "bridge.json" if unit == self.bridge else "handover.json"
        here, there = self.path("run/baton", self.name, name), self.socket_folder / name
        # a master that was started before the status had a folder of its own keeps it beside the socket
        return there if _modified(there) > _modified(here) else here

    @property
    def service(self) -> str:
        """The unit of the web service."""
        return f"{self.name}.service"

    @property
    def bridge(self) -> str:
        """The unit that serves while the service restarts."""
        return f"{self.name}-bridge.service"

    @property
    def socket(self) -> str:
        """The unit of the socket."""
        return f"{self.name}.socket"


@dataclasses.dataclass(frozen=True)
class Digests:
    """What decides how a change reaches the processes; each a hash."""

    release: str
    reload: str  # gunicorn.conf.py, environment, and the units' files, be it a comment in one
    restart: str  # Python, the server's packages, import paths, what a process has of its unit, secrets
    socket: str  # what a socket has of its unit


@dataclasses.dataclass(frozen=True)
class Health:
    """A page that a ready application answers with a status below 400."""

    path: str
    listen: str
    host: str
    timeout: float = 10.0  # seconds for one request


def _modified(path: pathlib.Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _digest(*parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def _content(path: pathlib.Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def describe(app: Application, release: str) -> dict[str, Any]:
    """The release.json of a release. Raises ActivationError when it isn't one."""
    try:
        return untrusted.parse_object(untrusted.read(app.release(release) / "release.json"))
    except (FileNotFoundError, untrusted.UntrustedError):
        raise ActivationError(
            f"{app.release(release)} is not a complete release. Deploy it again; it is then staged anew."
        ) from None


def digests(app: Application, release: str) -> Digests:
    """What would run if the release were activated with the files as they are now."""
    described = describe(app, release)
    etc, units = app.path("etc", app.name), app.path("etc/systemd/system")
    salt = _content(app.path("etc/machine-id"))  # a hash of a short secret alone could be guessed
    secrets = [
        part
        for file in sorted((etc / "secrets").glob("*"))
        for part in (file.name.encode(), _digest(salt, file.read_bytes()).encode())
    ]
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
    service, listener = (_content(units / unit) for unit in (app.service, app.socket))
    return Digests(
        release=release,
        reload=_digest(_content(etc / "gunicorn.conf.py"), _content(etc / "environment"), service, listener),
        restart=_digest(
            # a reload adds import paths, and takes none away
            json.dumps([described["python"], server, described.get("import_paths")], sort_keys=True).encode(),
            *launcher,
            *_held(service),
            *secrets,
        ),
        socket=_digest(*_held(listener)),
    )


def _held(unit: bytes) -> list[bytes]:
    """The lines of a unit that its process or socket was made by: neither comments nor what is systemd's own."""
    lines = [line.strip() for line in unit.replace(b"\\\n", b" ").splitlines()]
    names = [name.encode() for name in SYSTEMD_S_OWN]
    return [
        line
        for line in lines
        if line and not line.startswith((b"#", b";")) and line.partition(b"=")[0].strip() not in names
    ]


def current(app: Application) -> str | None:
    """The id of the release that `current` points to."""
    return os.path.basename(os.readlink(app.current)) if app.current.is_symlink() else None


def _noted(path: pathlib.Path) -> dict[str, Any]:
    """What Baton itself noted in a file, which a full disk may have cut. Raises OSError, or ValueError."""
    return untrusted.parse_object(untrusted.read(path))


def recorded(app: Application) -> Digests | None:
    """What the last activation left running; None when there was none or its record is unreadable."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Digests(**_noted(app.record)["digests"])
    return None


def served(app: Application) -> list[str]:
    """The releases that ever took over here, the last one first."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return untrusted.texts(_noted(app.record)["served"])
    return []


def status(app: Application, unit: str) -> dict[str, Any]:
    """What a unit's master says of itself; empty when it says nothing, or what no master would."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        said = untrusted.parse_object(untrusted.read(app.status_file(unit), STATUS_SIZE))
        workers, master = said.get("workers", []), untrusted.mapping(said.get("master"))
        if isinstance(workers, list) and all(map(_is_worker, workers)):
            return {
                **said,
                "master": {"pid": untrusted.whole_number(master.get("pid"))},
                "workers": workers,
                "workers_wanted": untrusted.whole_number(said.get("workers_wanted")),
                "reload": _reload(untrusted.mapping(said.get("reload"))),
                "versions": {
                    name: untrusted.text(one) for name, one in untrusted.mapping(said.get("versions")).items()
                },
            }
    return {}


def _reload(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of the last reload; empty when there was none."""
    if not told:
        return {}
    words = {key: untrusted.text(told.get(key)) for key in ("outcome", "error")}
    return {**words, "began_monotonic": untrusted.number(told.get("began_monotonic"))}


def _is_worker(told: Any) -> bool:
    if not isinstance(told, dict) or "release" not in told or not isinstance(told.get("state"), str):
        return False
    return isinstance(told["release"], str | None) and 0 < untrusted.whole_number(told.get("pid")) < MOST_PROCESSES


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


def unproven(said: Mapping[str, Any], release: str, master: int) -> str:
    """Why a master's status doesn't prove that every worker serves the release; empty when it does."""
    if said.get("master", {}).get("pid") != master:
        return "the master hasn't written its status"
    workers = [worker for worker in said["workers"] if worker["state"] != "draining"]
    if len(workers) < said["workers_wanted"]:
        return f"{len(workers)} of {said['workers_wanted']} workers serve"
    for worker in workers:
        if worker["state"] != "ready":
            return f"worker {worker['pid']} is {worker['state']}"
        if worker["release"] != release:
            return f"worker {worker['pid']} serves release {worker['release']}, not {release}"
        if not pathlib.Path(f"/proc/{worker['pid']}").exists():
            return f"worker {worker['pid']} is gone"
    return ""


def unready(app: Application, health: Health | None) -> str:
    """Why the application doesn't serve its current release with every worker; empty when it does."""
    release = current(app)
    if release is None:
        return "no release has been activated"
    master = int(systemd.properties(app.service, "MainPID").get("MainPID", "0"))
    if not master:
        return f"{app.service} doesn't run"
    why = unproven(status(app, app.service), release, master)
    if not why and health and (answer := ask(health)):
        return f"{health.path} {answer}"
    return why


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
    said = status(app, app.service)
    if before.restart != wanted.restart or outdated(app, wanted.release, said) or replaced(app, said):
        return "bridge"
    serving = {worker["release"] for worker in said["workers"]}
    if before != wanted or current(app) != wanted.release or serving - {wanted.release}:
        return "reload"
    return "start" if systemd.is_active(app.bridge) else "none"


def take_socket_folder(app: Application) -> None:
    """Make the socket's folder root's on a host where it was the application's, unless its unit still writes there.

    Not before the units that keep their status elsewhere have taken over: the others could no longer be reloaded.
    """
    if f"GUNICORN_HANDOVER_STATUS=/run/{app.name}/".encode() in _content(app.path("etc/systemd/system", app.service)):
        return
    try:
        folder = os.open(app.socket_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return  # the application listens elsewhere
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            os.fchown(folder, 0, 0)
            os.fchmod(folder, 0o755)
            for name in ("handover.json", "bridge.json"):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def point(app: Application, release: str | None) -> None:
    """Let `current` lead to a release, in one step that no reader can see half done."""
    if release == current(app):
        return  # a way back needs no room on the disk
    if release is None:
        app.current.unlink(missing_ok=True)
        return
    scratch = app.current.with_name(".current.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(f"releases/{release}")
    scratch.rename(app.current)
    folder = os.open(app.current.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def keep_through_power_loss(path: pathlib.Path) -> None:
    """Have everything on the path's filesystem written out: a pointer to files not on the disk is no release."""
    subprocess.run(["sync", "--file-system", path], check=True, stdin=subprocess.DEVNULL)


class Activation:
    """One change from what serves to a release, with the way back."""

    def __init__(
        self,
        app: Application,
        release: str,
        timeout: float,
        health: Health | None = None,
        *,
        renew: bool = False,
        transaction: str = "",
        back: bool = False,
        served_before: Sequence[str] | None = None,
    ) -> None:
        """`transaction` names the change of the fleet that this one is a part of: `revert` can undo it by that, with a
        change that leads `back`, to what had been `served_before`.
        """
        self.app = app
        self.timeout = timeout
        self.health = health
        self.transaction = transaction
        self.back = back
        self.served_before = served(app) if served_before is None else served_before
        self.wanted = digests(app, release)
        self.before = current(app)
        self.switched = False
        self.reopened = False
        self.way = choose(app, self.wanted)
        if renew and self.way == "none":
            self.way = "reload"

    def execute(self) -> None:
        """Hand over, or put back what was. Raises ActivationError."""
        if self.way == "none":
            take_socket_folder(self.app)
            return
        started, began = time.time(), time.monotonic()
        try:
            if self.transaction:
                snapshot(self.app, self.transaction)
            if self.wanted.release != self.before:
                keep_through_power_loss(self.app.release(self.wanted.release))
            point(self.app, self.wanted.release)
            getattr(self, f"_{self.way}")()
            self.switched = True
            self._check_health()
            take_socket_folder(self.app)
            if not self.back:
                self._remember()
        # whatever it is: what was begun goes back
        except Exception as error:
            raise ActivationError(f"{self._cause(error, started, began)}\n{self._put_back()}") from None
        if self.back:
            # what is left behind is no better for a disk that is full
            try:
                self._remember()
            except FAILURES as error:
                raise ActivationError(
                    f"Release {self.wanted.release} serves again, which could not be noted: {error}. "
                    "See to that disk and run this again."
                ) from None

    def _start(self) -> None:
        systemd.systemctl("reset-failed", self.app.service, self.app.bridge)
        systemd.change("start", self.app.socket, self.timeout)
        systemd.change("start", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _reload(self) -> None:
        systemd.change("reload", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _bridge(self) -> None:
        if systemd.is_active(self.app.service):
            self._end_bridge()  # it may serve another release than this one
        systemd.systemctl("reset-failed", self.app.bridge)
        systemd.change("start", self.app.bridge, self.timeout)
        self._prove(self.app.bridge)
        systemd.change("restart", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _end_bridge(self) -> None:
        """Stop the bridge, also one that a killed handover left; one that died is no failure any more."""
        if systemd.is_active(self.app.bridge):
            systemd.change("stop", self.app.bridge, self.timeout)
        systemd.systemctl("reset-failed", self.app.bridge)

    def _reopen(self) -> None:
        """The socket itself changes: its address can't be had twice, so this one way has a gap."""
        self.reopened = True
        systemd.change("stop", self.app.service, self.timeout)
        systemd.change("restart", self.app.socket, self.timeout)
        self._start()

    def _unproven(self, unit: str) -> str:
        master = int(systemd.properties(unit, "MainPID").get("MainPID", "0"))
        return unproven(status(self.app, unit), self.wanted.release, master)

    def _prove(self, unit: str) -> None:
        deadline = time.monotonic() + min(self.timeout, 15)
        while True:
            why = self._unproven(unit)
            if not why:
                return
            if time.monotonic() > deadline:
                raise ActivationError(f"{unit} can't prove that it serves {self.wanted.release}: {why}.")
            time.sleep(0.05)

    def _check_health(self) -> None:
        if self.health is None:
            return
        why = wait_well(self.health, min(self.timeout, 15))
        if why:
            raise ActivationError(f"{self.health.path} {why}.")

    def _cause(self, error: Exception, started: float, began: float) -> str:
        said = str(error) or systemd.tail(self.app.service, started)
        if not isinstance(error, (*FAILURES, ActivationError)):
            said = "".join(traceback.format_exception(error)).strip()
        if isinstance(error, OSError):
            said = f"{said}. See to that disk and run this again."
        refused = status(self.app, self.app.service).get("reload") or {}
        # the master's own word for it, unless it is of an earlier reload
        if refused.get("error") and refused.get("began_monotonic", 0) >= began:
            said = f"{refused['error']}. It logged last:\n{said}"
        said = in_operator_s_words(said)
        return f"Release {self.wanted.release} could not take over ({self.way}): {said}"

    def _put_back(self) -> str:
        """Let what served before serve again; says in a sentence what serves now."""
        app, before = self.app, self.before
        try:
            point(app, before)  # first, as it needs no room on the disk
            restore(app, app.kept)
            systemd.systemctl("daemon-reload")
            if before is None:
                _silence(app, self.timeout)
                return "Nothing was served here before, and nothing is now."
            self.wanted = dataclasses.replace(self.wanted, release=before)
            if self.reopened:
                self._reopen()  # the socket has its new address, or none
            elif not systemd.is_active(app.service):
                systemd.change("restart", app.service, self.timeout)
            elif self.switched or self._unproven(app.service):
                self._bridge() if self.way == "bridge" else self._reload()
            self._prove(app.service)
            self._end_bridge()
        except (*FAILURES, ActivationError) as error:
            if before is None:
                return f"Nothing was served here before, and what was begun could not be taken away: {error}"
            if self._unproven(app.service):
                return f"Release {before} could not be put back: {error}"
            return f"Release {before} serves, as before, but its settings could not be put back: {error}"
        return f"Release {before} serves, as before."

    def _remember(self) -> None:
        """Note what serves now, and keep its configuration; a full disk fails before either is changed."""
        known = [self.wanted.release, *(release for release in self.served_before if release != self.wanted.release)]
        text = json.dumps(
            {
                "digests": dataclasses.asdict(self.wanted),
                "way": self.way,
                "since": time.time(),
                # those that are pruned don't count any more
                "served": [release for release in known if self.app.release(release).exists()],
            },
            indent=1,
        )
        scratch = self.app.record.with_suffix(".new")
        with _replaced(self.app.kept) as kept:
            keep(self.app, kept)
            scratch.touch(mode=0o600)
            scratch.write_text(text + "\n", encoding="utf-8")
            keep_through_power_loss(self.app.record.parent)
        scratch.rename(self.app.record)


def in_operator_s_words(said: str) -> str:
    """What the master said, with the setting that the operator knows."""
    return said.replace("handover_boot_timeout", "app_service_boot_timeout")


def configuration(app: Application, root: str) -> dict[str, pathlib.Path]:
    """The files, below a root, that decide how the service runs: name from the root to path."""
    patterns = (
        *(f"etc/{app.name}/{name}" for name in ("gunicorn.conf.py", "environment", "secrets/*")),
        *(f"etc/systemd/system/{unit}" for unit in (app.socket, app.service, app.bridge, f"{app.name}-rehearsal@.*")),
    )
    return {str(path.relative_to(root)): path for pattern in patterns for path in pathlib.Path(root).glob(pattern)}


def keep(app: Application, folder: pathlib.Path) -> None:
    """Keep a copy of the configuration as it is now."""
    for name, path in configuration(app, app.root).items():
        _copy(path, folder / name)


def snapshot(app: Application, transaction: str) -> None:
    """Keep what serves now, once a transaction: its first change here calls this before it changes anything."""
    if _snapshot(app).get("transaction") == transaction:
        return
    with _replaced(app.before) as scratch:
        for name, path in configuration(app, str(app.kept)).items():
            _copy(path, scratch / "kept" / name)
        about = {"transaction": transaction, "release": current(app), "served": served(app)}
        (scratch / "before.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def _snapshot(app: Application) -> dict[str, Any]:
    """What `snapshot` noted last; empty when there is none or it is unreadable."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        return _noted(app.before / "before.json")
    return {}


def revert(app: Application, transaction: str, timeout: float, health: Health | None = None) -> Way:
    """Let what served here before a transaction serve again, configuration and release, by the same gated way.

    Harmless on a host that the transaction has not switched: configuration that was written there and never
    activated goes back too. Returns the way that it took. Raises ActivationError.
    """
    try:
        noted = _snapshot(app)
        if noted.get("transaction") == transaction:
            release: str | None = noted["release"]
            restore(app, app.before / "kept")
        else:
            noted, release = {}, current(app)
            restore(app, app.kept)
        systemd.systemctl("daemon-reload")
        if release is None:
            serves = current(app) is not None or systemd.is_active(app.service)
            _silence(app, timeout)
            return "stop" if serves else "none"
    except FAILURES as error:
        raise ActivationError(
            f"What served before could not be put back: {error}. See to that disk and run this again."
        ) from None
    # one that was put back has not served: a rollback may not choose it, nor may it push out those that have
    activation = Activation(app, release, timeout, health, back=True, served_before=noted.get("served"))
    activation.execute()
    return activation.way


def _silence(app: Application, timeout: float) -> None:
    """Let nothing be served, as before the first release."""
    systemd.systemctl("stop", app.socket, app.service, app.bridge, timeout=timeout)
    point(app, None)
    app.record.unlink(missing_ok=True)


@contextlib.contextmanager
def _replaced(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A fresh folder that takes the place of another one when it is complete."""
    scratch, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # a full disk needs the room
        raise
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore(app: Application, kept: pathlib.Path) -> None:
    """Put a kept configuration back, when there is one."""
    wanted = configuration(app, str(kept))
    if not wanted:
        return
    for name, path in configuration(app, app.root).items():
        if name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        # what is as it was needs no room on a disk that may be full
        if not _alike(path, app.path(name)):
            _copy(path, app.path(name))


def _alike(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files have the same content, owner and mode."""
    if not other.exists():
        return False
    about = [(found.st_mode, found.st_uid, found.st_gid) for found in (one.stat(), other.stat())]
    return about[0] == about[1] and filecmp.cmp(one, other, shallow=False)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file with its owner and mode, in one step."""
    make_folder(target.parent)
    scratch = target.with_name(f".{target.name}.baton")
    try:
        scratch.touch(mode=0o600)
        shutil.copy2(source, scratch)
        about = source.stat()
        os.chown(scratch, about.st_uid, about.st_gid)
        scratch.rename(target)
    except OSError:
        scratch.unlink(missing_ok=True)  # half a file is neither a secret nor room
        raise


@contextlib.contextmanager
def exclusive(app: Application, timeout: float) -> Iterator[None]:
    """Hold the application's handover for oneself. Raises ActivationError when another takes over `timeout` seconds.

    A child made meanwhile holds it too: it is free again when all of them have ended, however they end.
    """
    with (app.state / "activation.lock").open("w") as lock:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise ActivationError(
                    f"Another handover of {app.name} is under way on this host and took longer than {timeout:.0f} s. "
                    "Wait for it, or look at `journalctl -u` of its units."
                )
            time.sleep(0.2)
        yield


def to_the_end(work: Callable[[], str | None]) -> str | None:
    """Do the work in a session and a unit of its own, so that it comes to its end, or back.

    That holds when the caller is killed, too, or all that belongs to the caller's login.

    Returns what the work returns. Raises ActivationError when the work does, or when it died.
    """
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        failure, answer = "", None
        try:
            systemd.leave_login(f"baton-activation-{os.getpid()}.scope")
            answer = work()
        except ActivationError as error:
            failure = str(error)
        except BaseException:
            failure = traceback.format_exc()
        with contextlib.suppress(OSError), os.fdopen(say, "w") as pipe:
            pipe.write(json.dumps({"failure": failure, "answer": answer}))
        os._exit(0)
    os.close(say)
    with os.fdopen(hear) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise ActivationError("the handover's process was killed; run this again to converge.")
    said = json.loads(text)
    if said["failure"]:
        raise ActivationError(said["failure"])
    answered: str | None = said["answer"]
    return answered


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a page was found to be."""

    why: str = ""  # it isn't well; empty when it is
    limited: bool = False  # it is asked too often (429): it serves, and doesn't say how well
    wait: float = 0.0  # seconds until it wants to be asked again; 0 when it doesn't say


def answer_of(health: Health) -> Answer:
    """Ask for the page once. The request looks like one from the edge."""
    if health.listen.startswith("/"):
        connection: http.client.HTTPConnection = _UnixConnection(health.listen, health.timeout)
    else:
        address, port = health.listen.rsplit(":", 1)
        connection = http.client.HTTPConnection(address, int(port), timeout=health.timeout)
    headers = {
        "Host": health.host,
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": health.host,
        "User-Agent": "baton-health",
        "Connection": "close",
    }
    # the timeout of a connection is that of each byte
    limit = threading.Timer(health.timeout, _cut, [connection])
    limit.start()
    try:
        connection.request("GET", health.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return Answer(f"does not answer: {error}")
    finally:
        limit.cancel()
        connection.close()
    if answer.status < 400:
        return Answer()
    limited = answer.status == http.HTTPStatus.TOO_MANY_REQUESTS
    return Answer(f"answers {answer.status}: {body}", limited, retry_after.seconds(answer.getheader("Retry-After")))


def ask(health: Health) -> str:
    """Why the page isn't well, asked once; empty when it is, or is asked too often to say."""
    answer = answer_of(health)
    return "" if answer.limited else answer.why


def wait_well(health: Health, patience: float) -> str:
    """Ask for the page, ever less often, until it is well; `patience` seconds at most. Returns why it isn't.

    One that is asked too often is left alone for as long as it says; when that is too long, it serves, and that is all
    there is to know.
    """
    deadline, pause = time.monotonic() + patience, PAUSE
    while True:
        answer = answer_of(health)
        left = deadline - time.monotonic()
        wait = max(answer.wait, pause)
        if not answer.why or (answer.limited and wait > left):
            return ""
        if left <= 0:
            return answer.why
        time.sleep(min(wait, left) if answer.limited else min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
