"""Where an application's files and units are on a host: the only model of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from ..host import atomic_file, untrusted

WEB = "web"  # the name of the type of what serves requests
STRATEGIES = ("overlap", "replace")  # of background processes
TIMER = "timer"  # the strategy of a scheduled command
PROCESS_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ActivationError(Exception):
    """The release doesn't serve. The message says why, and what serves instead."""


@dataclasses.dataclass(frozen=True)
class ProcessType:
    """One kind of process of an application, by the units that run it."""

    name: str
    strategy: str  # how one release's processes follow another's: see activation
    running: tuple[str, ...]  # the units that run it; a pattern where there are any number of them
    templates: tuple[str, ...] = ()  # further unit files that are of it
    part: str = "web"  # of an activation in two parts, the one in which it follows: before_web, or web
    # of background processes: how many there are on this host; seconds that they have to stay up to be proven, and
    # that they have to end; whether a command tells that they work
    count: int = 0
    settle_seconds: float = 0
    stop_timeout: float = 0
    check: bool = False
    declared: bool = True  # false for one that is no longer in the settings


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

    @property
    def releases(self) -> pathlib.Path:
        """The folder of all releases."""
        return self.path("opt", self.name, "releases")

    def release(self, release: str) -> pathlib.Path:
        """The folder of a release."""
        return self.releases / release

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
    def instances(self) -> pathlib.Path:
        """The folder of a symlink for each instance of a background process, to the release that it runs."""
        return self.path("opt", self.name, "processes")

    @property
    def process_settings(self) -> pathlib.Path:
        """What the settings say of the background processes on this host."""
        return self.path("etc", self.name, "processes.json")

    @property
    def started_at_boot(self) -> pathlib.Path:
        """The folder of symlinks to units that are started at boot."""
        return self.path("etc/systemd/system/multi-user.target.wants")

    @property
    def schedule_settings(self) -> pathlib.Path:
        """What the settings say of the scheduled commands on this host."""
        return self.path("etc", self.name, "schedules.json")

    @property
    def first_host(self) -> pathlib.Path:
        """The name of the host that `hosts: first` stood for when the last change ended well."""
        return self.state / "first-host"

    def suspended(self, schedule: str) -> pathlib.Path:
        """The mark of a scheduled command that an operator has suspended."""
        return self.state / "suspended" / schedule

    @property
    def processes(self) -> tuple[ProcessType, ...]:
        """Its process types, in the order in which a release reaches them. Raises ActivationError."""
        rehearsal = (f"{self.name}-rehearsal@.service", f"{self.name}-rehearsal@.socket")
        web = ProcessType(WEB, "handover", (self.socket, self.service, self.bridge), rehearsal)
        activated = self._activated()
        schedules = self._schedules(activated)
        background = self._background(activated - {schedule.name for schedule in schedules})
        first = [process for process in background if process.part != web.part]
        return (*first, web, *(process for process in background if process not in first), *schedules)

    def as_declared(self, process: ProcessType) -> ProcessType:
        """A process type as the settings have it by now, which may be no longer. Raises ActivationError."""
        found = (one for one in self.processes if one.name == process.name)
        return next(found, dataclasses.replace(process, count=0, declared=False))

    def _schedules(self, activated: set[str]) -> list[ProcessType]:
        """Those of the settings, and those that were activated and are no longer in them."""
        with _reading(self.schedule_settings) as told:
            runs = {name: bool(about["runs"]) for name, about in told.items()}
        units = (self.path("etc/systemd/system"), self.started_at_boot)
        gone = [
            name
            for name in sorted(activated)
            if any(os.path.lexists(folder / f"{self.name}-{name}.timer") for folder in units)
        ]
        return [
            ProcessType(
                name=name,
                strategy=TIMER,
                running=(f"{self.name}-{name}.timer",),
                templates=(f"{self.name}-{name}.timer", f"{self.name}-{name}.service"),
                count=int(runs.get(name, False)),
                declared=name in runs,
            )
            for name in dict.fromkeys([*runs, *gone])
        ]

    def _background(self, activated: set[str]) -> list[ProcessType]:
        """Those of the settings, and those that were activated and are no longer in them."""

        def of_type(name: str, **about: Any) -> ProcessType:
            templates = (f"{self.name}-{name}@.service", f"{self.name}-{name}-check@.service")
            return ProcessType(name=name, running=(f"{self.name}-{name}@*.service",), templates=templates, **about)

        with _reading(self.process_settings) as told:
            if not all(about["strategy"] in STRATEGIES for about in told.values()):
                raise ValueError(f"a strategy is none of {', '.join(STRATEGIES)}")
            found = [
                of_type(
                    name,
                    strategy=about["strategy"],
                    part="before_web" if about["order"] == "before_web" else "web",
                    count=int(about["count"]),
                    settle_seconds=float(about["settle_seconds"]),
                    stop_timeout=float(about["stop_timeout"]),
                    check=bool(about["check"]),
                )
                for name, about in told.items()
            ]
        gone = sorted(activated - set(told))
        return found + [of_type(name, strategy="overlap", declared=False) for name in gone]

    def _activated(self) -> set[str]:
        """The names of the background process types and schedules that were activated here, and may run."""
        names = set(untrusted.mapping(read_json_or_empty(self.record).get("processes"))) - {WEB}
        with contextlib.suppress(OSError):
            names |= {path.name.split("-")[0] for path in self.instances.iterdir() if not path.name.startswith(".")}
        return {name for name in names if PROCESS_NAME.fullmatch(name)}

    @property
    def unit_files(self) -> tuple[str, ...]:
        """The names of all its unit files."""
        units = [unit for process in self.processes for unit in (*process.running, *process.templates)]
        return (*units, self.migration)

    @property
    def migration(self) -> str:
        """The template of the unit that migrates the database."""
        return f"{self.name}-migration@.service"

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


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """What a file of settings says by name; nothing where there is none. What is wrong in it raises ActivationError."""
    try:
        told = read_json(path) if path.exists() else {}
        if not all(PROCESS_NAME.fullmatch(name) for name in told):
            raise ValueError(f"a name is not {PROCESS_NAME.pattern}")
        yield told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ActivationError(
            f"{path} can't be read ({error!r}). Run playbooks/configure.yml, which writes it."
        ) from None


