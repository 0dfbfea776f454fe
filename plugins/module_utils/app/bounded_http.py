"""One HTTP request to an untrusted server, bounded in time and size."""

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

MOST = 256 * 1024  # bytes of a response that are read, including status line, headers and chunk sizes
SHOWN = 300  # characters of a body or of an error


class NoAnswerError(Exception):
    """There was no valid response in time. The message says why."""


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    body: str  # its beginning, without control characters
    retry_after: float  # seconds; 0 without the header


class _Bounded(io.RawIOBase):
    """Reader of a socket until a time (monotonic clock) and of at most `MOST` bytes; raises OSError beyond."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline, self._left = connected, deadline, MOST
        # keeps the socket open when http.client closes its own reader before the body is read
        self._kept = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        time_left = self._deadline - time.monotonic()
        if time_left <= 0:
            raise TimeoutError("timed out")
        if not self._left:
            raise OSError(f"the response is larger than {MOST >> 10} KiB")
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
    """Request a page without following redirects, and close the connection. Raises NoAnswerError.

    `timeout`: seconds from the connection to the last byte that is read; a socket's timeout would apply to each byte.
    """
    try:
        if connection.sock is None:
            connection.connect()
        deadline = time.monotonic() + timeout
        connection.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]
        connection.request("GET", path, headers={**headers, "Connection": "close"})
        with connection.getresponse() as answer:
            if answer.status < http.HTTPStatus.OK:
                raise ValueError(f"its status {answer.status} is not a final one")
            body = untrusted.printable(answer.read(SHOWN).decode(errors="replace"))
            return Answer(answer.status, body, retry_after.seconds(answer.getheader("Retry-After")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(untrusted.printable(str(error) or type(error).__name__)[:SHOWN]) from None
    finally:
        connection.close()
