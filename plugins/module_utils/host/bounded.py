"""Running a command whose output is not to be trusted: bounded in time and size, whatever it leaves running."""

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

_CHUNK = 64 * 1024  # bytes, what a pipe holds on Linux
_POLL = 0.05  # seconds between two looks at a command that has closed nothing and says nothing
# seconds to read what a command has left in the pipe when it has ended: a child of its own may hold it, and write on
_DRAIN = 1.0


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended, and the end of what it said."""

    status: int | None  # None: killed, as it took too long
    output: bytes
    errors: bytes  # empty where they were asked for together
    cut: bool  # whether it printed more than is kept of its standard output


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
        """From the beginning of a line, where there is one."""
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
    """Run a command for at most `timeout` seconds, and keep the last bytes of what it prints.

    `output` and `errors` are how many of each; `together` has it print both into one. It is over when the command has
    ended, though a child that it left behind may hold its pipes open, and goes on when it has closed them itself.
    Raises OSError when it can't be started.
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
        said, complained = _Tail(output), _Tail(errors)
        for stream, tail in ((process.stdout, said), (process.stderr, complained)):
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
        return Done(status, said.content(), complained.content(), said.cut)


def _take(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Read what a stream has; stop to wait for one that has ended."""
    stream: IO[bytes] = key.fileobj  # type: ignore[assignment]  # as it was registered
    with contextlib.suppress(BlockingIOError):
        if chunk := os.read(stream.fileno(), _CHUNK):
            key.data.add(chunk)
        else:
            waiting.unregister(stream)
