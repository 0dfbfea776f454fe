"""What an application logged, read from a host's journal and written for people."""

from __future__ import annotations

import collections
import datetime
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, cast

from ..host import systemd, untrusted
from ..host.untrusted import printable
from . import layout

LEVELS = ("debug", "info", "warning", "error", "critical")
LONGEST = 2**20  # bytes of an entry of the journal; a longer one is left out
_PRIORITIES = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")
# what is shown of a JSON line besides its level and message
_SHOWN = ("method", "path", "status", "duration_ms", "request_id", "exception", "stack")
# `time [pid] [level] message`, as app_service_log_format: text writes it
_TEXT = re.compile(r"^\S+Z \[\d+\] \[(\w+)\] ")


class JournalError(Exception):
    """The journal can't be read so. The message says why, with the fix."""


def command(app: layout.Application, position: str, grep: str = "", process: str = "") -> list[str]:
    """How to ask the journal: `position` is a time as journalctl takes it, or a cursor to read on after.

    `process`: the one type whose lines are wanted; empty for all that the application's units wrote. Raises
    JournalError.
    """
    start = f"--after-cursor={position}" if position.startswith("s=") else f"--since={position}"
    asked = ["journalctl", "--no-pager", "--quiet", "--all", "--output=json", "--output-fields=MESSAGE,PRIORITY", start]
    # what is said meanwhile is for the next time: who talks without end must not be listened to without end
    begins = float(position[1:]) if position.startswith("@") else 0.0  # later than now where clocks differ
    asked.append(f"--until=@{max(time.time(), begins + 1):.6f}")
    asked += [f"--grep={grep}"] if grep else []
    # who wrote a line is its unit, which the kernel knows; an identifier anybody may use
    units = [unit.replace("@.", "@*.") for unit in _units(app, process) if unit.endswith(".service")]
    return [*asked, *systemd.matches(*systemd.logged(units))]


def _units(app: layout.Application, process: str) -> Sequence[str]:
    try:
        if not process:
            return app.unit_files
        known = {one.name: (*one.running, *one.templates) for one in app.processes}
    except layout.ActivationError as error:
        raise JournalError(str(error)) from None
    if process not in known:
        raise JournalError(
            f"{app.name} has no process type {printable(process)} on this host. Give one of: {', '.join(known)}."
        )
    return known[process]


def read(
    app: layout.Application,
    position: str,
    lines: int,
    grep: str = "",
    level: str = "debug",
    process: str = "",
    mask: Callable[[str], str] = lambda text: text,
) -> tuple[list[dict[str, Any]], str]:
    """The newest entries since a position, the oldest first, and the position after them. Raises JournalError.

    `mask` is given each text that is returned.
    """
    now = f"@{time.time():.6f}"
    kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=lines)
    last = ""
    asked, pipe = command(app, position, grep, process), subprocess.PIPE
    with subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as journal:
        output, errors = cast(IO[bytes], journal.stdout), cast(IO[bytes], journal.stderr)  # there are pipes
        for line in _lines(output):
            try:
                found = untrusted.parse_object(line)
            except untrusted.UntrustedError:
                continue
            last = untrusted.text(found.get("__CURSOR")) or last
            said = entry(found)
            if LEVELS.index(said["level"]) >= LEVELS.index(level):
                kept.append(said)
        words = errors.read().decode(errors="replace").strip()
    # 1 with no words: nothing matched
    if journal.returncode and words:
        raise JournalError(f"The journal can't be read: {words}. `grep` is a Perl-compatible regular expression.")
    masked = [{key: mask(one) if isinstance(one, str) else one for key, one in said.items()} for said in kept]
    return masked, last or (position if position.startswith("s=") else now)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without those that are too long."""
    whole = True
    while line := stream.readline(LONGEST):
        ends = line.endswith(b"\n")
        if whole and ends:
            yield line
        whole = ends


def entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the journal: time (seconds since the epoch), level, message, and what is shown of a JSON line."""
    message = untrusted.text(systemd.journal_text(found.get("MESSAGE")))
    priority = untrusted.text(found.get("PRIORITY"))
    level = _PRIORITIES[int(priority) if re.fullmatch("[0-7]", priority) else 6]
    stamp = untrusted.text(found.get("__REALTIME_TIMESTAMP"))
    moment = int(stamp) / 1e6 if re.fullmatch("[0-9]{1,18}", stamp) else 0.0
    said: dict[str, Any] = {"time": moment, "level": level, "message": message}
    if message.startswith("{"):
        try:
            parsed = untrusted.parse_object(message)
        except untrusted.UntrustedError:
            return said
        said |= {key: _said(parsed[key]) for key in _SHOWN if parsed.get(key) not in (None, "")}
        said["message"] = _said(parsed.get("message", ""))
        said["level"] = untrusted.text(parsed.get("level"))
    elif text := _TEXT.match(message):
        said["level"] = text[1]
        said["message"] = message[text.end() :]
    said["level"] = said["level"] if said["level"] in LEVELS else level
    return said


