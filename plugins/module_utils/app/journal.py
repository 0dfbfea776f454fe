"""Read an application's log entries from a host's journal, and format them."""

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
LONGEST = 2**20  # bytes of a journal entry; longer ones are skipped
_PRIORITIES = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")
# keys of a JSON line that are shown, besides level and message
_SHOWN = ("method", "path", "status", "duration_ms", "request_id", "exception", "stack")
# `time [pid] [level] message`, the format of app_service_log_format: text
_TEXT = re.compile(r"^\S+Z \[\d+\] \[(\w+)\] ")


class JournalError(Exception):
    """The journal can't be read. The message has cause and fix."""


def command(app: layout.Application, position: str, grep: str = "", process: str = "") -> list[str]:
    """Return the journalctl command. `position`: a time for journalctl, or a cursor to continue after.

    `process`: a process type; empty for all units of the application. Raises JournalError.
    """
    start = f"--after-cursor={position}" if position.startswith("s=") else f"--since={position}"
    asked = ["journalctl", "--no-pager", "--quiet", "--all", "--output=json", "--output-fields=MESSAGE,PRIORITY", start]
    # end now: a process that logs continuously must not keep this from ending
    begins = float(position[1:]) if position.startswith("@") else 0.0  # later than now if clocks differ
    asked.append(f"--until=@{max(time.time(), begins + 1):.6f}")
    asked += [f"--grep={grep}"] if grep else []
    # by unit, which comes from the kernel; any process can use any identifier
    units = [unit.replace("@.", "@*.") for unit in _units(app, process) if unit.endswith(".service")]
    return [*asked, *systemd.matches(*systemd.logged(units))]


def _units(app: layout.Application, process: str) -> Sequence[str]:
    try:
        if not process:
            return app.unit_files
        known: dict[str, tuple[str, ...]] = {}
        for one in app.processes:  # a removed type may have the name of a schedule, and vice versa
            known[one.name] = (*known.get(one.name, ()), *one.running, *one.templates)
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
    """Return the newest entries since a position, the oldest first, and the position after them. Raises JournalError.

    `mask`: applied to each text.
    """
    now = f"@{time.time():.6f}"
    kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=lines)
    last = ""
    asked, pipe = command(app, position, grep, process), subprocess.PIPE
    with subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as journal:
        output, errors = cast(IO[bytes], journal.stdout), cast(IO[bytes], journal.stderr)  # both are pipes
        for line in _lines(output):
            try:
                found = untrusted.parse_object(line)
            except untrusted.UntrustedError:
                continue
            last = untrusted.text(found.get("__CURSOR")) or last
            parsed = entry(found)
            if LEVELS.index(parsed["level"]) >= LEVELS.index(level):
                kept.append(parsed)
        words = errors.read().decode(errors="replace").strip()
    # status 1 without a message: nothing matched
    if journal.returncode and words:
        raise JournalError(f"The journal can't be read: {words}. `grep` is a Perl-compatible regular expression.")
    masked = [{key: mask(one) if isinstance(one, str) else one for key, one in item.items()} for item in kept]
    return masked, last or (position if position.startswith("s=") else now)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream, except those that are too long."""
    whole = True
    while line := stream.readline(LONGEST):
        ends = line.endswith(b"\n")
        if whole and ends:
            yield line
        whole = ends


def entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a journal entry: time (seconds since the epoch), level, message, and selected keys of a JSON line."""
    message = untrusted.text(systemd.journal_text(found.get("MESSAGE")))
    priority = untrusted.text(found.get("PRIORITY"))
    level = _PRIORITIES[int(priority) if re.fullmatch("[0-7]", priority) else 6]
    stamp = untrusted.text(found.get("__REALTIME_TIMESTAMP"))
    moment = int(stamp) / 1e6 if re.fullmatch("[0-9]{1,18}", stamp) else 0.0
    result: dict[str, Any] = {"time": moment, "level": level, "message": message}
    if message.startswith("{"):
        try:
            parsed = untrusted.parse_object(message)
        except untrusted.UntrustedError:
            return result
        result |= {key: _scalar(parsed[key]) for key in _SHOWN if parsed.get(key) not in (None, "")}
        result["message"] = _scalar(parsed.get("message", ""))
        result["level"] = untrusted.text(parsed.get("level"))
    elif text := _TEXT.match(message):
        result["level"] = text[1]
        result["message"] = message[text.end() :]
    result["level"] = result["level"] if result["level"] in LEVELS else level
    return result


def _scalar(value: Any) -> str | int | float:
    """Return strings and numbers unchanged, anything else as JSON."""
    return value if _is_scalar(value) else json.dumps(value, ensure_ascii=False)


def formatted(found: Mapping[str, Any]) -> str:
    """Format an entry: time (UTC), level, message or request, request id; an exception on the lines below."""
    texts = {key: str(value) for key, value in found.items() if _is_scalar(value)}
    words = [texts["message"]] if texts.get("message") else []
    if "status" in texts and "path" in texts:
        words += [texts.get("method", ""), texts["path"], texts["status"]]
        words += [f"{texts['duration_ms']} ms"] if "duration_ms" in texts else []
    if texts.get("request_id"):
        words.append(f"[{texts['request_id']}]")
    below = [texts[key] for key in ("exception", "stack") if texts.get(key)]
    text = printable("\n".join([" ".join(words), *below])).replace("\n", "\n    ")
    level = texts["level"] if texts.get("level") in LEVELS else "info"
    return f"{utc(untrusted.moment(found.get('time')))} {level:<8} {text}".rstrip()


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def utc(moment: float) -> str:
    """Format a time (seconds since the epoch) in UTC."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def prefixed(host: str, entries: Iterable[Mapping[str, Any]], width: int = 0) -> Iterator[tuple[float, str]]:
    """Yield a host's entries: the time, and the line with the host's name as prefix."""
    for found in entries:
        if isinstance(found, Mapping):
            yield untrusted.moment(found.get("time")), f"{host:<{width}} | {formatted(found)}"


def merged(found: Mapping[str, Sequence[Mapping[str, Any]]], lines: int) -> str:
    """Format the newest entries of all hosts by time. `found`: each host's entries."""
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
    """Return the start for `read`: a time, or the position that a host returned before. Raises JournalError."""
    return words if words.startswith("s=") else f"@{moment(words):.6f}"


def moment(words: str, now: datetime.datetime | None = None) -> float:
    """Parse a time into seconds since the epoch; in the controller's time zone, unless it names one.

    The controller parses it, so that all hosts get the same time regardless of their zones. Raises JournalError.
    """
    zone = now.tzinfo if now else None  # None: the system's zone, whose offset on that day may differ from now's
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
        f'since is "{printable(words)}", which is not a time. Write a time such as "10 min ago", "today", "12:30", '
        f'"2026-01-31 12:00" (in your own time zone, {now.tzname()}) or "2026-01-31 12:00 UTC".'
    )
