"""Calls of systemctl, and queries of the journal."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from . import bounded, untrusted
from .command import LONGEST

# bytes of systemctl's or journalctl's output that are kept: a line of a journal may have hundreds of megabytes
MOST = 2**22
# lines of a unit's log in a message
LAST_LINES = 25
# seconds to read a journal: a unit may log continuously
READING_LIMIT = 60.0
# systemd's MESSAGE_IDs: a unit has stopped; it was deactivated successfully; it starts (sd-messages.h)
STOPPED, SUCCEEDED = "9d1aaa27d60140bd96365438aad20286", "7ad2d189f7e94e70a38c781354912448"
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
# fields in which systemd and other processes of root name the unit that a message is about (systemd.journal-fields(7))
_OF_UNIT = ("UNIT", "OBJECT_SYSTEMD_UNIT", "COREDUMP_UNIT")
# limits of a journalctl command: units, and characters of a unit's name (systemd.unit(5))
MOST_UNITS, LONGEST_NAME = 1000, 255
# seconds for journald to write pending messages
SYNC_LIMIT = 5.0


class UnitError(Exception):
    """A unit's job failed; the message has the last lines of its log."""


def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run systemctl. `timeout`: seconds for the call; the unit's job continues after it. Raises TimeoutExpired."""
    return _run("systemctl", *arguments, timeout=timeout)


def _run(*words: str, timeout: float) -> subprocess.CompletedProcess[str]:
    done = bounded.run(words, timeout=timeout, output=MOST)
    # an application may log any bytes
    output, errors = (part.decode(errors="replace") for part in (done.output, done.errors))
    if done.status is None:
        raise subprocess.TimeoutExpired(words, timeout, output)
    return subprocess.CompletedProcess(words, done.status, output, errors)


