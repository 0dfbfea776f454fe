"""Messages to the service manager (sd_notify(3)).

Gunicorn says READY=1 as soon as it has bound its sockets. So the address is taken out of the environment before
Gunicorn looks for it, and what is said, and when, is decided here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable

PATIENCE = 2.0  # seconds that a message which matters may wait to be taken


class Notifier:
    """Speaks to systemd where it listens, else does nothing. Never raises: a service without a manager still serves."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._status = ""
        self._hidden: list[str] = []

    def hide(self, values: Iterable[str]) -> None:
        """Leaves these out of the status, which every user of the machine may read; not what a word could be."""
        self._hidden = sorted((value for value in values if len(value) > 3), key=len, reverse=True)

    @classmethod
    def from_environ(cls) -> Notifier:
        """Takes `NOTIFY_SOCKET` out of the environment: neither Gunicorn nor the application shall speak for us."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    def _send(self, message: str, patience: float = PATIENCE) -> bool:
        """Returns whether it was taken. The manager may be too busy to read: the master must not hang on that."""
        if not self._address:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(patience)
                sock.connect(address)
                sock.sendall(message.encode())
        except OSError:
            return False
        return True

    def ready(self) -> None:
        """The service serves: also what ends a RELOADING."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload began. `MONOTONIC_USEC` is what Type=notify-reload asks for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Asks that a start is given `seconds` more: workers boot a few at a time, each has its own deadline."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, line: str) -> None:
        """The line that `systemctl status` shows."""
        for value in self._hidden:
            line = line.replace(value, "***")
        if line != self._status and self._send("STATUS=" + " ".join(line.split()), patience=0):
            self._status = line
