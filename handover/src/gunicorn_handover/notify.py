"""Messages to the service manager (sd_notify(3)).

Gunicorn sends READY=1 as soon as it has bound its sockets. NOTIFY_SOCKET is therefore removed from the environment
before Gunicorn reads it, and this module decides what is sent, and when.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable

SEND_TIMEOUT = 2.0  # seconds to wait for the manager to accept an important message
MESSAGE_SIZE = 4096  # bytes; systemd ignores longer messages


class Notifier:
    """Sends messages to systemd; does nothing without NOTIFY_SOCKET. Never raises: the service works without it."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._status = ""
        self._hidden: list[str] = []

    def hide(self, values: Iterable[str]) -> None:
        """Masks these values in the status, which every user of the machine can read; not values of up to 3 characters,
        which could be part of any word."""
        self._hidden = sorted((value for value in values if len(value) > 3), key=len, reverse=True)

    @classmethod
    def from_environ(cls) -> Notifier:
        """Removes `NOTIFY_SOCKET` from the environment, so that neither Gunicorn nor the application sends messages."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    def _send(self, message: str, timeout: float = SEND_TIMEOUT) -> bool:
        """Returns whether systemd accepted the message within `timeout` seconds: it must not block the master."""
        if not self._address:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(timeout)
                sock.connect(address)
                # cut, but not within a character: systemd ignores text that isn't UTF-8, too
                text = message.encode(errors="backslashreplace")[:MESSAGE_SIZE].decode(errors="ignore")
                sock.sendall(text.encode())
        except OSError:
            return False
        return True

    def ready(self) -> None:
        """Reports that the service is ready, also after RELOADING."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Reports the start of a reload. Type=notify-reload requires `MONOTONIC_USEC`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Reports that the service is stopping."""
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Extends the start timeout to `seconds` from now: workers boot a few at a time, each with its own timeout."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, line: str) -> None:
        """Sets the status line that `systemctl status` shows."""
        for value in self._hidden:
            line = line.replace(value, "***")
        if line != self._status and self._send("STATUS=" + " ".join(line.split()), timeout=0):
            self._status = line
