"""The paths and units of an application on a host, defined only here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from ..host import atomic_file, untrusted

WEB = "web"  # the process type that serves requests
STRATEGIES = ("overlap", "replace")  # of background processes
PARTS = {"before_web": "before_web", "after_web": "web"}  # the part of an activation, by the order
TIMER = "timer"  # strategy of a scheduled command
STOP_MARGIN = 30  # seconds beyond stop_timeout by which systemd has killed processes that didn't end
CHECK_SECONDS = 60  # time limit for a background process type's check to succeed for all new processes
PROCESS_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ActivationError(Exception):
    """A release can't be activated. The message says why, and which release is active instead."""


@dataclasses.dataclass(frozen=True)
class ProcessType:
    """A process type of an application, and its units."""

    name: str
    strategy: str  # how an activation replaces its processes: see activation
    running: tuple[str, ...]  # the units that run it; a pattern if there are several instances
    templates: tuple[str, ...] = ()  # its other unit files
    part: str = "web"  # part of the activation that replaces it: before_web or web; any if it is empty
    # only for background processes:
    count: int = 0  # processes on this host
    settle_seconds: float = 0  # seconds that they must stay up to be proven
    stop_timeout: float = 0  # seconds that they have to stop
    check: bool = False  # whether a command checks that each works
    declared: bool = True  # false if it is no longer in the settings

    @property
    def setting(self) -> str:
        """Its setting, which also tells a process type and a schedule of the same name apart."""
        return f"{'app_schedules' if self.strategy == TIMER else 'app_processes'}.{self.name}"

    def is_in(self, part: str) -> bool:
        """Whether an activation of a part replaces it: all, before_web or web."""
        return part == "all" or self.part in (part, "")


