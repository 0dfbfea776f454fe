"""The bake: evaluate a release by the edge's access log while requests arrive, compared with the time before.

It must detect a bad release within a second, and must not fail a good one because of chance, of failures that the site
had before, or of workers that are cold for a moment. So a count must exceed its limit by a statistically significant
margin, and latency only counts for requests that began after a settling time.
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

POLL = 0.2  # seconds between two evaluations
CHECK_TIMEOUT = 5.0  # seconds
SIGNIFICANCE = 4.0  # standard deviations; high, because each of the many evaluations of a bake may err


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits that a good release doesn't exceed."""

    max_failed_percent: float = 1.0  # in addition to the share that failed before
    min_failed: int = 3
    max_p99_factor: float = 3.0  # relative to the p99 before
    p99_floor_ms: float = 200.0  # a lower p99 is always good
    min_requests: int = 20  # a site with fewer requests is quiet
    settle_seconds: float = 2.0  # the latency of requests that began earlier doesn't count


@dataclasses.dataclass(frozen=True)
class Checks:
    """Active checks: Baton's own requests to the edge."""

    address: str  # ADDRESS:PORT
    host: str
    path: str
    count: int


class LimitedError(Exception):
    """The site responded with 429, too many requests."""

    def __init__(self, wait: float) -> None:
        """`wait`: seconds of Retry-After; 0 if there is none."""
        self.wait = wait
        super().__init__()


@dataclasses.dataclass(frozen=True)
class Named:
    """The names of the edge and of the evaluated servers in messages."""

    edge: str
    servers: Sequence[str]

    @property
    def to(self) -> str:
        """A clause with the servers, empty for all."""
        return f" to {' and '.join(self.servers)}" if self.servers else ""


class Evaluation:
    """Counts the requests of a bake and evaluates them."""

    def __init__(
        self, named: Named, since: float, before: Tally | None, limits: Limits, upstreams: Sequence[str] = ()
    ) -> None:
        self.named = named
        self.since = since
        self.limits = limits
        self.all = Tally(upstreams)
        self.settled = Tally(upstreams)
        self.ours = 0  # active checks among all requests
        self.failed_before, self.p99_before = None, None
        if before is not None and before.requests:
            self.failed_before = _failed(before) / before.requests
            self.p99_before = histogram.percentile(before.histogram, 99)

    def add(self, entry: Entry) -> None:
        """Count a request, unless it began before the bake (in the old release) or nginx answered it itself."""
        if entry.began < self.since or not entry.attempts:
            return
        if self.all.add(entry):
            self.ours += entry.is_check
        if entry.began >= self.since + self.limits.settle_seconds:
            self.settled.add(entry)

    def failing(self) -> str:
        """Return a message if too many requests failed; otherwise empty."""
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
        """Return a message if too many requests were slow; otherwise empty, also without a baseline."""
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
        """Return a message if most active checks got no response; otherwise empty, also if it is too early to say."""
        if 2 * len(refused) <= checked or (len(refused) < self.limits.min_failed and not over):
            return ""
        return f"{len(refused)} of {checked} active checks got no response, the last one {refused[-1]}"

    def verdict(
        self, now: float, refused: Sequence[str] = (), checked: int = 0, over: bool = True, limited: int = 0
    ) -> dict[str, Any]:
        """Return the result of the bake so far. Keys as in edge_log_info's RETURN.

        `refused`: errors of active checks without a response. `over`: whether the bake has ended. `limited`: number of
        active checks that got 429.
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
            checks += f", {limited} were rejected by a rate limit (429)" if limited else ""
            return f"only {words}, too few to evaluate{checks}"
        p99 = histogram.percentile(self.all.histogram, 99)
        return f"{words}, {_failed(self.all)} answered 5xx, p99 {'unknown' if p99 is None else f'{p99} ms'}"


def _failed(tally: Tally) -> int:
    """Return the number of failures, including those that another server's response hid from the client."""
    return tally.counts["failures"] + tally.counts["rescued"]


def _beyond(count: int, total: int, share: float) -> bool:
    """Whether a count significantly exceeds a share of all."""
    expected = total * share
    return count > expected + SIGNIFICANCE * math.sqrt(expected)


def baseline(path: str, before: Window, upstreams: Sequence[str], limits: Limits) -> Tally:
    """Return the counts of the same servers before the bake, or of all servers if there are too few requests."""
    same, every = Tally(upstreams), Tally()
    with Log(path, before.since) as log:
        for entry in log.entries(before):
            # as in a bake, without nginx's own responses (maintenance, body too large)
            if entry.attempts:
                same.add(entry)
                every.add(entry)
    return same if same.requests >= limits.min_requests else every


class Checker(threading.Thread):
    """Thread that sends active checks to the edge at intervals, which it doubles after a 429.

    The log has their responses; this only records checks without a response and those that got 429.
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
        """Send checks until all are sent or the bake has ended."""
        due = time.monotonic()
        for _ in range(self._checks.count):
            why, wait = "", 0.0
            try:
                why = ask(self._checks)
            except LimitedError as limit:
                # slow down instead of using up the site's limit
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


def ask(checks: Checks) -> str:
    """Send one check. Returns why there was no response; empty if there was one. Raises LimitedError for a 429."""
    address, _, port = checks.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without loading authorities
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.strip("[]"), int(port)), CHECK_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=checks.host) as encrypted,
        ):
            connection = http.client.HTTPConnection(checks.host)
            connection.sock = encrypted
            answer = bounded_http.get(connection, checks.path, {"User-Agent": CHECK_AGENT}, CHECK_TIMEOUT)
    except (OSError, bounded_http.NoAnswerError) as error:
        return f"{checks.address} for {checks.host}{checks.path}: {error or type(error).__name__}"
    if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS:
        raise LimitedError(answer.retry_after)
    return ""


def watch(
    log: Log,
    evaluation: Evaluation,
    seconds: float,
    checks: Checks | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Evaluate requests for `seconds`, or until the release is bad. Returns the verdict."""
    started = time.monotonic()
    checker = Checker(checks, seconds) if checks else None
    if checker:
        checker.start()
    try:
        while True:
            left = started + seconds - time.monotonic()
            for entry in log.entries(Window(evaluation.since, math.inf)):
                evaluation.add(entry)
            refused, asked = (list(checker.refused), checker.asked) if checker else ([], 0)
            verdict = evaluation.verdict(clock(), refused, asked, left <= 0, checker.limited if checker else 0)
            if checker and not verdict["quiet"]:
                checker.stopped.set()  # real requests prove more
            if left <= 0 or not verdict["ok"]:
                return {**verdict, "seconds": round(time.monotonic() - started, 1)}
            time.sleep(min(POLL, left))
    finally:
        if checker:
            checker.stopped.set()
