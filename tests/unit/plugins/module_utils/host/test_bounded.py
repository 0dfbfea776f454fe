"""A command's time, memory and leftover processes are bounded."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import bounded, command

# a daemon without a parent or session, which keeps its inherited pipe open
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        {does}
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
print("said")
"""


def python(text: str, *words: object, **bounds: Any) -> bounded.Done:
    """Run a Python program."""
    given: dict[str, Any] = {"timeout": 60.0, "output": 1000, **bounds}
    done: bounded.Done = bounded.run([sys.executable, "-c", text, *map(str, words)], **given)
    return done


def test_stdout_and_stderr_are_separate_or_combined() -> None:
    text = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert python(text) == bounded.Done(3, b"out\n", b"err\n", cut=False)
    assert python(text, together=True) == bounded.Done(3, b"out\nerr\n", b"", cut=False)


def test_long_output_is_cut_to_its_last_whole_lines() -> None:
    done = python("for number in range(100_000): print(number)")
    assert done.cut
    lines = done.output.splitlines()
    assert lines == [str(number).encode() for number in range(100_000 - len(lines), 100_000)]
    assert 990 < len(done.output) <= 1000
    # a line without a newline, or longer than the limit
    done = python("print('x' * 10_000_000, end='')")
    assert (done.output, done.cut) == (b"x" * 1000, True)
    done = python("print('x' * 1000, end='')")
    assert (done.output, done.cut) == (b"x" * 1000, False)


def test_long_output_takes_little_memory() -> None:
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    text = (
        "import sys; sys.path[:] = eval(sys.argv[1])\n"
        "from ansible_collections.baton.web.plugins.module_utils.host import bounded\n"
        "done = bounded.run(['head', '-c', '2G', '/dev/zero'], timeout=600, output=2**20)\n"
        f"assert done.cut and len(done.output) == 2**20\n{peak}"
    )
    bare, much = (int(python(one, sys.path).output) for one in (peak, text))
    assert much - bare < 64 * 1024  # KiB


@pytest.mark.parametrize("does", ["time.sleep(600)", "while True: os.write(1, b'more' * 1000)"])
def test_daemon_left_behind_does_not_delay_the_result(tmp_path: pathlib.Path, does: str) -> None:
    started = time.monotonic()
    done = python(DAEMON.format(does=does), tmp_path / "pid", timeout=600.0)
    try:
        assert done.status == 0
        assert b"said" in done.output or does.startswith("while")
        assert time.monotonic() - started < 300
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "text",
    [
        "import time; time.sleep(600)",
        "import os, time; os.close(1); os.close(2); time.sleep(600)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
        "while True: print('x' * 1000)",
    ],
)
def test_command_that_exceeds_its_timeout_is_killed(text: str) -> None:
    done = python(text, timeout=1.0)
    assert done.status is None


def test_command_that_closes_its_output_is_waited_for() -> None:
    assert python("import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(5)").status == 5


def test_command_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        bounded.run(["/nowhere"], timeout=1, output=1)


def test_output_above_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST", 2**20)
    with pytest.raises(command.CommandError, match="printed more than 1 MiB"):
        command.run(["head", "-c", str(2**20 + 1), "/dev/zero"])
    assert len(command.run(["head", "-c", str(2**20), "/dev/zero"])) == 2**20


def test_error_message_is_short() -> None:
    with pytest.raises(command.CommandError) as caught:
        command.run([sys.executable, "-c", "import sys; sys.exit('x' * 10**7 + 'end')"])
    assert caught.value.last_lines() == "x" * (command.LONGEST - 3) + "end"
    with pytest.raises(command.CommandError, match="it didn't end within 1 s"):
        command.run(["sleep", "600"], timeout=1)


def test_only_listed_modules_read_unbounded_output() -> None:
    """Code that runs or shows the output of an application must use `bounded`."""
    plugins = pathlib.Path(__file__).resolve().parents[5] / "plugins"
    callers = {
        path.name
        for path in plugins.rglob("*.py")
        if any(f"subprocess.{name}(" in path.read_text() for name in ("run", "Popen", "check_output"))
    }
    # these only run programs of the distribution, whose output no application controls; the journal and the list of a
    # commit's files are read line by line
    exempt = {
        "certificates.py",
        "credential.py",
        "facts.py",
        "guard.py",
        "layout.py",
        "preflight.py",
        "staging.py",
        "upgrades.py",
        "upstream.py",
    }
    assert callers - exempt == {"bounded.py", "git.py", "journal.py", "systemd.py"}