@dataclasses.dataclass(frozen=True)
class Application:
    """An application on a host."""

    name: str
    root: str = "/"

    def path(self, *parts: str) -> pathlib.Path:
        """Return a path below the host's root."""
        return pathlib.Path(self.root, *parts)

    @property
    def current(self) -> pathlib.Path:
        """The symlink to the current release."""
        return self.path("opt", self.name, "current")

    @property
    def state(self) -> pathlib.Path:
        """Baton's own data on the application."""
        return self.path("var/lib/baton", self.name)

    @property
    def record(self) -> pathlib.Path:
        """The record of the last activation."""
        return self.state / "active.json"

    @property
    def kept(self) -> pathlib.Path:
        """A copy of the configuration of the last activation, which is known to serve."""
        return self.state / "kept"

    @property
    def before(self) -> pathlib.Path:
        """The snapshot that the last transaction took before it changed anything."""
        return self.state / "before"

    @property
    def releases(self) -> pathlib.Path:
        """The folder of all releases."""
        return self.path("opt", self.name, "releases")

    def release(self, release: str) -> pathlib.Path:
        """Return the folder of a release."""
        return self.releases / release

    @property
    def socket_folder(self) -> pathlib.Path:
        """The folder of the socket. Root owns it, so that nobody can replace what systemd and root open by a link."""
        return self.path("run", self.name)

    def status_file(self, unit: str) -> pathlib.Path:
        """Return the status file of a unit's master, in a folder that the application owns."""
        name = "bridge.json" if unit == self.bridge else "handover.json"
        path, old_path = self.path("run/baton", self.name, name), self.socket_folder / name
        # masters of earlier versions write their status beside the socket
        return old_path if _modified(old_path) > _modified(path) else path

    @property
    def instances(self) -> pathlib.Path:
        """The folder of symlinks from each instance of a background process to its release."""
        return self.path("opt", self.name, "processes")

    @property
    def process_settings(self) -> pathlib.Path:
        """The settings of the background processes on this host."""
        return self.path("etc", self.name, "processes.json")

    @property
    def started_at_boot(self) -> pathlib.Path:
        """The folder of symlinks to units that start at boot."""
        return self.path("etc/systemd/system/multi-user.target.wants")

    @property
    def schedule_settings(self) -> pathlib.Path:
        """The settings of the scheduled commands on this host."""
        return self.path("etc", self.name, "schedules.json")

    @property
    def first_host(self) -> pathlib.Path:
        """The file with the name of the host of `hosts: first` as of the last successful change."""
        return self.state / "first-host"

    def suspended(self, schedule: str) -> pathlib.Path:
        """Return the file that marks a scheduled command as suspended by an operator."""
        return self.state / "suspended" / schedule

    def last_trigger(self, timer: str) -> pathlib.Path:
        """Return the file whose time is that of a timer's last run, from which systemd determines missed runs."""
        return self.path("var/lib/systemd/timers", f"stamp-{timer}")

    @property
    def processes(self) -> tuple[ProcessType, ...]:
        """Its process types in activation order. Raises ActivationError."""
        rehearsal = (f"{self.name}-rehearsal@.service", f"{self.name}-rehearsal@.socket")
        web = ProcessType(WEB, "handover", (self.socket, self.service, self.bridge), rehearsal)
        activated = self._activated()
        schedules = self._schedules(activated)
        background = self._background(activated, {schedule.name for schedule in schedules})
        first = [one for one in background if one.part == "before_web" or (not one.part and one.strategy == "replace")]
        return (*first, web, *(process for process in background if process not in first), *schedules)

    @property
    def declared(self) -> dict[str, Mapping[str, Any]]:
        """What the host's files say of each background process type and schedule, by setting; empty if unreadable."""
        files = {"app_processes": self.process_settings, "app_schedules": self.schedule_settings}
        return {
            f"{setting}.{name}": about
            for setting, path in files.items()
            for name, about in read_json_or_empty(path).items()
            if isinstance(about, Mapping)
        }

    @property
    def commands(self) -> dict[str, str]:
        """The command of each background process type and schedule, by setting."""
        # settings that an earlier version wrote have no commands
        return {setting: str(about.get("command", "")) for setting, about in self.declared.items()}

    def as_declared(self, process: ProcessType) -> ProcessType:
        """Return a process type as declared now; `declared` is false if it no longer is. Raises ActivationError."""
        # for one that no longer is, the files may not have the strategy of the processes that run
        found = (one for one in self.processes if one.declared and one.setting == process.setting)
        return next(found, dataclasses.replace(process, count=0, declared=False))

    def _schedules(self, activated: set[str]) -> list[ProcessType]:
        """Return the declared schedules, and activated ones that are no longer declared."""
        with _reading(self.schedule_settings) as settings:
            runs = {name: bool(about["runs"]) for name, about in settings.items()}
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

    def _background(self, activated: set[str], schedules: set[str]) -> list[ProcessType]:
        """Return the declared background process types, and activated ones that are no longer declared.

        Removed ones that must not run twice with what replaces them (`replace`) come first, other removed ones last.
        `schedules`: names of schedules, which may be those of former process types.
        """

        def of_type(name: str, **about: Any) -> ProcessType:
            templates = (f"{self.name}-{name}@.service", f"{self.name}-{name}-check@.service")
            return ProcessType(name=name, running=(f"{self.name}-{name}@*.service",), templates=templates, **about)

        with _reading(self.process_settings) as settings:
            if not all(about["strategy"] in STRATEGIES for about in settings.values()):
                raise ValueError(f"a strategy is none of {', '.join(STRATEGIES)}")
            found = [
                of_type(
                    name,
                    strategy=about["strategy"],
                    part=PARTS[about["order"]],
                    count=int(about["count"]),
                    settle_seconds=float(about["settle_seconds"]),
                    stop_timeout=float(about["stop_timeout"]),
                    check=bool(about["check"]),
                )
                for name, about in settings.items()
            ]
        gone = sorted(activated - set(settings))
        gone = [name for name in gone if name not in schedules or self._has_instances(name)]
        new = {one.part for one in found if one.strategy == "replace" and one.name not in activated}
        removed = []
        for name in gone:
            about = self.settings_before(name)
            strategy = "replace" if about.get("strategy") == "replace" else "overlap"
            # at the same time as the type that may replace it: its processes don't know the new release's jobs
            part = PARTS.get(str(about.get("order")), "")
            if strategy == "replace" and new - {part}:
                part = ""  # a new type may replace it, and is activated in the other part
            timeout = untrusted.number(about.get("stop_timeout"))
            removed.append(of_type(name, strategy=strategy, part=part, stop_timeout=timeout, declared=False))
        first = [one for one in removed if one.strategy == "replace"]
        return [*first, *found, *(one for one in removed if one not in first)]

    def settings_before(self, process: str) -> Mapping[str, Any]:
        """Return the settings of a background process type as of the last activation that had it; empty if unknown."""
        # after the web processes of a rollback, only the snapshot still has it
        for kept in (self.kept, self.before / "kept"):
            settings = read_json_or_empty(kept / "etc" / self.name / self.process_settings.name)
            if about := untrusted.mapping(settings.get(process)):
                return about
        return {}

    def _has_instances(self, process: str) -> bool:
        """Whether there are files or symlinks of a background process type."""
        unit = f"{self.name}-{process}@"
        places = (
            (self.instances, f"{process}-*"),
            (self.started_at_boot, f"{unit}*.service"),
            (self.path("etc/systemd/system"), f"{unit}.service"),
        )
        return any(any(folder.glob(pattern)) for folder, pattern in places)

    def _activated(self) -> set[str]:
        """Return the names of background process types and schedules that were activated here and may run."""
        names = set(_recorded_processes(self)) - {WEB}
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
        """The unit that serves while the service restarts in a bridge."""
        return f"{self.name}-bridge.service"

    @property
    def socket(self) -> str:
        """The unit of the socket."""
        return f"{self.name}.socket"


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield a settings file's content by name; empty if it doesn't exist. Errors in the block raise ActivationError."""
    try:
        settings = read_json(path) if path.exists() else {}
        if not all(PROCESS_NAME.fullmatch(name) for name in settings):
            raise ValueError(f"a name is not {PROCESS_NAME.pattern}")
        yield settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ActivationError(
            f"{path} can't be read ({error!r}). Run playbooks/configure.yml, which writes it."
        ) from None


def _modified(path: pathlib.Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def describe(app: Application, release: str) -> dict[str, Any]:
    """Return the release.json of a release. Raises ActivationError if the release isn't complete."""
    try:
        return untrusted.parse_object(untrusted.read(app.release(release) / "release.json"))
    except (FileNotFoundError, untrusted.UntrustedError):
        raise ActivationError(
            f"{app.release(release)} is not a complete release. Deploy it again, which stages it again."
        ) from None


