"""The few words that Baton exchanges with systemd and its journal."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from . import bounded, untrusted
from .command import LONGEST

# bytes that are kept of what systemctl or journalctl says: a line of a journal may be hundreds of megabytes long
MOST = 2**22
# seconds to read a journal: a unit that never stops talking has no last line
READING_LIMIT = 60.0
# systemd's MESSAGE_IDs: a unit has stopped; it has ended well (sd-messages.h)
STOPPED, SUCCEEDED = "9d1aaa27d60140bd96365438aad20286", "7ad2d189f7e94e70a38c781354912448"
# the fields in which systemd, and others of root's, name the unit that they speak of (systemd.journal-fields(7))
_OF_UNIT = ("UNIT", "OBJECT_SYSTEMD_UNIT", "COREDUMP_UNIT")
# units that one question to the journal names, and characters of a unit's name (systemd.unit(5)): they are the words of
# a command
MOST_UNITS, LONGEST_NAME = 1000, 255
# seconds for journald to take in what was said to it
SYNC_LIMIT = 5.0


class UnitError(Exception):
    """A unit didn't do what it was told; the message holds the last lines that it logged."""


def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run systemctl; `timeout` in seconds bounds the call, not the unit's own job, which goes on."""
    return _ask("systemctl", *arguments, timeout=timeout)


def _ask(*words: str, timeout: float) -> subprocess.CompletedProcess[str]:
    done = bounded.run(words, timeout=timeout, output=MOST)
    # an application may log any bytes
    said, complained = (part.decode(errors="replace") for part in (done.output, done.errors))
    if done.status is None:
        raise subprocess.TimeoutExpired(words, timeout, said)
    return subprocess.CompletedProcess(words, done.status, said, complained)