def _said(value: Any) -> str | int | float:
    """A text or a number as it is, anything else as JSON."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, ensure_ascii=False)


def written(said: Mapping[str, Any]) -> str:
    """An entry for people: time (UTC), level, message or request, request id; an exception below it."""
    told = {key: str(value) for key, value in said.items() if _is_told(value)}
    words = [told["message"]] if told.get("message") else []
    if "status" in told and "path" in told:
        words += [told.get("method", ""), told["path"], told["status"]]
        words += [f"{told['duration_ms']} ms"] if "duration_ms" in told else []
    if told.get("request_id"):
        words.append(f"[{told['request_id']}]")
    below = [told[key] for key in ("exception", "stack") if told.get(key)]
    text = printable("\n".join([" ".join(words), *below])).replace("\n", "\n    ")
    level = told["level"] if told.get("level") in LEVELS else "info"
    return f"{utc(untrusted.moment(said.get('time')))} {level:<8} {text}".rstrip()


def _is_told(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def utc(moment: float) -> str:
    """A time for people, with its zone."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def prefixed(host: str, entries: Iterable[Mapping[str, Any]], width: int = 0) -> Iterator[tuple[float, str]]:
    """A host's entries, each with its time and the host's name before it."""
    for said in entries:
        if isinstance(said, Mapping):
            yield untrusted.moment(said.get("time")), f"{host:<{width}} | {written(said)}"


def merged(found: Mapping[str, Sequence[Mapping[str, Any]]], lines: int) -> str:
    """The newest entries of all hosts in the order of their time; `found` is each host's entries."""
    width = max(map(len, found), default=0)
    every = [line for host, entries in found.items() for line in prefixed(host, untrusted.objects(entries), width)]
    return "\n".join(text for _, text in sorted(every, key=lambda line: line[0])[-lines:])


_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 604800),
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_CLOCK = re.compile(r"(?:(\d{4}-\d\d-\d\d)[ T]?)?(?:(\d\d?):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?")


def start(words: str) -> str:
    """Where each host is to begin to read: a moment, or the position that it returned before. Raises JournalError."""
    return words if words.startswith("s=") else f"@{moment(words):.6f}"


def moment(words: str, now: datetime.datetime | None = None) -> float:
    """The time that an operator means, in seconds since the epoch: in the operator's own time zone, unless it says one.

    Every host is then given the same moment, whatever its own zone. Raises JournalError.
    """
    zone = now.tzinfo if now else None  # None: the system's, whose offset that day may be another than now's
    now = now or datetime.datetime.now().astimezone()
    asked = " ".join(words.split())
    try:
        if re.fullmatch(r"@\d{1,12}(\.\d+)?", asked):
            return float(asked[1:])
        if (day := {"today": 0, "yesterday": 1}.get(asked)) is not None:
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
            return (midnight - datetime.timedelta(days=day)).replace(tzinfo=zone).timestamp()
        if asked == "now":
            return now.timestamp()
        span = asked.removeprefix("-").removesuffix(" ago").strip()
        if span != asked and _SPAN.sub("", span) == "" and span:
            return now.timestamp() - sum(float(count) * _UNITS[unit] for count, unit in _SPAN.findall(span))
        if (found := _CLOCK.fullmatch(asked)) and (found[1] or found[2]):
            day_of = datetime.date.fromisoformat(found[1]) if found[1] else now.date()
            hour, minute, second = (int(part or 0) for part in found.group(2, 3, 4))
            plain = datetime.datetime.combine(day_of, datetime.time(hour, minute, second))
            if not found[5]:
                return plain.replace(tzinfo=zone).timestamp()
            offset = "+00:00" if found[5] in ("Z", "UTC") else found[5]
            return datetime.datetime.fromisoformat(f"{plain.isoformat()}{offset}").timestamp()
    except (ValueError, OverflowError, KeyError):
        pass
    raise JournalError(
        f'since is "{printable(words)}", which is not a time. Write one such as "10 min ago", "today", "12:30", '
        f'"2026-01-31 12:00" (in your own time zone, {now.tzname()}) or "2026-01-31 12:00 UTC".'
    )
