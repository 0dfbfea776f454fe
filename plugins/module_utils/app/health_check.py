"""Asking an application's health page as the edge would."""

from __future__ import annotations

import dataclasses
import http
import http.client
import socket
import time
from collections.abc import Mapping
from typing import Any

from . import bounded_http

# the page, as modules take it
OPTIONS: dict[str, dict[str, Any]] = {
    "health_path": {"type": "str", "default": ""},
    "health_host": {"type": "str", "default": "localhost"},
}
LISTEN_OPTIONS: dict[str, dict[str, Any]] = {**OPTIONS, "health_listen": {"type": "str", "default": ""}}
# seconds between two requests for the health page: the first time, and when it has not been well for a while
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
        """The page that a module's options name; None when they name none."""
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
    """What a page was found to be."""

    why: str = ""  # it isn't well; empty when it is
    limited: bool = False  # it is asked too often (429): it serves, and doesn't say how well
    wait: float = 0.0  # seconds until it wants to be asked again; 0 when it doesn't say


def answer_of(health: Health) -> Answer:
    """Ask for the page once. The request looks like one from the edge."""
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
        return Answer(f"does not answer: {error}")
    if answer.status < 400:
        return Answer()
    limited = answer.status == http.HTTPStatus.TOO_MANY_REQUESTS
    return Answer(f"answers {answer.status}: {answer.body}", limited, answer.retry_after)


def check(health: Health) -> str:
    """Why the page isn't well, asked once; empty when it is, or is asked too often to say."""
    answer = answer_of(health)
    return "" if answer.limited else answer.why


def wait_healthy(health: Health, patience: float) -> str:
    """Ask for the page, ever less often, until it is well; `patience` seconds at most. Returns why it isn't.

    One that is asked too often is left alone for as long as it says; when that is too long, it serves, and that is all
    there is to know.
    """
    deadline, pause = time.monotonic() + patience, PAUSE
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
