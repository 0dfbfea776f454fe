"""What an application logged, read from a host's journal and written for people."""

from __future__ import annotations

import collections
import datetime
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import systemd

LEVELS = ("debug", "info", "warning", "error", "critical")
_PRIORITIES = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r(?=\n)")  # and the line ends of Windows
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# `time [pid] [level] message`, as app_service_log_format: text writes it
_TEXT = re.compile(r"^\S+Z \[\d+\] \[(\w+)\] ")


class JournalError(Exception):
    """The journal can't be read so. The message says why, with the fix."""


def command(name: str, position: str, grep: str = "") -> list[str]:
    """How to ask the journal: `position` is a time as journalctl takes it, or a cursor to read on after."""
    start = f"--after-cursor={position}" if position.startswith("s=") else f"--since={position}"
    asked = ["journalctl", "--no-pager", "--quiet", "--all", "--output=json", start]
    asked += [f"--grep={grep}"] if grep else []
    units = [word for unit in ("", "-bridge") for word in ("+", f"UNIT={name}{unit}.service")]
    # what the application's units wrote, and what systemd says of the service
    return [*asked, f"SYSLOG_IDENTIFIER={name}", *units]


def read(
    name: str, position: str, lines: int, grep: str = "", level: str = "debug"
) -> tuple[list[dict[str, Any]], str]:
    """The newest entries since a position, the oldest first, and the position after them. Raises JournalError."""
    now = f"@{time.time():.6f}"
    kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=lines)
    last = ""
    asked, pipe = command(name, position, grep), subprocess.PIPE
    with subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as journal:
        assert journal.stdout is not None
        assert journal.stderr is not None
        for line in journal.stdout:
            found = json.loads(line)
            last = found["__CURSOR"]
            said = entry(found)
            if LEVELS.index(said["level"]) >= LEVELS.index(level):
                kept.append(said)
        words = journal.stderr.read().strip()
    # 1 with no words: nothing matched
    if journal.returncode and words:
        raise JournalError(
            f'The journal can\'t be read: {words}. `since` is a time such as "10 min ago", "today" or '
            '"2026-01-31 12:00", `grep` a Perl-compatible regular expression.'
        )
    return list(kept), last or (position if position.startswith("s=") else now)


def entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the journal: time (seconds since the epoch), level, message, and what a JSON line says besides."""
    message = systemd.journal_text(found.get("MESSAGE"))
    level = _PRIORITIES[int(found.get("PRIORITY") or 6)]
    said: dict[str, Any] = {"time": int(found["__REALTIME_TIMESTAMP"]) / 1e6, "level": level, "message": message}
    if message.startswith("{"):
        try:
            parsed = json.loads(message)
        except ValueError:
            return said
        said |= {key: value for key, value in parsed.items() if key != "time"}
        if "message" not in parsed:
            said["message"] = ""
    elif text := _TEXT.match(message):
        said["level"] = text[1]
        said["message"] = message[text.end() :]
    said["level"] = said["level"] if said["level"] in LEVELS else level
    return said


def printable(text: str) -> str:
    """The text without colours, and with its other control characters spelled out.

    A terminal would do what a client's request or a log says.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", _COLOURS.sub("", text))


def written(said: Mapping[str, Any]) -> str:
    """An entry for people: time (UTC), level, message or request, request id; an exception below it."""
    moment = datetime.datetime.fromtimestamp(said["time"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    words = [said["message"]] if said["message"] else []
    if "status" in said and "path" in said:
        words += [str(said.get("method", "")), str(said["path"]), str(said["status"])]
        words += [f"{said['duration_ms']} ms"] if "duration_ms" in said else []
    if said.get("request_id"):
        words.append(f"[{said['request_id']}]")
    below = [str(said[key]) for key in ("exception", "stack") if said.get(key)]
    text = printable("\n".join([" ".join(words), *below])).replace("\n", "\n    ")
    return f"{moment} {said['level']:<8} {text}".rstrip()


def prefixed(host: str, entries: Iterable[Mapping[str, Any]], width: int = 0) -> Iterator[tuple[float, str]]:
    """A host's entries, each with its time and the host's name before it."""
    for said in entries:
        yield said["time"], f"{host:<{width}} | {written(said)}"


def merged(found: Mapping[str, Sequence[Mapping[str, Any]]], lines: int) -> str:
    """The newest entries of all hosts in the order of their time; `found` is each host's entries."""
    width = max(map(len, found), default=0)
    every = [line for host, entries in found.items() for line in prefixed(host, entries, width)]
    return "\n".join(text for _, text in sorted(every, key=lambda line: line[0])[-lines:])