def current(app: Application) -> str | None:
    """Return the id of the current release; None if there is none."""
    return release_at(app.current)


def release_at(link: pathlib.Path) -> str | None:
    """Return the id of the release that a symlink points to; None if it is not a symlink."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(link)) or None
    return None


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON file that Baton wrote, and which may be damaged. Raises OSError and ValueError."""
    return untrusted.parse_object(untrusted.read(path))


def read_json_or_empty(path: pathlib.Path) -> dict[str, Any]:
    """Read like `read_json`; return an empty dict if the file can't be read."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(path)
    return {}


def served(app: Application) -> list[str]:
    """Return the releases that were ever activated successfully here, the latest first."""
    return served_in(app.record)


def served_in(record: pathlib.Path) -> list[str]:
    """Return the releases that were ever activated successfully, from the record of the last activation."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return untrusted.texts(read_json(record)["served"])
    return []


def unfinished(app: Application) -> list[str]:
    """Return the process types that an interrupted change has replaced or removed, or left as they were; sorted.

    Empty if the current release has never served here: then the interrupted change was to activate it.
    """
    release = current(app)
    if release not in served(app):
        return []
    settings = (setting.split(".", 1) for setting in recorded_commands(app).get(release, {}))
    lacking = {name for kind, name in settings if kind == "app_processes"} - set(_recorded_processes(app))
    return sorted({*with_another_release(app), *(name for name in lacking if _runs(app, name))})


def with_another_release(app: Application) -> list[str]:
    """Return the process types that were last activated with another release than the current one; sorted."""
    release = current(app)
    return sorted(
        name
        for name, about in _recorded_processes(app).items()
        # a type without processes on this host keeps the release that was recorded first
        if untrusted.mapping(about).get("release") not in (None, release) and (name == WEB or _runs(app, name))
    )


def _recorded_processes(app: Application) -> Mapping[str, Any]:
    return untrusted.mapping(read_json_or_empty(app.record).get("processes"))


def _runs(app: Application, process: str) -> bool:
    """Whether a background process type has processes on this host, or had before it was removed from the settings."""
    return bool((app.declared.get(f"app_processes.{process}") or app.settings_before(process)).get("count"))


def recorded_commands(app: Application) -> dict[str, dict[str, str]]:
    """Return the commands with which each release was activated here last, by release: see `Application.commands`."""
    recorded = untrusted.mapping(read_json_or_empty(app.record).get("commands"))
    return {release: dict(commands) for release, commands in recorded.items() if isinstance(commands, Mapping)}


def set_current(app: Application, release: str | None) -> None:
    """Point `current` to a release, or remove it for None, atomically."""
    if release == current(app):
        return  # a revert must not need disk space
    if release is None:
        app.current.unlink(missing_ok=True)
    else:
        scratch = app.current.with_name(".current.new")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(f"releases/{release}")
        scratch.rename(app.current)
    atomic_file.sync_folder(app.current.parent)


def sync_filesystem(path: pathlib.Path) -> None:
    """Sync the path's file system, so that a release is on the disk before a symlink points to it."""
    subprocess.run(["sync", "--file-system", path], check=True, stdin=subprocess.DEVNULL)