def properties(unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit, by default all."""
    wanted = [f"--property={','.join(names)}"] if names else []
    return _properties(systemctl("show", unit, *wanted).stdout)


def property_of(unit: str, name: str) -> str:
    """Return one property of a unit; empty if systemd doesn't know it."""
    return properties(unit, name).get(name, "")


def main_pid(unit: str) -> int:
    """Return the pid of a unit's main process; 0 if it doesn't run."""
    return int(property_of(unit, "MainPID") or 0)


def manager_properties(*names: str) -> dict[str, str]:
    """Return properties of systemd itself."""
    return _properties(systemctl("show", f"--property={','.join(names)}").stdout)


def properties_of_all(*patterns: str, names: Sequence[str], options: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the named properties of each loaded unit whose name matches one of the patterns."""
    shown = systemctl("show", *patterns, "--all", f"--property={','.join(names)}", *options).stdout
    return [found for block in shown.split("\n\n") if (found := _properties(block))]


def _properties(shown: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def is_active(unit: str) -> bool:
    """Whether the unit is active or reloading."""
    return property_of(unit, "ActiveState") in ("active", "reloading")


def group_folders(group: str, root: str = "/") -> list[pathlib.Path]:
    """Return the folders of a control group (a unit's ControlGroup): one, or with cgroup v1 one per controller."""
    folder = pathlib.Path(root, "sys/fs/cgroup")
    found = [mount / group.strip("/") for mount in (folder, *folder.glob("*/"))] if group.strip("/") else []
    return [path for path in found if path.is_dir()]


def processes(group: str, root: str = "/") -> list[str]:
    """Return the pids of a control group's processes, in ascending order."""
    found: set[str] = set()
    # with cgroup v1, systemd doesn't put them into the folder of each controller
    for folder in group_folders(group, root):
        with contextlib.suppress(OSError):
            found.update((folder / "cgroup.procs").read_text().split())
    return sorted(found, key=int)


def leave_login(scope: str) -> None:
    """Move this process from its login session into its own scope.

    logind may be configured to kill a session's processes when it ends, for example when a connection breaks. Does
    nothing without systemd.
    """
    pid = str(os.getpid())
    call = ["busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
    call += ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail"]
    call += ["1", "PIDs", "au", "1", pid, "0"]
    with contextlib.suppress(OSError):
        done = subprocess.run(call, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        # the call only queues the job
        while done.returncode == 0 and scope not in _cgroup() and time.monotonic() < deadline:
            time.sleep(0.01)


def _cgroup() -> str:
    return pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8")


def change(verb: str, unit: str, timeout: float) -> None:
    """Start, stop, reload or restart a unit and wait for it. Raises UnitError with the unit's log."""
    since = time.time()
    try:
        done = systemctl(verb, unit, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UnitError(f"`systemctl {verb} {unit}` took longer than {timeout:.0f} s. {tail(unit, since)}") from None
    if done.returncode:
        raise UnitError(tail(unit, since) or done.stderr.strip())


def tail(unit: str, since: float) -> str:
    """Return the last lines that a unit logged since a time (seconds since the epoch), with JSON lines' messages."""
    return "\n".join(_last(_journal(unit, since, "--output=cat", "--lines=1000")))


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a unit ended: systemd's result (`exit-code`, `oom-kill` …; empty for success), and its last log lines."""

    result: str
    log: str


def ending(unit: str, since: float) -> Ending:
    """Return how a unit ended since a time, from the journal, because systemd may have unloaded the unit already."""
    entries = []
    for line in _journal(unit, since, "--output=json", "--lines=1000"):
        with contextlib.suppress(untrusted.UntrustedError):
            entries.append(untrusted.parse_object(line))
    # an application can set any field without a leading underscore, so check _PID
    results = [untrusted.text(one.get("UNIT_RESULT")) for one in entries if one.get("_PID") == "1"]
    logged = [
        line for one in entries if one.get("_PID") != "1" for line in journal_text(one.get("MESSAGE")).splitlines()
    ]
    return Ending(next((one for one in reversed(results) if one), ""), "\n".join(_last(logged)))


def ends(units: Sequence[str], since: float) -> dict[str, tuple[str, float]]:
    """Return how and when units ended since a time (seconds since the epoch): result as in `Ending`, and the time.

    From systemd's messages in the journal, because systemd unloads an instance as soon as it has ended successfully.
    """
    found: dict[str, tuple[str, float]] = {}
    for unit, message, result, at in _messages(units, since):
        if result or message in (STOPPED, SUCCEEDED):
            found[unit] = (result or found.get(unit, ("", 0.0))[0], at)
    return found


def last_run(unit: str, *, running: bool) -> tuple[str, float]:
    """Return how and when a command's last run ended, from the journal: also after a reboot. Empty and 0 if unknown.

    The result is `success`, as in `Ending`, or `interrupted` by a crash of the host, with the time of the start.
    `running`: whether the command runs now, which isn't its last run.
    """
    ended, begun = ("", 0.0), 0.0
    for _, message, result, at in _messages([unit], 0, "--lines=100"):
        if message == STARTING:
            ended, begun = (("interrupted", begun) if begun else ended), at
        elif result or message == SUCCEEDED:
            ended, begun = (result or "success", at), 0.0
    return ("interrupted", begun) if begun and not running else ended


def _messages(units: Sequence[str], since: float, *options: str) -> Iterator[tuple[str, str, str, float]]:
    """Yield systemd's messages about units: the unit, the MESSAGE_ID, systemd's result if it ended, and the time."""
    fields = "UNIT,UNIT_RESULT,MESSAGE_ID"
    asking = ("--output=json", f"--output-fields={fields}", *options, "_PID=1", *(f"UNIT={unit}" for unit in units))
    for line in _journal(None, since, *asking):
        with contextlib.suppress(untrusted.UntrustedError, ValueError):
            entry = untrusted.parse_object(line)
            unit, message, result, at = (
                untrusted.text(entry.get(key)) for key in ("UNIT", "MESSAGE_ID", "UNIT_RESULT", "__REALTIME_TIMESTAMP")
            )
            yield unit, message, result, int(at) / 1e6


def first_match(unit: str, since: float, pattern: str) -> str:
    """Return the first line that a unit logged since a time and that matches a regular expression; empty if none."""
    return next(map(_plain, _journal(unit, since, "--output=cat", f"--grep={pattern}")), "")[:LONGEST]


def _journal(unit: str | None, since: float, *options: str) -> list[str]:
    """Return the journal's lines since a time, of a unit or by options, including messages that are still pending."""
    # journald may process a unit's messages after systemd reports its end; a unit that logs continuously could block
    # the sync forever
    with contextlib.suppress(subprocess.TimeoutExpired):
        _run("journalctl", "--sync", timeout=SYNC_LIMIT)
    of_unit = matches(unit) if unit else []
    words = ("journalctl", *of_unit, f"--since=@{since:.3f}", "--no-pager", *options)
    try:
        output = _run(*words, timeout=READING_LIMIT).stdout
    except subprocess.TimeoutExpired as error:
        output = str(error.output)
    return output.splitlines()


def matches(*units: str) -> list[str]:
    """Return journalctl matches for messages of units' processes, and of root's processes about the units.

    journalctl's own `--unit` matches fewer: if a program can't be executed (systemd.exec(5)), systemd's child logs the
    reason, and has often ended before journald can determine its unit.
    """
    words = [f"_SYSTEMD_UNIT={unit}" for unit in units]
    for field in _OF_UNIT:
        words += ["+", "_UID=0", *(f"{field}={unit}" for unit in units)]
    return words


def logged(names: Sequence[str]) -> list[str]:
    """Return these names, and the journal's units that match them as patterns with `*`, which `matches` doesn't take.

    Units recorded by the kernel come first, as anyone can write the field UNIT.
    """
    found = [*names]
    for field in ("_SYSTEMD_UNIT", "UNIT"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            known = _run("journalctl", f"--field={field}", timeout=READING_LIMIT).stdout.split()
            short = [unit for unit in known if len(unit) <= LONGEST_NAME]
            found += [unit for unit in short if any(fnmatch.fnmatchcase(unit, name) for name in names)]
    return list(dict.fromkeys(found))[:MOST_UNITS]


def journal_text(message: Any) -> str:
    """Return a field of the journal's JSON as text: it may be a list of bytes (not UTF-8) or of several values."""
    if not isinstance(message, list):
        return untrusted.text(message, longest=untrusted.SIZE)
    if all(isinstance(one, int) and 0 <= one < 256 for one in message):
        return bytes(message).decode(errors="replace")
    return "\n".join(journal_text(one) for one in message if one is not None)


def _plain(line: str) -> str:
    """Return a JSON log line's message and exception, or the line itself."""
    if line.startswith("{"):
        with contextlib.suppress(untrusted.UntrustedError):
            entry = untrusted.parse_object(line)
            return "\n".join(untrusted.text(entry[key]) for key in ("message", "exception") if entry.get(key))
    return line


# a line of the access log, in both formats of handover_log_format
_ACCESS = re.compile(
    r'\{.*"logger": ?"access"|\S+Z \[\d+\] \[info\] \S+ \S+ \S+ (HTTP|websocket)\S* \S+ \S+B \S+ms ', re.IGNORECASE
)


def _last(logged: Sequence[str]) -> list[str]:
    """Return the last lines of an application's log, without its access log, which mostly has Baton's requests."""
    plain = [_plain(line) for line in logged if not _ACCESS.match(line)]
    return [line[:LONGEST] for line in "\n".join(plain).splitlines() if line.strip()][-LAST_LINES:]
