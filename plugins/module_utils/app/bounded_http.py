"""One request to what may answer anything: never, a byte at a time, or without an end."""

from __future__ import annotations

import functools
import http
import http.client
import io
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..host import untrusted
from . import retry_after

MOST = 256 * 1024  # bytes that are read of an answer, with its status line, headers and chunks' sizes
SHOWN = 300  # characters of a body, or of what was wrong with an answer


class NoAnswerError(Exception):
    """There was no answer that can be read, in time. The message says why."""


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    body: str  # its beginning, with nothing that a terminal would obey
    retry_after: float  # seconds; 0 when it doesn't say


class _Bounded(io.RawIOBase):
    """What comes from a socket until a time (of the monotonic clock), at most `MOST` bytes. Raises OSError beyond."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline, self._left = connected, deadline, MOST
        # by it the socket stays open when http.client closes its own, before the body is read
        self._kept = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        time_left = self._deadline - time.monotonic()
        if time_left <= 0:
            raise TimeoutError("timed out")
        if not self._left:
            raise OSError(f"it says more than {MOST >> 10} KiB")
        self._socket.settimeout(time_left)
        count: int = self._kept.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._kept.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connected: socket.socket, deadline: float, method: str | None = None) -> None:
        super().__init__(connected, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Bounded(connected, deadline))


def get(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str], timeout: float) -> Answer:
    """Ask for a page, and close the connection; no redirect is followed. Raises NoAnswerError.

    `timeout`: seconds from the connection on to the last byte that is read. That of a socket is for each byte.
    """
    try:
        if connection.sock is None:
            connection.connect()
        deadline = time.monotonic() + timeout
        connection.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]
        connection.request("GET", path, headers={**headers, "Connection": "close"})
        with connection.getresponse() as answer:
            if answer.status < http.HTTPStatus.OK:
                raise ValueError(f"its answer {answer.status} is not a final one")
            body = untrusted.printable(answer.read(SHOWN).decode(errors="replace"))
            return Answer(answer.status, body, retry_after.seconds(answer.getheader("Retry-After")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(untrusted.printable(str(error) or type(error).__name__)[:SHOWN]) from None
    finally:
        connection.close()
