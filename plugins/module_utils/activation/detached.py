"""Run one activation at a time, and let it finish even if its caller is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ..app.layout import ActivationError, Application
from ..host import file_lock, systemd


@contextlib.contextmanager
def exclusive(app: Application, timeout: float) -> Iterator[None]:
    """Hold the application's activation lock. Raises ActivationError if another holds it for `timeout` seconds.

    Child processes inherit the lock: it is released when all of them have ended, in whatever way.
    """
    with (app.state / "activation.lock").open("w") as lock:
        if not file_lock.taken_within(lock, timeout):
            raise ActivationError(
                f"Another activation of {app.name} is running on this host and took longer than {timeout:.0f} s. "
                f"Wait until it ends, or check `journalctl -u '{app.name}*'` there."
            )
        yield


def run_detached(work: Callable[[], Any]) -> Any:
    """Run the work in its own session and systemd scope, so that it always finishes or reverts.

    It survives even if the caller, or everything that belongs to the caller's login, is killed.

    Returns the work's result, which must be serializable as JSON. Raises ActivationError if the work does, or if its
    process is killed.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(devnull, stream)
        failure, result = "", None
        try:
            systemd.leave_login(f"baton-activation-{os.getpid()}.scope")
            result = work()
        except ActivationError as error:
            failure = str(error)
        except BaseException:
            failure = traceback.format_exc()
        with contextlib.suppress(OSError), os.fdopen(write_end, "w") as pipe:
            pipe.write(json.dumps({"failure": failure, "result": result}))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise ActivationError("The activation's process was killed. Run this again to converge.")
    outcome = json.loads(text)
    if outcome["failure"]:
        raise ActivationError(outcome["failure"])
    return outcome["result"]
