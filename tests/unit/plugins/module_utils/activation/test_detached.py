"""The process of an activation is independent of its caller: session, signals, streams, login, lock."""

from __future__ import annotations

import fcntl
import os
import pathlib
import re
import signal
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import detached
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import file_lock, systemd

from tests.support.clock import Clock


@pytest.fixture
def scopes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A file with the scopes that processes have entered."""
    path = tmp_path / "scopes"

    def leave_login(scope: str) -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()} {scope}\n")

    monkeypatch.setattr(systemd, "leave_login", leave_login)
    return path


def test_process_has_a_session_of_its_own_and_leaves_the_login_first(scopes: pathlib.Path) -> None:
    def work() -> list[Any]:
        return [os.getpid(), os.getsid(0), os.getppid(), scopes.read_text()]

    pid, session, parent, entered = detached.run_detached(work)
    assert pid == session != os.getsid(0)
    assert parent == os.getpid()
    assert entered == f"{pid} baton-activation-{pid}.scope\n"


@pytest.mark.usefixtures("scopes")
def test_process_ignores_the_signals_of_a_closed_terminal() -> None:
    def work() -> dict[str, bool]:
        names = ("SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE", "SIGCHLD")
        return {name: signal.getsignal(getattr(signal, name)) is signal.SIG_IGN for name in names}

    assert detached.run_detached(work) == {
        **dict.fromkeys(("SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE"), True),
        # systemctl's exit status must stay available
        "SIGCHLD": False,
    }


@pytest.mark.usefixtures("scopes")
def test_process_has_no_stream_of_its_caller() -> None:
    """Otherwise the caller's connection would stay open, and the process would fail when it prints."""
    reader, writer = os.pipe()
    kept = [os.dup(number) for number in (0, 1, 2)]
    try:
        for number, stream in enumerate((reader, writer, writer)):
            os.dup2(stream, number)
        streams = detached.run_detached(lambda: [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)])
    finally:
        for number, stream in enumerate(kept):
            os.dup2(stream, number)
        for descriptor in (reader, writer, *kept):
            os.close(descriptor)
    assert streams == [os.devnull] * 3


@pytest.mark.usefixtures("scopes")
@pytest.mark.parametrize("result", [None, {}, [1, "two"]])
def test_any_result_reaches_the_caller(result: Any) -> None:
    assert detached.run_detached(lambda: result) == result


@pytest.mark.usefixtures("scopes")
@pytest.mark.parametrize("error", [ZeroDivisionError("unexpected"), SystemExit(3), KeyboardInterrupt()])
def test_unexpected_error_reaches_the_caller_with_its_traceback(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(layout.ActivationError, match=f"(?s)Traceback.*in work.*{type(error).__name__}"):
        detached.run_detached(work)


@pytest.mark.usefixtures("scopes")
def test_expected_error_is_its_message_alone() -> None:
    def work() -> None:
        raise layout.ActivationError("no module named x")

    with pytest.raises(layout.ActivationError) as raised:
        detached.run_detached(work)
    assert str(raised.value) == "no module named x"


@pytest.mark.usefixtures("scopes")
def test_ended_process_is_reaped_and_its_pipe_closed() -> None:
    before = os.listdir("/proc/self/fd")
    assert detached.run_detached(os.getpid)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_process_that_is_killed_is_reported_with_the_fix() -> None:
    with pytest.raises(layout.ActivationError) as raised:
        detached.run_detached(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert str(raised.value) == "The activation's process was killed. Run this again to converge."


def test_lock_is_held_until_the_end_and_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = layout.Application("links", str(tmp_path))
    app.state.mkdir(parents=True)
    clock = Clock()
    monkeypatch.setattr(file_lock, "time", clock)
    with detached.exclusive(app, 0):
        with (app.state / "activation.lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        message = "Another activation of links is running on this host and took longer than 7 s. "
        with pytest.raises(layout.ActivationError, match=re.escape(message)), detached.exclusive(app, 7):
            pass
    assert 7 < sum(clock.pauses) < 7.5
    with (app.state / "activation.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_that_is_released_meanwhile_is_taken(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = layout.Application("links", str(tmp_path))
    app.state.mkdir(parents=True)
    holder = (app.state / "activation.lock").open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    clock = Clock(holder.close)
    monkeypatch.setattr(file_lock, "time", clock)
    with detached.exclusive(app, 7):
        assert len(clock.pauses) == 1
