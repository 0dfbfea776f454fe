"""Check an application's health page with requests like those of the edge."""

from __future__ import annotations

import dataclasses
import http
import http.client
import socket
import time
from collections.abc import Mapping
from typing import Any

from . import bounded_http

# module options that describe the page
OPTIONS: dict[str, dict[str, Any]] = {
    "health_path": {"type": "str", "default": ""},
    "health_host": {"type": "str", "default": "localhost"},
}
LISTEN_OPTIONS: dict[str, dict[str, Any]] = {**OPTIONS, "health_listen": {"type": "str", "default": ""}}
# seconds between two requests: initially, and at most after repeated failures
PAUSE, LONGEST_PAUSE = 0.25, 2.0


@dataclasses.dataclass(frozen=True)
class Health:
    """A page that a ready application answers with a status below 400."""

    path: str
    listen: str
    host: str
    timeout: float = 10.0  # seconds for one request

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Health | None:
        """Return the page of a module's options; None if they name none."""
        if not options["health_path"]:
            return None
        return cls(options["health_path"], options.get("health_listen", ""), options["health_host"])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of one request."""

    why: str = ""  # why the page isn't healthy; empty if it is
    limited: bool = False  # status 429: the application serves, but its health is unknown
    wait: float = 0.0  # seconds of Retry-After; 0 without it


def answer_of(health: Health) -> Answer:
    """Request the page once, with the edge's headers."""
    if health.listen.startswith("/"):
        connection: http.client.HTTPConnection = _UnixConnection(health.listen, health.timeout)
    else:
        address, port = health.listen.rsplit(":", 1)
        connection = http.client.HTTPConnection(address, int(port), timeout=health.timeout)
    headers = {
        "Host": health.host,
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": health.host,
        "User-Agent": "baton-health",
    }
    try:
        answer = bounded_http.get(connection, health.path, headers, health.timeout)
    except bounded_http.NoAnswerError as error:
        return Answer(f"does not respond: {error}")
    if answer.status < 400:
        return Answer()
    limited = answer.status == http.HTTPStatus.TOO_MANY_REQUESTS
    return Answer(f"answers {answer.status}: {answer.body}", limited, answer.retry_after)


def check(health: Health) -> str:
    """Request the page once. Returns why it isn't healthy; empty if it is, or if it responds with 429."""
    answer = answer_of(health)
    return "" if answer.limited else answer.why


def wait_healthy(health: Health, timeout: float) -> str:
    """Request the page at increasing intervals until it is healthy, for at most `timeout` seconds.

    Returns why it isn't healthy. After a 429, waits for Retry-After; if that is too long, the page counts as healthy,
    because the application serves.
    """
    deadline, pause = time.monotonic() + timeout, PAUSE
    while True:
        answer = answer_of(health)
        left = deadline - time.monotonic()
        wait = max(answer.wait, pause)
        if not answer.why or (answer.limited and wait > left):
            return ""
        if left <= 0:
            return answer.why
        time.sleep(min(wait, left) if answer.limited else min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
