"""One activation at a time, which comes to its end although its caller is killed."""

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
    """Hold the application's handover for oneself. Raises ActivationError when another takes over `timeout` seconds.

    A child made meanwhile holds it too: it is free again when all of them have ended, however they end.
    """
    with (app.state / "activation.lock").open("w") as lock:
        if not file_lock.taken_within(lock, timeout):
            raise ActivationError(
                f"Another handover of {app.name} is under way on this host and took longer than {timeout:.0f} s. "
                "Wait for it, or check `journalctl -u` of its units."
            )
        yield


def run_detached(work: Callable[[], Any]) -> Any:
    """Do the work in a session and a unit of its own, so that it comes to its end, or back.

    That holds when the caller is killed, too, or all that belongs to the caller's login.

    Returns what the work returns, which JSON can say. Raises ActivationError when the work does, or when it died.
    """
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        failure, answer = "", None
        try:
            systemd.leave_login(f"baton-activation-{os.getpid()}.scope")
            answer = work()
        except ActivationError as error:
            failure = str(error)
        except BaseException:
            failure = traceback.format_exc()
        with contextlib.suppress(OSError), os.fdopen(say, "w") as pipe:
            pipe.write(json.dumps({"failure": failure, "answer": answer}))
        os._exit(0)
    os.close(say)
    with os.fdopen(hear) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise ActivationError("the handover's process was killed; run this again to converge.")
    said = json.loads(text)
    if said["failure"]:
        raise ActivationError(said["failure"])
    return said["answer"]