def properties(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, all of them or those named."""
    wanted = [f"--property={','.join(names)}"] if names else []
    return _properties(systemctl("show", unit, *wanted).stdout)


def properties_of_all(*patterns: str, names: Sequence[str], options: Sequence[str] = ()) -> list[dict[str, str]]:
    """The named properties of each unit in systemd's memory whose name matches one of the patterns."""
    shown = systemctl("show", *patterns, "--all", f"--property={','.join(names)}", *options).stdout
    return [found for block in shown.split("\n\n") if (found := _properties(block))]


def _properties(shown: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def is_active(unit: str) -> bool:
    """Whether the unit serves: active, or reloading."""
    return properties(unit, "ActiveState").get("ActiveState") in ("active", "reloading")


def leave_login(scope: str) -> None:
    """Move this process from the login session that it belongs to into a scope of its own.

    logind may be set to kill a session's processes when it ends, as it does when a connection breaks. Does nothing
    where there is no systemd.
    """
    pid = str(os.getpid())
    call = ["busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
    call += ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail"]
    call += ["1", "PIDs", "au", "1", pid, "0"]
    with contextlib.suppress(OSError):
        done = subprocess.run(call, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        # the call only puts the job into systemd's queue
        while done.returncode == 0 and scope not in _cgroup() and time.monotonic() < deadline:
            time.sleep(0.01)


def _cgroup() -> str:
    return pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8")


def change(verb: str, unit: str, timeout: float) -> None:
    """Start, stop, reload or restart a unit and wait for it. Raises UnitError with what it logged meanwhile."""
    since = time.time()
    try:
        done = systemctl(verb, unit, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UnitError(f"`systemctl {verb} {unit}` took longer than {timeout:.0f} s. {tail(unit, since)}") from None
    if done.returncode:
        raise UnitError(tail(unit, since) or done.stderr.strip())


def tail(unit: str, since: float, lines: int = 25) -> str:
    """The last lines that a unit logged since a time (seconds since the epoch), errors first where they are JSON."""
    return "\n".join(_last(_journal(unit, since, "--output=cat", "--lines=1000"), lines))


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a unit ended: systemd's word for it (`exit-code`, `oom-kill` …; empty for a good end), and its last lines."""

    result: str
    log: str


def ending(unit: str, since: float, lines: int = 25) -> Ending:
    """How a unit ended after a time, from the journal: it remembers when systemd has already forgotten the unit."""
    entries = []
    for line in _journal(unit, since, "--output=json", "--lines=1000"):
        with contextlib.suppress(untrusted.UntrustedError):
            entries.append(untrusted.parse_object(line))
    # an application may write any field that begins with no underscore
    results = [untrusted.text(one.get("UNIT_RESULT")) for one in entries if one.get("_PID") == "1"]
    said = [line for one in entries if one.get("_PID") != "1" for line in journal_text(one.get("MESSAGE")).splitlines()]
    return Ending(next((one for one in reversed(results) if one), ""), "\n".join(_last(said, lines)))


def ends(units: Sequence[str], since: float) -> dict[str, tuple[str, float]]:
    """How and when units ended after a time (seconds since the epoch): systemd's word, as in `Ending`, and the time.

    By the journal, where systemd alone says so: it forgets an instance as soon as that has ended well.
    """
    found: dict[str, tuple[str, float]] = {}
    fields = "UNIT,UNIT_RESULT,MESSAGE_ID"
    asking = ("--output=json", f"--output-fields={fields}", "_PID=1", *(f"UNIT={unit}" for unit in units))
    for line in _journal(None, since, *asking):
        with contextlib.suppress(untrusted.UntrustedError, ValueError):
            entry = untrusted.parse_object(line)
            unit, result = untrusted.text(entry.get("UNIT")), untrusted.text(entry.get("UNIT_RESULT"))
            if result or entry.get("MESSAGE_ID") in (STOPPED, SUCCEEDED):
                at = int(untrusted.text(entry.get("__REALTIME_TIMESTAMP"))) / 1e6
                found[unit] = (result or found.get(unit, ("", 0.0))[0], at)
    return found


def said(unit: str, since: float, pattern: str) -> str:
    """The first line that a unit logged since a time and that matches a regular expression; empty for none."""
    return next(map(_plain, _journal(unit, since, "--output=cat", f"--grep={pattern}")), "")[:LONGEST]


def _journal(unit: str | None, since: float, *asking: str) -> list[str]:
    """What the journal holds since a time, of a unit or as asked, with all that was said before the question."""
    # journald reads what is said to it later than systemd tells of a unit's end; a unit that never stops talking could
    # hold it up for ever
    with contextlib.suppress(subprocess.TimeoutExpired):
        _ask("journalctl", "--sync", timeout=SYNC_LIMIT)
    of_unit = matches(unit) if unit else []
    asked = ("journalctl", *of_unit, f"--since=@{since:.3f}", "--no-pager", *asking)
    try:
        said = _ask(*asked, timeout=READING_LIMIT).stdout
    except subprocess.TimeoutExpired as error:
        said = str(error.output)
    return said.splitlines()


def matches(*units: str) -> list[str]:
    """What units' processes said, and what root's said of them, as journalctl takes it.

    Its own `--unit` takes fewer of the latter: of a program that can't be executed (systemd.exec(5)) systemd's own
    child says why, which is often gone, and with it the unit that it was of, before journald looks.
    """
    words = [f"_SYSTEMD_UNIT={unit}" for unit in units]
    for field in _OF_UNIT:
        words += ["+", "_UID=0", *(f"{field}={unit}" for unit in units)]
    return words


def logged(names: Sequence[str]) -> list[str]:
    """The units that the journal knows by these names, which may have a `*`, after the names themselves.

    `matches` takes no patterns. Those that the kernel has named come first: the other field is anybody's to write.
    """
    found = [*names]
    for field in ("_SYSTEMD_UNIT", "UNIT"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            known = _ask("journalctl", f"--field={field}", timeout=READING_LIMIT).stdout.split()
            short = [unit for unit in known if len(unit) <= LONGEST_NAME]
            found += [unit for unit in short if any(fnmatch.fnmatchcase(unit, name) for name in names)]
    return list(dict.fromkeys(found))[:MOST_UNITS]


def journal_text(message: Any) -> str:
    """A field of the journal's JSON: a list of bytes where they are no UTF-8, and of values where it has many."""
    if not isinstance(message, list):
        return untrusted.text(message, longest=untrusted.SIZE)
    if all(isinstance(one, int) and 0 <= one < 256 for one in message):
        return bytes(message).decode(errors="replace")
    return "\n".join(journal_text(one) for one in message if one is not None)


def _plain(line: str) -> str:
    """The message of a JSON log line with its exception, or the line itself."""
    if line.startswith("{"):
        with contextlib.suppress(untrusted.UntrustedError):
            entry = untrusted.parse_object(line)
            return "\n".join(untrusted.text(entry[key]) for key in ("message", "exception") if entry.get(key))
    return line


# a line of the access log, in either form of handover_log_format
_ACCESS = re.compile(
    r'\{.*"logger": ?"access"|\S+Z \[\d+\] \[info\] \S+ \S+ \S+ (HTTP|websocket)\S* \S+ \S+B \S+ms ', re.IGNORECASE
)


def _last(said: Sequence[str], lines: int) -> list[str]:
    """The last of what an application said, without the requests that it was asked, which are often our own."""
    words = [_plain(line) for line in said if not _ACCESS.match(line)]
    return [line[:LONGEST] for line in "\n".join(words).splitlines() if line.strip()][-lines:]
