"""A reload, a hook, a signal or exhausted resources must not end the service, or leave it with fewer workers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from conftest import Server, UnixConnection, pending, wait_for

pytestmark = pytest.mark.versions


def assert_recovers(server: Server, workers: int = 2) -> None:
    """Asserts that all workers serve, and that the next reload succeeds."""
    wait_for(lambda: len(server.pids()) == workers, what=f"{workers} workers: {server.log}")
    assert server.get()["release"] == "1"
    server.configure()
    done = server.reload()
    assert done.returncode == 0, done.stderr + server.log
    assert len(server.pids()) == 2


def assert_reload_fails(server: Server, *words: str) -> None:
    before = server.pids()
    done = server.reload()
    assert done.returncode == 1, server.log
    for word in words:
        assert word in done.stderr
    assert server.pids() == before


def test_ttou_during_failed_reload_keeps_one_worker(server: Server) -> None:
    server.configure(workers=1)
    server.start()
    # the new configuration has more workers, so that TTOU can remove some, and they never finish booting
    server.release("2", before="import time; time.sleep(3600)")
    server.set_current("2")
    server.configure(workers=4, handover_boot_timeout=600)
    server.signal(signal.SIGHUP)
    booting = wait_for(lambda: server.pids("booting"))
    for wanted in (3, 2, 1):
        server.signal(signal.SIGTTOU)
        wait_for(lambda wanted=wanted: server.status["workers_wanted"] == wanted)  # type: ignore[misc]
    os.kill(booting[0], signal.SIGKILL)
    wait_for(lambda: (server.status["reload"] or {}).get("outcome") == "failed")
    server.set_current("1")
    assert server.status["workers_wanted"] == 1
    assert_recovers(server, workers=1)


def test_zero_workers_is_refused_by_reload_and_start(server: Server) -> None:
    server.start()
    server.configure(workers=0)
    assert_reload_fails(server, "workers")
    assert_recovers(server)
    server.stop()
    server.configure(workers=0)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0


HOOKS = {
    "pre_fork": "def pre_fork(server, worker): raise ValueError('the hook broke')",
    "pre_fork exits": "def pre_fork(server, worker): raise SystemExit(1)",
    "post_fork": "def post_fork(server, worker): raise ValueError('the hook broke')",
    "nworkers_changed": "def nworkers_changed(server, new, old):\n    if old: raise ValueError('the hook broke')",
    "on_reload": "def on_reload(server): raise ValueError('the hook broke')",
}


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("pre_fork", "the hook broke"),
        ("pre_fork exits", "the hook pre_fork called sys.exit(1)"),
        ("on_reload", "the hook broke"),
        ("post_fork", "the hook post_fork: ValueError: the hook broke"),
    ],
)
def test_raising_hook_fails_only_reload(server: Server, hook: str, words: str) -> None:
    server.start()
    server.configure(HOOKS[hook])
    assert_reload_fails(server, words)
    assert_recovers(server)


def test_raising_hook_fails_start_with_reason(server: Server) -> None:
    server.configure(HOOKS["pre_fork"])
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "the hook broke" in server.log


@pytest.mark.parametrize("change", [signal.SIGTTIN, signal.SIGTTOU])
@pytest.mark.parametrize("error", ["ValueError('the hook broke')", "SystemExit(1)"])
def test_raising_hooks_do_not_end_master(server: Server, change: int, error: str) -> None:
    child_exit = f"def child_exit(server, worker): raise {error}\n"
    server.configure(child_exit + HOOKS["nworkers_changed"].replace("ValueError('the hook broke')", error))
    server.start()
    server.signal(change)
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.pids() and len(server.pids()) >= 1)
    wait_for(lambda: "The hook child_exit raised" in server.log)
    server.wait_for_loop()
    assert server.process is not None
    assert server.process.poll() is None, server.log
    assert server.get()["release"] == "1"


def test_missing_worker_tmp_dir_fails_only_reload(server: Server) -> None:
    server.start()
    server.configure(worker_tmp_dir="/nonexistent")
    assert_reload_fails(server, "/nonexistent")
    assert_recovers(server)


@pytest.mark.parametrize("limit", ["NOFILE", "NPROC"])
def test_exhausted_resource_fails_only_reload(server: Server, limit: str) -> None:
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
    assert_recovers(server)


def test_exit_of_worker_while_no_descriptor_is_free_does_not_end_master(server: Server) -> None:
    server.start()
    assert server.process is not None
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.children())
    server.wait_for_loop()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    wait_for(lambda: killed not in server.pids())
    assert_recovers(server)


# case: settings that a start refuses, more configuration, text that the error must contain
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
def test_reload_refuses_what_start_refuses(server: Server, case: str) -> None:
    settings, text, word = REFUSED[case]
    server.start()
    server.configure(text, **settings)  # type: ignore[arg-type]
    assert_reload_fails(server, "bad configuration", word)
    assert_recovers(server)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR2"])
def test_worker_ignores_signals_for_master(server: Server, name: str) -> None:
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
        # a draining worker would close the connection
        assert connection.get().getheader("connection") is None
    server.wait_for_loop()
    assert server.pids() == before


REPLACED_HANDLER = """
import asyncio as _asyncio, signal as _signal, sys
_lifespan = lifespan
async def leave():
    sys.exit(0)
async def cancel():
    for _ in range(3):
        for task in _asyncio.all_tasks():
            if "run_asgi" not in repr(task) and task is not _asyncio.current_task():
                task.cancel()
        await _asyncio.sleep(0.1)
async def lifespan(receive, send):
    async def replacing(message):
        if message["type"] == "lifespan.startup.complete":
            HANDLER
        await send(message)
    await _lifespan(receive, replacing)
