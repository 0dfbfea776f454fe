"""Judging a release by how the edge's log says that it serves: while requests come in, against the time before.

A verdict must be right about a bad release within a second, and must not condemn a good one for chance, for what its
site has always done, or because its workers are cold for a moment. So a count has to exceed what is allowed by more
than chance explains, and latency is judged only of requests that began after a while.
"""

from __future__ import annotations

import dataclasses
import http
import http.client
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..app import bounded_http
from . import histogram
from .access_log import CHECK_AGENT, Entry, Log, Tally, Window

POLL = 0.2  # seconds between two looks at the log
CHECK_TIMEOUT = 5.0  # seconds
SURE = 4.0  # standard deviations; a bake is looked at again and again, and each look may err


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is bad."""

    max_failed_percent: float = 1.0  # beyond the share that failed before
    min_failed: int = 3
    max_p99_factor: float = 3.0  # times the p99 before
    p99_floor_ms: float = 200.0  # no p99 below is bad
    min_requests: int = 20  # with fewer the site is quiet
    settle_seconds: float = 2.0  # no request that began sooner counts for the latency


@dataclasses.dataclass(frozen=True)
class Checks:
    """Requests of our own, to the edge itself."""

    address: str  # ADDRESS:PORT
    host: str
    path: str
    count: int


class LimitedError(Exception):
    """The site is asked too often (429)."""

    def __init__(self, wait: float) -> None:
        """`wait`: seconds until it wants to be asked again; 0 when it doesn't say."""
        self.wait = wait
        super().__init__()


@dataclasses.dataclass(frozen=True)
class Named:
    """How a verdict's sentence names the edge and the servers that are judged."""

    edge: str
    servers: Sequence[str]

    @property
    def to(self) -> str:
        """Whom the requests went to."""
        return f" to {' and '.join(self.servers)}" if self.servers else ""


class Judge:
    """Counts the requests of a bake and says what they prove."""

    def __init__(
        self, named: Named, since: float, before: Tally | None, limits: Limits, upstreams: Sequence[str] = ()
    ) -> None:
        self.named = named
        self.since = since
        self.limits = limits
        self.all = Tally(upstreams)
        self.settled = Tally(upstreams)
        self.ours = 0  # of all, those that were active checks
        self.failed_before, self.p99_before = None, None
        if before is not None and before.requests:
            self.failed_before = _failed(before) / before.requests
            self.p99_before = histogram.percentile(before.histogram, 99)

    def add(self, entry: Entry) -> None:
        """Count a request, unless it began before the bake, and was the old release's, or nginx alone answered it."""
        if entry.began < self.since or not entry.attempts:
            return
        if self.all.add(entry):
            self.ours += entry.is_check
        if entry.began >= self.since + self.limits.settle_seconds:
            self.settled.add(entry)

    def failing(self) -> str:
        """That too many requests failed; empty when they didn't."""
        failed, requests = _failed(self.all), self.all.requests
        allowed = (self.failed_before or 0) + self.limits.max_failed_percent / 100
        if failed < self.limits.min_failed or not _beyond(failed, requests, allowed):
            return ""
        (status, path), _ = self.all.failing.most_common(1)[0]
        before = "no earlier requests to compare"
        if self.failed_before is not None:
            before = f"before the deploy {self.failed_before * 100:.1f} %"
        return (
            f"{failed} of {requests} requests{self.named.to} were answered 5xx "
            f"({failed / requests * 100:.1f} %; {before}), most often {status} on {path}"
        )

    def slow(self) -> str:
        """That too many requests were slow; empty when they weren't, or when it isn't known how it was before."""
        if self.p99_before is None:
            return ""
        limit = max(self.limits.p99_floor_ms, self.p99_before * self.limits.max_p99_factor)
        counted = sum(self.settled.histogram.values())
        slow = histogram.above(self.settled.histogram, limit)
        if counted < self.limits.min_requests or not _beyond(slow, counted, 0.01):
            return ""
        p99 = histogram.percentile(self.settled.histogram, 99)
        return (
            f"{slow} of {counted} requests{self.named.to} took longer than {limit:.0f} ms "
            f"(p99 {p99} ms; before the deploy {self.p99_before} ms)"
        )

    def unanswered(self, refused: Sequence[str], checked: int, over: bool) -> str:
        """That most of our own requests got no answer at all; empty when they did, or when it is too early to say."""
        if 2 * len(refused) <= checked or (len(refused) < self.limits.min_failed and not over):
            return ""
        return f"{len(refused)} of {checked} active checks got no answer, the last one {refused[-1]}"

    def verdict(
        self, now: float, refused: Sequence[str] = (), checked: int = 0, over: bool = True, limited: int = 0
    ) -> dict[str, Any]:
        """Whether the release may stay, and why.

        `refused`: why active checks got no answer; `over`: no more come; `limited`: how many were too many (429).
        """
        real = self.all.requests - self.ours
        quiet = real < self.limits.min_requests
        bad = self.failing() or self.slow() or self.unanswered(refused, checked, over)
        return {
            "ok": not bad,
            "quiet": quiet,
            "message": f"{self.named.edge}: {bad or self._good(real, quiet, now, len(refused), checked, limited)}.",
            "requests": real,
            "failed": _failed(self.all),
            "checks": checked,
            "checks_unanswered": len(refused),
        }

    def _good(self, real: int, quiet: bool, now: float, refused: int, checked: int, limited: int) -> str:
        words = f"{real} request{'s' * (real != 1)}{self.named.to} in {now - self.since:.0f} s"
        if quiet:
            checks = f"; {checked - refused - limited} of {checked} active checks were answered" if checked else ""
            checks += f", {limited} refused as too many (429)" if limited else ""
            return f"only {words}, too few to judge{checks}"
        p99 = histogram.percentile(self.all.histogram, 99)
        return f"{words}, {_failed(self.all)} answered 5xx, p99 {'unknown' if p99 is None else f'{p99} ms'}"


