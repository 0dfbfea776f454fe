"""Texts that go through a byte interface, to the master or to the service manager, whatever they contain."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gunicorn_handover.board import SIZE, Board
from gunicorn_handover.notify import MESSAGE_SIZE, Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    return Notifier(manager.getsockname())


TEXTS = [
    ("no\n database\n", "no database"),
    ("no \udcff database", "no \\udcff database"),
    ("é", "é"),
]


@pytest.mark.parametrize(("text", "line"), TEXTS)
def test_status_is_one_line_of_utf_8(manager: socket.socket, notifier: Notifier, text: str, line: str) -> None:
    notifier.status(text)
    assert manager.recv(65536).decode() == f"STATUS={line}"
    notifier.status(text)
    with pytest.raises(BlockingIOError):
        manager.recv(65536)


@pytest.mark.parametrize("character", ["x", "é", "中", "\U0001f600"])
def test_long_status_is_cut_between_characters(manager: socket.socket, notifier: Notifier, character: str) -> None:
    notifier.status(character * 2**18)
    message = manager.recv(2**20)
    assert MESSAGE_SIZE - 4 < len(message) <= MESSAGE_SIZE
    assert set(message.decode().removeprefix("STATUS=")) == {character}


def test_reload_is_announced_with_the_time(
    manager: socket.socket, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 1_234_567_891)
    notifier.reloading()
    assert manager.recv(65536) == b"RELOADING=1\nMONOTONIC_USEC=1234567"


def test_notifier_without_a_manager_is_silent(tmp_path: Path) -> None:
    for address in (None, str(tmp_path / "missing"), "@missing"):
        Notifier(address).status("ready")


@pytest.mark.parametrize(("text", "line"), TEXTS)
def test_first_failure_of_a_boot_is_kept_in_one_line(text: str, line: str) -> None:
    board = Board()
    board.record_failure(text)
    board.record_failure("a consequence")
    assert board.failure == line
    board.close()


@pytest.mark.parametrize("character", ["x", "é", "中"])
def test_long_failure_is_cut_between_characters(character: str) -> None:
    board = Board()
    board.record_failure(character * SIZE)
    assert set(board.failure) == {character}
    assert SIZE - 32 < len(board.failure.encode()) <= SIZE
    board.close()