def _modified(path: pathlib.Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def describe(app: Application, release: str) -> dict[str, Any]:
    """The release.json of a release. Raises ActivationError when it isn't one."""
    try:
        return untrusted.parse_object(untrusted.read(app.release(release) / "release.json"))
    except (FileNotFoundError, untrusted.UntrustedError):
        raise ActivationError(
            f"{app.release(release)} is not a complete release. Deploy it again; that stages it again."
        ) from None


def current(app: Application) -> str | None:
    """The id of the release that `current` points to; None when it points to none."""
    return release_at(app.current)


def release_at(link: pathlib.Path) -> str | None:
    """The id of the release that a link points to; None when it is none."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(link)) or None
    return None


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What Baton itself noted in a file, which a full disk may have cut. Raises OSError, or ValueError."""
    return untrusted.parse_object(untrusted.read(path))


def read_json_or_empty(path: pathlib.Path) -> dict[str, Any]:
    """As `read_json`; empty where the file can't be read."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(path)
    return {}


def served(app: Application) -> list[str]:
    """The releases that ever took over here, the last one first."""
    return served_in(app.record)


def served_in(record: pathlib.Path) -> list[str]:
    """The releases that ever took over, by the record of the last activation."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return untrusted.texts(read_json(record)["served"])
    return []


def set_current(app: Application, release: str | None) -> None:
    """Let `current` lead to a release, in one step that no reader can see half done."""
    if release == current(app):
        return  # a way back needs no room on the disk
    if release is None:
        app.current.unlink(missing_ok=True)
    else:
        scratch = app.current.with_name(".current.new")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(f"releases/{release}")
        scratch.rename(app.current)
    atomic_file.sync_folder(app.current.parent)


def sync_filesystem(path: pathlib.Path) -> None:
    """Have everything on the path's filesystem written out: a pointer to files not on the disk is no release."""
    subprocess.run(["sync", "--file-system", path], check=True, stdin=subprocess.DEVNULL)
