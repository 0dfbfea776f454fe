"""What a reload, a hook, a signal or a machine that is out of something may not do: end the service, or leave it with
fewer workers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from conftest import Server, UnixConnection, pending, wait_for

pytestmark = pytest.mark.versions


def serves(server: Server, workers: int = 2) -> None:
    """All workers are there, and the next good reload goes well."""
    wait_for(lambda: len(server.pids()) == workers, what=f"{workers} workers: {server.log}")
    assert server.get()["release"] == "1"
    server.configure()
    done = server.reload()
    assert done.returncode == 0, done.stderr + server.log
    assert len(server.pids()) == 2


def failed(server: Server, *words: str) -> None:
    before = server.pids()
    done = server.reload()
    assert done.returncode == 1, server.log
    for word in words:
        assert word in done.stderr
    assert server.pids() == before


def test_fewer_workers_asked_for_while_a_reload_fails_leave_one(server: Server) -> None:
    server.configure(workers=1)
    server.start()
    # the configuration has more, so that TTOU finds some to take, and its workers never get up
    server.release("2", before="import time; time.sleep(3600)")
    server.point("2")
    server.configure(workers=4, handover_boot_timeout=600)
    server.signal(signal.SIGHUP)
    booting = wait_for(lambda: server.pids("booting"))
    for wanted in (3, 2, 1):
        server.signal(signal.SIGTTOU)
        wait_for(lambda wanted=wanted: server.status["workers_wanted"] == wanted)  # type: ignore[misc]
    os.kill(booting[0], signal.SIGKILL)
    wait_for(lambda: (server.status["reload"] or {}).get("outcome") == "failed")
    server.point("1")
    assert server.status["workers_wanted"] == 1
    serves(server, workers=1)


def test_no_workers_are_none_to_reload_to_and_none_to_start_with(server: Server) -> None:
    server.start()
    server.configure(workers=0)
    failed(server, "workers")
    serves(server)
    server.stop()
    server.configure(workers=0)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0


HOOKS = {
    "pre_fork": "def pre_fork(server, worker): raise ValueError('the hook broke')",
    "nworkers_changed": "def nworkers_changed(server, new, old):\n    if old: raise ValueError('the hook broke')",
    "on_reload": "def on_reload(server): raise ValueError('the hook broke')",
}


@pytest.mark.parametrize("hook", ["pre_fork", "on_reload"])
def test_a_hook_that_raises_fails_the_reload_alone(server: Server, hook: str) -> None:
    server.start()
    server.configure(HOOKS[hook])
    failed(server, "the hook broke")
    serves(server)


def test_a_hook_that_raises_ends_a_first_boot_with_its_reason(server: Server) -> None:
    server.configure(HOOKS["pre_fork"])
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "the hook broke" in server.log


@pytest.mark.parametrize("change", [signal.SIGTTIN, signal.SIGTTOU])
def test_hooks_that_raise_do_not_end_the_master(server: Server, change: int) -> None:
    child_exit = "def child_exit(server, worker): raise ValueError('the hook broke')\n"
    server.configure(child_exit + HOOKS["nworkers_changed"])
    server.start()
    server.signal(change)
    victim = server.pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in server.pids() and len(server.pids()) >= 1)
    wait_for(lambda: "The hook child_exit raised" in server.log)
    server.pass_loop()
    assert server.process is not None
    assert server.process.poll() is None, server.log
    assert server.get()["release"] == "1"


def test_a_folder_for_workers_that_is_missing_fails_the_reload_alone(server: Server) -> None:
    server.start()
    server.configure(worker_tmp_dir="/nonexistent")
    failed(server, "/nonexistent")
    serves(server)


@pytest.mark.parametrize("limit", ["NOFILE", "NPROC"])
def test_a_machine_that_is_out_of_something_fails_the_reload_alone(server: Server, limit: str) -> None:
    server.start()
    assert server.process is not None
    kind = getattr(resource, f"RLIMIT_{limit}")
    before = resource.prlimit(server.process.pid, kind)
    if limit == "NPROC" and os.geteuid() == 0:
        pytest.skip("root has no such limit")
    used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    resource.prlimit(server.process.pid, kind, (used, before[1]))
    server.signal(signal.SIGHUP)
    wait_for(lambda: "failed" in server.log)
    assert server.process.poll() is None, server.log
    resource.prlimit(server.process.pid, kind, before)
    serves(server)


# what a start refuses, and a word of its reason
REFUSED = {
    "errorlog": ({"errorlog": "/nonexistent/error.log"}, "", "/nonexistent/error.log"),
    "pidfile": ({"pidfile": "/nonexistent/pid"}, "", "pidfile"),
    "raw_env": ({"raw_env": ["NOTHING"]}, "", "NOTHING"),
    "logconfig": ({"logconfig": "/nonexistent.ini"}, "", "nonexistent.ini"),
    "several lines": ({}, "workers = [\n 1,\n", "SyntaxError"),
    "wrong kind": ({}, "timeout = 'soon'", "timeout"),
    "an early end": ({}, "import os; os._exit(0)", "exit code 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reload_refuses_what_a_start_refuses_and_says_what(server: Server, case: str) -> None:
    settings, text, word = REFUSED[case]
    server.start()
    server.configure(text, **settings)  # type: ignore[arg-type]
    failed(server, "bad configuration", word)
    serves(server)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR2"])
def test_the_masters_words_mean_nothing_to_a_worker(server: Server, name: str) -> None:
    server.configure(keepalive=60)
    server.start()
    before = server.pids()
    connections: dict[int, UnixConnection] = {}
    while len(connections) < len(before):
        connection = server.connect()
        connections[connection.get().document["pid"]] = connection  # type: ignore[attr-defined]
    for pid, connection in connections.items():
        os.kill(pid, getattr(signal, name))
        wait_for(lambda pid=pid: not pending(pid, getattr(signal, name)))  # type: ignore[misc]
        # one that drained would say so
        assert connection.get().getheader("connection") is None
    server.pass_loop()
    assert server.pids() == before


TAKEN = """
import signal as _signal
_lifespan = lifespan
async def lifespan(receive, send):
    async def taking(message):
        if message["type"] == "lifespan.startup.complete":
            _signal.signal(_signal.SIGTERM, lambda *_: None)
        await send(message)
    await _lifespan(receive, taking)