def _failed(tally: Tally) -> int:
    """Failures, and those that only a second server saved."""
    return tally.counts["failures"] + tally.counts["rescued"]


def _beyond(count: int, total: int, share: float) -> bool:
    """Whether a count is more than a share of all, and by more than chance explains."""
    expected = total * share
    return count > expected + SURE * math.sqrt(expected)


def baseline(path: str, before: Window, upstreams: Sequence[str], limits: Limits) -> Tally:
    """How the same servers answered before or, where they were asked too little to know, how all did."""
    same, every = Tally(upstreams), Tally()
    with Log(path, before.since) as log:
        for entry in log.entries(before):
            # as in a bake, what nginx answered by itself (maintenance, too large a body) is no release's
            if entry.attempts:
                same.add(entry)
                every.add(entry)
    return same if same.requests >= limits.min_requests else every


class Checker(threading.Thread):
    """Asks the edge every so often, and less often when that is too much for the site.

    Its requests are judged as lines of the log; here only those without an answer, and those that were too many.
    """

    def __init__(self, checks: Checks, seconds: float) -> None:
        super().__init__(daemon=True)
        self._checks = checks
        self._pause = seconds / max(1, checks.count)
        self.stopped = threading.Event()
        self.asked = 0
        self.refused: list[str] = []
        self.limited = 0

    def run(self) -> None:
        """Ask until all were asked or the bake is over."""
        due = time.monotonic()
        for _ in range(self._checks.count):
            why, wait = "", 0.0
            try:
                why = ask(self._checks)
            except LimitedError as limit:
                # a bake is no reason to press on
                self._pause *= 2
                wait = limit.wait
                self.limited += not self.stopped.is_set()
            if self.stopped.is_set():
                return
            self.asked += 1
            if why:
                self.refused.append(why)
            due += self._pause
            if self.stopped.wait(max(wait, due - time.monotonic(), 0.0)):
                return


def ask(checks: Checks, timeout: float = CHECK_TIMEOUT) -> str:
    """Why the edge gives no answer to a request; empty when it gives one. Raises LimitedError for a 429."""
    address, _, port = checks.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without reading any authority
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.strip("[]"), int(port)), timeout) as plain,
            context.wrap_socket(plain, server_hostname=checks.host) as encrypted,
        ):
            connection = http.client.HTTPConnection(checks.host)
            connection.sock = encrypted
            answer = bounded_http.get(connection, checks.path, {"User-Agent": CHECK_AGENT}, timeout)
    except (OSError, bounded_http.NoAnswerError) as error:
        return f"{checks.address} for {checks.host}{checks.path}: {error or type(error).__name__}"
    if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS:
        raise LimitedError(answer.retry_after)
    return ""


def watch(
    log: Log,
    judge: Judge,
    seconds: float,
    checks: Checks | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Judge for so many seconds, or until the release is bad. Returns the verdict."""
    started = time.monotonic()
    checker = Checker(checks, seconds) if checks else None
    if checker:
        checker.start()
    try:
        while True:
            left = started + seconds - time.monotonic()
            for entry in log.entries(Window(judge.since, math.inf)):
                judge.add(entry)
            refused, asked = (list(checker.refused), checker.asked) if checker else ([], 0)
            verdict = judge.verdict(clock(), refused, asked, left <= 0, checker.limited if checker else 0)
            if checker and not verdict["quiet"]:
                checker.stopped.set()  # those that come by themselves say more
            if left <= 0 or not verdict["ok"]:
                return {**verdict, "seconds": round(time.monotonic() - started, 1)}
            time.sleep(min(POLL, left))
    finally:
        if checker:
            checker.stopped.set()
