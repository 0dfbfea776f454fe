"""Read time windows of an edge's access log (nginx, format `baton_json`).

nginx writes a line when the request ends, at the time `msec`; its workers write concurrently, so the lines are only
almost in order. A large log is searched by bisection, not read from its beginning.

The latency of a request is the time that its client waited for the first byte of the response because of the
application: for each upstream server, `upstream_header_time` or, if there was no header, the time until nginx gave up
or the client disconnected. `request_time` would include slow clients, large downloads and event streams, which last
for hours. A WebSocket (101) has no latency here.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import itertools
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from ..host import untrusted
from . import histogram

SLACK = 5.0  # seconds by which lines may be out of order
CHUNK = 256 * 1024  # bytes at which the bisection ends; the rest is read
LONGEST = 1024 * 1024  # bytes of a line; nginx writes no longer ones
POINTS = 900  # maximum of a timeline
MAX_FAILING = 1000  # pairs of status and path that are counted
CHECK_AGENT = "baton-check"  # user agent of Baton's own requests
SWITCHED, CLIENT_CLOSED, UNAVAILABLE = 101, 499, 503
_TIME = re.compile(rb'"msec":(\d+(?:\.\d+)?)[,}]')
_BETWEEN = re.compile(r", | : ")  # separators of servers tried in turn, and of internal redirects
_SERVER = re.compile(r"[:,]")  # occurs in servers' addresses and between them, but not in an upstream's name


class Attempt(NamedTuple):
    """One upstream server that nginx passed a request to."""

    address: str
    status: int  # 0 if it didn't respond
    wait: int | None  # ms


class Entry(NamedTuple):
    """A line of the log."""

    ended: float
    began: float
    answered: float  # time of the response's first byte
    status: int
    path: str
    is_check: bool
    attempts: tuple[Attempt, ...]
    is_surplus: bool = False  # beyond the servers' limit of concurrent requests; the edge answered it with 503


@dataclasses.dataclass(frozen=True)
class Window:
    """A span of time in seconds since the epoch, including `since` and excluding `until`."""

    since: float
    until: float

    def __contains__(self, moment: float) -> bool:
        return self.since <= moment < self.until


def parse(line: bytes) -> Entry | None:
    """Parse a line; None if it isn't one of nginx's."""
    try:
        # a path or a user agent may contain any bytes
        raw = untrusted.parse_object(line, LONGEST)
        # if all servers are at their limit, nginx logs the upstream's name instead of a server
        is_surplus = raw["status"] == UNAVAILABLE and bool(raw["upstream"]) and not _SERVER.search(raw["upstream"])
        addresses, statuses, headers, responses = (
            _BETWEEN.split(raw[key]) if raw[key] and not is_surplus else []
            for key in ("upstream", "upstream_status", "upstream_header_time", "upstream_response_time")
        )
        ended = float(raw["msec"])
        attempts = []
        body = 0
        for address, status, header, response in itertools.zip_longest(addresses, statuses, headers, responses):
            if address is None:
                break
            first, last = _milliseconds(header), _milliseconds(response)
            attempts.append(
                Attempt(address, int(status) if str(status).isdigit() else 0, last if first is None else first)
            )
            body = 0 if first is None or last is None else max(0, last - first)
        return Entry(
            ended=ended,
            began=ended - float(raw["request_time"]),
            answered=ended - body / 1000,
            status=int(raw["status"]),
            path=str(raw["path"]),
            is_check=str(raw["user_agent"]).startswith(CHECK_AGENT) and raw["client"] in ("127.0.0.1", "::1"),
            attempts=tuple(attempts),
            is_surplus=is_surplus,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _milliseconds(seconds: str | None) -> int | None:
    try:
        return round(float(seconds or "") * 1000)
    except (ValueError, OverflowError):
        return None


class Tally:
    """Counts of requests; with `upstreams`, only of those passed to these servers, and only their attempts."""

    def __init__(self, upstreams: Collection[str] = ()) -> None:
        self.upstreams = frozenset(upstreams)
        self.counts: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.histogram: collections.Counter[int] = collections.Counter()
        self.failing: collections.Counter[tuple[int, str]] = collections.Counter()
        self.max_ms: int | None = None

    @property
    def requests(self) -> int:
        """The number of requests that reached the application, or should have."""
        return self.counts["requests"]

    def add(self, entry: Entry, latency: bool = True) -> bool:
        """Count a request. Returns whether it is the application's, and of these servers."""
        if entry.is_surplus:
            # the edge rejected it, so it says nothing about a release or a server
            self.counts["surplus"] += 1
            return False
        asked = self._asked(entry)
        if not asked and (self.upstreams or entry.status < 500):
            # redirects to HTTPS and other responses of nginx itself
            self.counts["by_edge"] += not entry.attempts
            return False
        self.counts["requests"] += 1
        self.statuses[entry.status] += 1
        self.counts["client_closed"] += entry.status == CLIENT_CLOSED
        self.counts["websockets"] += entry.status == SWITCHED
        failed = [one for one in asked if one.status >= 500]
        if entry.status >= 500 and (failed or not self.upstreams or asked[-1] is entry.attempts[-1]):
            self.counts["failures"] += 1
            self._count_failing(entry.status, entry.path)
        elif entry.status < 500 and failed:
            self.counts["rescued"] += 1
            self._count_failing(failed[0].status, entry.path)
        if latency:
            self.time(entry)
        return True

    def time(self, entry: Entry) -> None:
        """Count only a request's latency."""
        waits = [one.wait for one in self._asked(entry) if one.wait is not None]
        if waits and entry.status != SWITCHED:
            wait = sum(waits)
            self.histogram[histogram.bin_of(wait)] += 1
            self.max_ms = max(wait, self.max_ms or 0)

    def _asked(self, entry: Entry) -> Sequence[Attempt]:
        if not self.upstreams:
            return entry.attempts
        return [one for one in entry.attempts if one.address in self.upstreams]

    def _count_failing(self, status: int, path: str) -> None:
        if (status, path) in self.failing or len(self.failing) < MAX_FAILING:
            self.failing[status, path] += 1

    def result(self) -> dict[str, Any]:
        """Return the counts, as in edge_log_info's RETURN."""
        names = ("requests", "failures", "rescued", "client_closed", "websockets", "by_edge", "surplus", "checks")
        return {
            **{name: self.counts[name] for name in names},
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "failing": [
                {"status": status, "path": path, "count": count}
                for (status, path), count in self.failing.most_common(5)
            ],
            **histogram.summary(self.histogram, self.max_ms),
            "histogram": {str(name): count for name, count in sorted(self.histogram.items())},
        }