"""


@pytest.mark.parametrize("way", ["reload", "stop"])
def test_a_worker_goes_although_the_application_has_taken_sigterm_over(server: Server, way: str) -> None:
    server.release("1", after=TAKEN)
    server.configure(graceful_timeout=20)
    server.start()
    before = server.pids()
    if way == "stop":
        assert server.stop() == 0
    else:
        assert server.reload().returncode == 0
        wait_for(lambda: not set(before) & set(server.children()), 60)
    # one that doesn't hear of it is killed when its time is over
    assert "killing it" not in server.log


def test_a_status_that_can_not_be_written_is_told_once(server: Server) -> None:
    server.start()
    scratch = server.root / f"handover.json.{server.process.pid}.new"  # type: ignore[union-attr]
    scratch.mkdir()
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)) * 2:
        server.messages.clear()
        server.signal(number)
        # said once the file has been tried
        told = f"STATUS={workers} of {workers} workers ready"
        wait_for(lambda told=told: any(message.startswith(told) for message in server.messages))  # type: ignore[misc]
    lines = [json.loads(line) for line in server.log.splitlines() if "status file can't be written" in line]
    assert len(lines) == 1
    scratch.rmdir()


def test_a_reader_that_has_seen_enough_of_the_status_gets_no_traceback(server: Server) -> None:
    server.start()
    command = f"{sys.executable} -m gunicorn_handover status --json --status-file {server.status_file} | true"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=30)
        assert done.stderr == ""


SLOW = {
    # what takes long in a configuration, the second time: the first is the trial's, in a child
    "file": "import time\nif marker.exists(): time.sleep(3600)",
    "busy file": "import time\nend = time.monotonic() + 3600\nwhile marker.exists() and time.monotonic() < end: pass",
    "hook": "import time\ndef on_reload(server):\n    if marker.exists(): time.sleep(3600)",
}
MARK = """
import os, pathlib
marker = pathlib.Path({root!r}, "master-loads")
if os.getppid() != {master}:  # the master, and no trial
    pathlib.Path({root!r}, "loads").open("a").write("x")
    marker.touch()
"""


def slow_configuration(server: Server, text: str, **settings: object) -> None:
    """A configuration that takes an hour to load in the master, though not in the trial."""
    assert server.process is not None
    server.configure(MARK.format(root=str(server.root), master=server.process.pid) + text, **settings)


def loads(server: Server) -> int:
    path = server.root / "loads"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_configuration_that_takes_long_does_not_hold_up_a_stop(server: Server, case: str, number: int) -> None:
    server.start()
    slow_configuration(server, SLOW[case])
    server.signal(signal.SIGHUP)
    wait_for(lambda: loads(server))
    assert server.stop(number) == 0  # long before the hour is over


@pytest.mark.parametrize("case", SLOW)
def test_a_configuration_that_takes_long_does_not_keep_a_dead_worker_dead(server: Server, case: str) -> None:
    server.start()
    slow_configuration(server, SLOW[case])
    server.signal(signal.SIGHUP)
    wait_for(lambda: loads(server))
    victim = server.pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in server.pids())
    # it begins again, and may come to its end
    wait_for(lambda: loads(server) == 2)
    (server.root / "master-loads").unlink()


def test_a_configuration_that_never_comes_to_its_end_fails_the_reload(server: Server) -> None:
    server.start()
    server.configure(handover_boot_timeout=3)
    assert server.reload().returncode == 0
    slow_configuration(server, SLOW["file"], handover_boot_timeout=3)
    failed(server, "took longer to load")
    assert server.get()["release"] == "1"
    serves(server)


def test_programs_that_a_configuration_runs_do_not_count_as_dead_workers(server: Server) -> None:
    server.start()
    slow_configuration(server, "import subprocess\nfor _ in range(4): subprocess.run(['sleep', '0.4'], check=True)")
    done = server.reload()
    assert done.returncode == 0, done.stderr
    assert loads(server) == 1