"""
HANDLERS = {
    "signal": "_signal.signal(_signal.SIGTERM, lambda *_: sys.exit(0))",
    "event loop": "_asyncio.get_running_loop().add_signal_handler(_signal.SIGTERM, sys.exit, 0)",
    "loop.stop": "_asyncio.get_running_loop().add_signal_handler(_signal.SIGTERM, _asyncio.get_running_loop().stop)",
    "exit in a task": (
        "_asyncio.get_running_loop().add_signal_handler(_signal.SIGTERM, lambda: _asyncio.create_task(leave()))"
    ),
    "cancelled server": (
        "_asyncio.get_running_loop().add_signal_handler(_signal.SIGTERM, lambda: _asyncio.create_task(cancel()))"
    ),
}


@pytest.mark.parametrize("way", ["reload", "stop"])
@pytest.mark.parametrize(
    ("handler", "loop"),
    [
        ("signal", "auto"),
        *((handler, loop) for handler in HANDLERS if handler != "signal" for loop in ("asyncio", "uvloop")),
    ],
)
def test_worker_drains_if_application_replaces_sigterm_handler(
    server: Server, way: str, handler: str, loop: str
) -> None:
    server.release("1", after=REPLACED_HANDLER.replace("HANDLER", HANDLERS[handler]))
    server.configure(graceful_timeout=20, handover_loop=loop)
    server.start()
    before = server.pids()
    connection = server.connect()
    connection.request("GET", "/slow?seconds=2&began=slow")
    server.wait_started("slow")
    if way == "stop":
        assert server.stop() == 0
    else:
        assert server.reload().returncode == 0
        wait_for(lambda: not set(before) & set(server.children()), 60)
    assert connection.getresponse().status == 200
    # a worker that missed the signal would be killed after its timeout
    assert "killing it" not in server.log


def test_unwritable_status_file_is_logged_once(server: Server) -> None:
    server.start()
    scratch = server.root / f"handover.json.{server.process.pid}.new"  # type: ignore[union-attr]
    scratch.mkdir()
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)) * 2:
        server.messages.clear()
        server.signal(number)
        # sent after the attempt to write the file
        status = f"STATUS={workers} of {workers} workers ready"
        wait_for(lambda status=status: any(message.startswith(status) for message in server.messages))  # type: ignore[misc]
    lines = [json.loads(line) for line in server.log.splitlines() if "status file can't be written" in line]
    assert len(lines) == 1
    scratch.rmdir()


def test_log_file_that_cannot_be_reopened_costs_no_process(server: Server) -> None:
    folder = server.root / "logs"
    folder.mkdir()
    server.configure(accesslog=str(folder / "access.log"))
    server.start()
    before = server.pids()
    shutil.rmtree(folder)
    server.signal(signal.SIGUSR1)
    wait_for(lambda: server.log.count("The log files can't be reopened") == 3, what="three messages")
    assert server.get()["release"] == "1"
    assert server.pids() == before
    folder.mkdir()
    server.signal(signal.SIGUSR1)
    wait_for((folder / "access.log").exists)
    assert_recovers(server)


def test_status_with_closed_pipe_prints_no_traceback(server: Server) -> None:
    server.start()
    command = f"{sys.executable} -m gunicorn_handover status --json --status-file {server.status_file} | true"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=30)
        assert done.stderr == ""


SLOW = {
    # slow only the second time it is loaded: the first time is the trial, in a child
    "file": "import time\nif marker.exists(): time.sleep(3600)",
    "busy file": "import time\nend = time.monotonic() + 3600\nwhile marker.exists() and time.monotonic() < end: pass",
    "hook": "import time\ndef on_reload(server):\n    if marker.exists(): time.sleep(3600)",
}
MARK = """
import os, pathlib
marker = pathlib.Path({root!r}, "master-loads")
if os.getppid() != {master}:  # in the master, not in the trial
    pathlib.Path({root!r}, "loads").open("a").write("x")
    marker.touch()
"""


def slow_configuration(server: Server, text: str, **settings: object) -> None:
    """Writes a configuration that takes an hour to load in the master, but not in the trial."""
    assert server.process is not None
    server.configure(MARK.format(root=str(server.root), master=server.process.pid) + text, **settings)


def loads(server: Server) -> int:
    path = server.root / "loads"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_slow_configuration_does_not_delay_stop(server: Server, case: str, number: int) -> None:
    server.start()
    slow_configuration(server, SLOW[case])
    server.signal(signal.SIGHUP)
    wait_for(lambda: loads(server))
    assert server.stop(number) == 0  # before the hour is over


@pytest.mark.parametrize("case", SLOW)
def test_slow_configuration_does_not_delay_replacement(server: Server, case: str) -> None:
    server.start()
    slow_configuration(server, SLOW[case])
    server.signal(signal.SIGHUP)
    wait_for(lambda: loads(server))
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.pids())
    # the load is restarted, and may finish
    wait_for(lambda: loads(server) == 2)
    (server.root / "master-loads").unlink()


def test_hanging_configuration_fails_reload(server: Server) -> None:
    server.start()
    server.configure(handover_boot_timeout=3)
    assert server.reload().returncode == 0
    slow_configuration(server, SLOW["file"], handover_boot_timeout=3)
    assert_reload_fails(server, "took longer to load")
    assert server.get()["release"] == "1"
    assert_recovers(server)


def test_programs_run_by_configuration_are_not_taken_for_workers(server: Server) -> None:
    server.start()
    slow_configuration(server, "import subprocess\nfor _ in range(4): subprocess.run(['sleep', '0.4'], check=True)")
    done = server.reload()
    assert done.returncode == 0, done.stderr
    assert loads(server) == 1