class Log:
    """An access log with its last rotated file, read from a time to the end, and continued in later calls."""

    def __init__(self, path: str, since: float) -> None:
        """Open the log at a time. Raises OSError."""
        self.path = path
        self.skipped = 0  # lines that aren't nginx's
        self._files: list[_File] = []
        current = _File(path)
        self.oldest = current.first()
        if self.oldest is None or self.oldest > since - SLACK:
            with contextlib.suppress(FileNotFoundError):
                before = _File(f"{path}.1")
                if before.inode == current.inode:
                    before.handle.close()
                else:
                    self._files.append(before)
                    self.oldest = before.first() or self.oldest
        self._files.append(current)
        for file in self._files:
            file.seek(since - SLACK)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.handle.close()

    def reaches(self, since: float) -> bool:
        """Whether the log's files cover everything since a time."""
        if self.oldest is not None and self.oldest <= since:
            return True
        read = {file.handle.name for file in self._files}
        return not [name for name in glob.glob(f"{glob.escape(self.path)}.*") if name not in read]

    def entries(self, window: Window) -> Iterator[Entry]:
        """Yield the requests that ended within the window, as far as they haven't been read yet."""
        self._open_new()
        for file in self._files:
            for line in file.lines():
                ended = _time(line)
                if ended is not None and ended >= window.until + SLACK:
                    break
                if ended is not None and ended not in window:
                    continue
                entry = parse(line) if ended is not None else None
                if entry is None:
                    self.skipped += 1
                else:
                    yield entry

    def _open_new(self) -> None:
        """Open the new file after a rotation; nginx may still write to the old one."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino not in {file.inode for file in self._files}:
                self._files.append(_File(self.path))


class _File:
    def __init__(self, path: str) -> None:
        self.handle: BinaryIO = open(path, "rb")  # noqa: SIM115  closed by Log
        self.inode = os.fstat(self.handle.fileno()).st_ino
        self.position = 0

    def first(self) -> float | None:
        """Return the time of the first line that has one."""
        found = self._dated(0, self._size())
        return found[0] if found else None

    def seek(self, since: float) -> None:
        """Move to a position before which all lines are earlier than a time."""
        size = self._size()
        low, high = 0, size
        step = CHUNK
        while step < size:  # the position is mostly near the end
            found = self._dated(size - step, high)
            if found and found[0] < since:
                low = found[1]
                break
            high = size - step
            step *= 4
        while high - low > CHUNK:
            middle = (low + high) // 2
            found = self._dated(middle, high)
            if found and found[0] < since:
                low = found[1]
            else:
                high = middle
        self.position = low

    def lines(self) -> Iterator[bytes]:
        """Yield complete lines from where the last call ended."""
        size = self._size()
        if size < self.position:  # truncated
            self.position = 0
        self.handle.seek(self.position)
        while self.position < size:
            line = self.handle.readline(LONGEST)
            if not line.endswith(b"\n") and len(line) < LONGEST:
                return  # nginx is still writing it
            self.position += len(line)
            yield line

    def _size(self) -> int:
        return os.fstat(self.handle.fileno()).st_size

    def _dated(self, start: int, end: int) -> tuple[float, int] | None:
        """Return time and end of the first line with a time that begins in this range; `start` may be within a line."""
        self.handle.seek(start)
        position = start
        if start:
            position += len(self.handle.readline(LONGEST))
        while position < end and (line := self.handle.readline(LONGEST)):
            position += len(line)
            if (time := _time(line)) is not None:
                return time, position
        return None


def _time(line: bytes) -> float | None:
    found = _TIME.search(line, 0, 200)
    return float(found[1]) if found else None


def summarize(
    path: str, windows: Mapping[str, Window], upstreams: Collection[str] = (), timeline: bool = False
) -> dict[str, Any]:
    """Return the counts of each window, and a timeline of all. Keys as in edge_log_info's RETURN. Raises OSError."""
    tallies = {name: Tally(upstreams) for name in windows}
    complete = dict.fromkeys(windows, True)
    spans = _spans(list(windows.values()))
    step = max(1, math.ceil(sum(span.until - span.since for span in spans) / POINTS))
    points: dict[int, Tally] = {}
    skipped = 0
    for span in spans:
        with Log(path, span.since) as log:
            for entry in log.entries(span):
                for name, window in windows.items():
                    if entry.ended in window:
                        # an event stream's first byte may have been long before
                        _count(tallies[name], entry, latency=entry.answered in window)
                if timeline:
                    _place(points, entry, span, step, upstreams)
            for name, window in windows.items():
                if window.since in span:
                    complete[name] = log.reaches(window.since)
            skipped += log.skipped
    found: dict[str, Any] = {
        "windows": {
            name: {"since": window.since, "until": window.until, "complete": complete[name], **tallies[name].result()}
            for name, window in windows.items()
        },
        "skipped_lines": skipped,
    }
    if timeline:
        kept = ("requests", "failures", "max_ms", "histogram")
        found["timeline"] = {
            "step": step,
            "points": {
                str(second): {key: value for key, value in tally.result().items() if key in kept}
                for second, tally in sorted(points.items())
                if tally.requests or tally.histogram
            },
        }
    return found


def _count(tally: Tally, entry: Entry, latency: bool) -> None:
    if entry.is_check:
        tally.counts["checks"] += 1
    else:
        tally.add(entry, latency)


def _place(points: dict[int, Tally], entry: Entry, span: Window, step: int, upstreams: Collection[str]) -> None:
    """Count a request at the time when it ended, and its latency at the time of its response."""
    if entry.is_check:
        return

    def point(moment: float) -> Tally:
        second = int(moment // step * step)
        if second not in points:
            points[second] = Tally(upstreams)
        return points[second]

    ended, answered = point(entry.ended), point(entry.answered)
    if ended is answered:
        ended.add(entry)
    elif ended.add(entry, latency=False) and entry.answered in span:
        answered.time(entry)


def _spans(windows: Sequence[Window]) -> list[Window]:
    """Return the windows with adjacent and overlapping ones merged."""
    spans: list[Window] = []
    for window in sorted(windows, key=lambda one: one.since):
        if spans and window.since <= spans[-1].until:
            spans[-1] = Window(spans[-1].since, max(spans[-1].until, window.until))
        else:
            spans.append(window)
    return spans
