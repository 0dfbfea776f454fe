"""The trial of a configuration in a forked child: what it reports, and that it can't pass by accident."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from gunicorn_handover import reload


class Configuration:
    """As much of a master as a trial uses: its configuration, as a function that loads it."""

    SIGNALS = (signal.SIGHUP, signal.SIGTERM)

    def __init__(self, load: Callable[[], Any], start: Callable[[], Any]) -> None:
        self._load, self._start = load, start

    def load_configuration(self) -> None:
        # in the child; pytest has replaced these
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        self._load()

    def try_configuration(self) -> None:
        self._start()


def nothing() -> None: ...


def tried(load: Callable[[], Any], start: Callable[[], Any] = nothing) -> reload.Trial:
    """The trial of a configuration, once its child has exited."""
    trial = reload.Trial(Configuration(load, start))  # type: ignore[arg-type]
    end = time.monotonic() + 60
    while not trial.ended:
        assert time.monotonic() < end
        pid, status = os.waitpid(trial.pid, os.WNOHANG)
        if pid:
            trial.set_status(status)
        time.sleep(0.01)
    trial.close()
    return trial


def raise_(error: BaseException) -> None:
    raise error


def chained() -> None:
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("second") from None


def refused() -> None:
    print("Invalid value for bind: x\nInvalid value for workers: many\n\nError: it must be a number\n", flush=True)
    sys.exit(1)


@pytest.mark.parametrize(
    ("load", "failure"),
    [
        (nothing, None),
        (lambda: print("a note", flush=True), None),
        (lambda: raise_(ValueError("not\nthis line")), "ValueError: not"),
        (chained, "ValueError: second"),
        (lambda: raise_(KeyboardInterrupt()), "KeyboardInterrupt"),
        (refused, "Invalid value for workers: many: it must be a number"),
        (lambda: (print("only\n  this \n", flush=True), sys.exit(1)), "this"),
        (lambda: sys.exit(0), "loading it ended with exit code 1, without output"),
        (lambda: os._exit(0), "loading it ended with exit code 0, without output"),
        (lambda: os._exit(9), "loading it ended with exit code 9, without output"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "loading it ended with signal 9, without output"),
        # a signal for the master has its default effect in the child
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "loading it ended with signal 15, without output"),
    ],
)
@pytest.mark.parametrize("when", ["load", "start"])
def test_trial_reports_its_failure_in_one_line(load: Callable[[], Any], failure: str | None, when: str) -> None:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        trial = tried(load) if when == "load" else tried(nothing, load)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert trial.failure == failure


def test_output_of_any_size_neither_blocks_trial_nor_fails_it() -> None:
    trial = tried(lambda: print("x" * 2**20 + "end", flush=True))
    assert trial.failure is None
    assert len(trial.output) <= 2**16
    assert "end" in trial.output


def test_output_of_programs_that_configuration_runs_is_reported() -> None:
    trial = tried(lambda: subprocess.run(["sh", "-c", "echo 'OSError: of it' >&2; exit 3"], check=True))
    assert "OSError: of it" in trial.output
    assert trial.failure == (
        "subprocess.CalledProcessError: Command '['sh', '-c', \"echo 'OSError: of it' >&2; exit 3\"]' "
        "returned non-zero exit status 3."
    )


def test_child_that_fails_before_the_configuration_is_loaded_still_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, close = os.getpid(), os.close

    def fail_in_child(descriptor: int) -> None:
        if os.getpid() != parent:
            raise OSError(9, "Bad file descriptor")
        close(descriptor)

    monkeypatch.setattr(os, "close", fail_in_child)
    # pytest has replaced the stderr that the error is printed to
    assert tried(nothing).failure == "loading it ended with exit code 1, without output"


@pytest.mark.parametrize("closed", ["trial", "master"])
def test_closed_trial_leaves_no_process(closed: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    trial = reload.Trial(Configuration(lambda: time.sleep(3600), nothing))  # type: ignore[arg-type]
    assert not trial.ended
    if closed == "master":
        os.kill(trial.pid, signal.SIGKILL)
        os.waitpid(trial.pid, 0)
        trial.close()  # the pid exists no more
    else:
        trial.close()
        assert os.waitstatus_to_exitcode(os.waitpid(trial.pid, 0)[1]) == -signal.SIGKILL
    assert os.listdir("/proc/self/fd") == descriptors
