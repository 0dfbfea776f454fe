"""Run a command with untrusted output: bounded in time and size, regardless of processes that it leaves running."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_CHUNK = 64 * 1024  # bytes; size of a pipe on Linux
_POLL = 0.05  # seconds between two checks of a silent command
# seconds to read the pipe after the command has ended: its child processes may keep it open and continue to write
_DRAIN = 1.0


@dataclasses.dataclass(frozen=True)
class Done:
    """The result of a command, with the end of its output."""

    status: int | None  # None: killed after the timeout
    output: bytes
    errors: bytes  # empty with `together`
    cut: bool  # whether the beginning of its standard output is missing


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, most: int) -> None:
        self._most, self._kept, self.cut = most, bytearray(), False

    def add(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * self._most + _CHUNK:
            self._cut()

    def _cut(self) -> None:
        self.cut = self.cut or len(self._kept) > self._most
        del self._kept[: -self._most]

    def content(self) -> bytes:
        """Return the last bytes, from the beginning of a line if possible."""
        self._cut()
        kept = bytes(self._kept)
        return kept.partition(b"\n")[2] or kept if self.cut else kept


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    output: int,
    errors: int = 2**20,
    together: bool = False,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a command for at most `timeout` seconds, and keep the last bytes of its output.

    `output`, `errors`: how many bytes of each. `together`: combine both. Returns when the command has ended, even if
    child processes keep its pipes open, and waits for it even if it has closed them. Raises OSError if it can't be
    started.
    """
    deadline, ended = time.monotonic() + timeout, False
    with (
        subprocess.Popen(
            [str(word) for word in argv],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE,
        ) as process,
        selectors.DefaultSelector() as waiting,
    ):
        stdout, stderr = _Tail(output), _Tail(errors)
        for stream, tail in ((process.stdout, stdout), (process.stderr, stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                waiting.register(stream, selectors.EVENT_READ, tail)
        try:
            while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
                if not ended and process.poll() is not None:
                    ended, deadline = True, min(deadline, time.monotonic() + _DRAIN)
                ready = waiting.select(0 if ended else min(left, _POLL))
                if ended and not ready:
                    break
                for key, _ in ready:
                    _take(waiting, key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            status = process.poll()
            if status is None:
                process.kill()
        return Done(status, stdout.content(), stderr.content(), stdout.cut)


def _take(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Read from a stream, or unregister it at its end."""
    stream: IO[bytes] = key.fileobj  # type: ignore[assignment]  # as it was registered
    with contextlib.suppress(BlockingIOError):
        if chunk := os.read(stream.fileno(), _CHUNK):
            key.data.add(chunk)
        else:
            waiting.unregister(stream)
