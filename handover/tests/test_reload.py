"""Reloads: what they apply, what they survive, and that a failed one changes nothing."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.traffic import Background, Load

from conftest import Server, time_slice, wait_for

LOADS = [
    Load("get", share=6, expect='"release":'),
    Load("post", "/echo", share=3, size=20_000, expect="20000"),
    Load("fresh", share=1, wait=0.3),
    Load("idle", share=1, wait=0.5),
    Load("get", "/slow?seconds=0.4", share=0.5),
    Load("upload", "/echo", share=0.1, size=2_000_000, wait=0.5, expect="2000000"),
]


@pytest.mark.versions
def test_reload_under_load_loses_no_request(server: Server) -> None:
    # if the machine stalls for a second, clients must not look idle; uploads may take long on a busy one
    server.configure(keepalive=10, graceful_timeout=3600)
    server.start()
    with Background(server.target, LOADS, rate=300, fewest=1000) as traffic:
        for name in ("2", "3", "4", "5", "6", "7"):
            server.release(name)
            server.set_current(name)
            done = server.reload()
            assert (done.returncode, done.stderr) == (0, "")
            assert f"release {name} serves" in done.stdout
            assert {server.get()["release"] for _ in range(8)} == {name}
            ready = [worker for worker in server.status["workers"] if worker["state"] == "ready"]
            assert [worker["release"] for worker in ready] == [name, name]
    assert traffic.summary.failed == {}, traffic.summary.failures
    assert server.status["generation"] == 7


@pytest.mark.versions
@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_reload_loses_no_request_with_each_parser_and_loop(server: Server, http: str, loop: str) -> None:
    server.configure(handover_http=http, handover_loop=loop, keepalive=10, graceful_timeout=3600)
    server.start()
    with Background(server.target, LOADS, rate=250, fewest=250) as traffic:
        for _ in range(2):
            assert server.reload().returncode == 0
    assert traffic.summary.failed == {}, traffic.summary.failures


@pytest.mark.versions
def test_old_worker_imports_and_reads_from_its_own_release(server: Server) -> None:
    """From the move of `current` until the old worker exits, which takes long if the new release is broken."""

    def make_release(name: str) -> None:
        source = server.release(name, before="import parts")
        (source / "parts").mkdir()
        (source / "parts/__init__.py").touch()
        (source / "parts/late.py").write_text(f"NAME = {name!r}")
        (source / "late.txt").write_text(name)

    make_release("2")
    make_release("3")
    (server.root / "releases/3/src/main.py").write_text("def (")
    server.set_current("2")
    server.start()
    server.set_current("3")
    assert server.reload().returncode == 1
    assert server.get("/late") == {"module": "2", "file": "2"}
    server.release("3", before="import parts")
    assert server.reload().returncode == 0
    assert server.get("/late") == {"module": "3", "file": "3"}


BROKEN: dict[str, tuple[str, str, str]] = {
    # case: lines before, lines after, text that the message must contain
    "syntax error": ("", "def (", "SyntaxError"),
    "missing dependency": ("import no_such_package", "", "No module named 'no_such_package'"),
    "missing name": ("", "del application", "application"),
    "exception at import": ("raise RuntimeError('no settings')", "", "no settings"),
    "exit at import": ("raise SystemExit(0)", "", "sys.exit(0)"),
    "exit with 3 at import": ("raise SystemExit(3)", "", "sys.exit(3)"),
    "os._exit at import": ("import os; os._exit(0)", "", "exited with code 0"),
    "killed at import": ("import os; os.kill(os.getpid(), 9)", "", "SIGKILL (out of memory?)"),
    "out of memory at import": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); HOG = bytearray(2**30)",
        "",
        "MemoryError",
    ),
    "lifespan reports failure": (
        "",
        "async def lifespan(receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'Traceback\\nOSError: no database'})",
        "OSError: no database",
    ),
    "exit in lifespan": (
        "",
        "async def lifespan(receive, send):\n    await receive()\n    raise SystemExit(4)",
        "sys.exit(4)",
    ),
    "interrupt at import": ("raise KeyboardInterrupt", "", "KeyboardInterrupt"),
    "lifespan hangs": (
        "",
        "async def lifespan(receive, send):\n    await asyncio.sleep(3600)",
        "not ready after 3 s",
    ),
    "blocks after startup": (
        "",
        "async def consume():\n    time.sleep(3600)\n"
        "async def lifespan(receive, send):\n"
        "    await receive()\n"
        "    consumer = asyncio.create_task(consume())\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()",
        "has blocked the event loop for",
    ),
    "import hangs": ("import time; time.sleep(3600)", "", "not ready after 3 s"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_reload_of_broken_release_changes_nothing(server: Server, case: str) -> None:
    before, after, reason = BROKEN[case]
    server.configure(handover_boot_timeout=3, timeout=0)
    server.start()
    pids = server.pids()
    loads = [Load("get", expect='"release":'), Load("post", "/echo", expect="1000"), Load("fresh", wait=0.2)]
    with Background(server.target, loads, rate=150, fewest=150) as traffic:
        server.release("bad", before, after)
        server.set_current("bad")
        done = server.reload()
        assert done.returncode == 1
        assert reason in done.stderr
        assert server.pids() == pids
        assert server.status["generation"] == 1
        assert server.status["reload"]["outcome"] == "failed"
        assert reason in server.status["reload"]["error"]
        assert "Reload 1 failed" in server.log
        server.release("2")
        server.set_current("2")
        assert server.reload().returncode == 0
        assert server.get()["release"] == "2"
    assert traffic.summary.failed == {}, traffic.summary.failures
    wait_for(lambda: len(server.children()) == 2, what="the exit of the failed generation")


def _bad_configuration(server: Server) -> str:
    server.configure("raise ValueError('bad conf')")
    return "bad conf"


def _bad_setting(server: Server) -> str:
    server.configure(workers="many")
    return "many"


def _bad_own_setting(server: Server) -> str:
    server.configure(handover_boot_nice=40)
    return "40"


def _refused_setting(server: Server) -> str:
    server.configure(preload_app=True)
    return "preload_app"


def _exits(server: Server) -> str:
    server.configure("import os; os._exit(9)")
    return "exit code 9"


def _hangs(server: Server) -> str:
    server.configure("import time; time.sleep(3600)")
    return "handover_boot_timeout"


def _no_configuration(server: Server) -> str:
    server.config_file.unlink()
    return "gunicorn.conf.py"


def _dangling(server: Server) -> str:
    server.set_current("missing")
    return "chdir"


@pytest.mark.parametrize(
    "break_configuration",
    [
        _bad_configuration,
        _bad_setting,
        _bad_own_setting,
        _refused_setting,
        _exits,
        _hangs,
        _no_configuration,
        _dangling,
    ],
)
def test_reload_of_bad_configuration_changes_nothing(
    server: Server, break_configuration: Callable[[Server], str]
) -> None:
    server.configure(handover_boot_timeout=3)
    server.start()
    pids = server.pids()
    with Background(server.target, [Load("get")], rate=100, fewest=100) as traffic:
        reason = break_configuration(server)
        done = server.reload()
        assert done.returncode == 1
        assert reason in done.stderr
        assert server.pids() == pids
        server.configure(workers=3)
        server.set_current("1")
        assert server.reload().returncode == 0
        assert len(server.pids()) == 3
    assert traffic.summary.failed == {}, traffic.summary.failures


@pytest.mark.versions
def test_failed_reload_restores_configuration(server: Server) -> None:
    server.configure(raw_env=["GREETING=old"])
    server.start()
    server.release("bad", "raise RuntimeError('broken')")
    server.set_current("bad")
    server.configure(raw_env=["GREETING=new", "EXTRA=1"], workers=4, handover_boot_nice=0)
    assert server.reload().returncode == 1
    assert server.status["workers_wanted"] == 2
    # the replacement of an old worker has the old configuration, although it imports what is on disk
    server.set_current("1")
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(server.pids()) == 2 and killed not in server.pids(), what="the replacement")
    for _ in range(8):
        environment = server.get("/environment")
        assert environment["GREETING"] == "old"
        assert "EXTRA" not in environment


@pytest.mark.versions
def test_reload_sets_and_unsets_variables(server: Server) -> None:
    server.configure(raw_env=["GREETING=one", "GONE=1"])
    server.environ = {"GREETING": "inherited"}
    server.start()
    assert server.get()["greeting"] == "one"
    server.configure(raw_env=["GREETING=two"])
    assert server.reload().returncode == 0
    environment = server.get("/environment")
    assert environment["GREETING"] == "two"
    assert "GONE" not in environment
    server.configure()
    assert server.reload().returncode == 0
    assert server.get()["greeting"] == "inherited"


def test_module_removed_in_new_release_is_not_importable(server: Server) -> None:
    (server.root / "releases/1/src/extra.py").write_text("")
    server.release("1", "import extra")
    server.start()
    server.release("2", "try:\n    import extra\nexcept ImportError:\n    extra = None", "RELEASE = str(extra)")
    server.set_current("2")
    assert server.reload().returncode == 0
    assert server.get()["release"] == "None"


@pytest.mark.versions
def test_reload_uses_site_packages_of_new_release(server: Server) -> None:
    """As in production: `current/venv/bin/python` and PYTHONPATH=`current/server`."""
    import subprocess
    import sys
    import sysconfig

    import gunicorn_handover

    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for name in ("1", "2"):
        source = server.release(
            name,
            "import dependency, sys\nPREFIXES = (sys.prefix, sys.exec_prefix, sys.executable)",
            "RELEASE = ' '.join([dependency.VERSION, *PREFIXES])",
        )
        venv = source.parent / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        (venv / site / "dependency.py").write_text(f"VERSION = 'dependency {name}'\n")
        (source.parent / "server").symlink_to(sysconfig.get_path("purelib"))
    package = os.path.dirname(os.path.dirname(gunicorn_handover.__file__))
    server.environ = {"PYTHONPATH": f"{server.current}/server:{package}"}
    server.python = str(server.current / "venv/bin/python")
    server.start()

    def served(name: str) -> str:
        # the release's own folder, not the link
        venv = os.path.realpath(server.root / f"releases/{name}/venv")
        return f"dependency {name} {venv} {venv} {venv}/bin/python"

    assert server.get()["release"] == served("1")
    server.set_current("2")
    assert server.reload().returncode == 0
    assert {server.get()["release"] for _ in range(6)} == {served("2")}


@pytest.mark.versions
def test_hups_during_reload_cause_one_more_reload(server: Server) -> None:
    server.start()
    server.release("2", server.block_import("2"))
    server.set_current("2")
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.pids("booting"))
    server.release("3")
    server.set_current("3")
    for number in range(2, 7):
        server.signal(signal.SIGHUP)
        wait_for(lambda number=number: server.log.count("Reload requested") == number)  # type: ignore[misc]
    server.unblock_import("2")
    wait_for(lambda: (server.status["reload"] or {}).get("number") == 2)
    server.wait_for_loop()
    assert server.status["reload_under_way"] is None
    assert server.status["reload"]["number"] == 2
    assert server.status["generation"] == 3
    assert server.get()["release"] == "3"


def test_concurrent_reload_commands_all_succeed(server: Server) -> None:
    server.start()
    server.release("2", "import time; time.sleep(0.3)")
    server.set_current("2")
    codes: list[int] = []
    callers = [threading.Thread(target=lambda: codes.append(server.reload().returncode)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert codes == [0, 0, 0, 0]
    assert 1 <= server.status["reload"]["number"] <= 4


@pytest.mark.versions
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_master_stops_during_reload(server: Server, number: signal.Signals) -> None:
    server.configure(graceful_timeout=3600)
    server.start()
    server.release("2", "import time; time.sleep(3600)")
    server.set_current("2")
    server.signal(signal.SIGHUP)
    wait_for(lambda: len(server.children()) == 4)
    pids = server.children()
    assert server.stop(number) == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not server.status_file.exists()


@pytest.mark.versions
def test_number_of_workers_changes_during_reload(server: Server) -> None:
    server.start()
    server.release("2", server.block_import("2"))
    server.set_current("2")
    server.signal(signal.SIGHUP)
    # wait until the configuration is loaded: as in Gunicorn, its number of workers replaces what signals have set
    wait_for(lambda: server.pids("booting"))
    server.signal(signal.SIGTTIN)
    wait_for(lambda: server.status["workers_wanted"] == 3)
    server.unblock_import("2")
    wait_for(lambda: server.status["reload"])
    assert server.status["reload"]["outcome"] == "ok"
    assert len(server.pids()) == 3
    server.signal(signal.SIGTTOU)
    wait_for(lambda: len(server.children()) == 2)


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.versions
def test_reload_survives_killed_workers(server: Server) -> None:
    server.start()
    server.release("2", server.block_import("2"))
    server.set_current("2")
    old = server.pids()
    quiet = sockets(old[0])
    with Background(server.target, [Load("get")], rate=100, fewest=100) as traffic:
        server.signal(signal.SIGHUP)
        booting = wait_for(lambda: server.pids("booting"))
        os.kill(booting[0], signal.SIGKILL)
        wait_for(lambda: server.status["reload"])
        assert server.status["reload"]["outcome"] == "failed"
        assert server.pids() == old
        server.signal(signal.SIGHUP)
        wait_for(lambda: server.pids("booting"))
        # while stopped, it accepts no more connections
        os.kill(old[0], signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{old[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        held = sockets(old[0]) - quiet
        os.kill(old[0], signal.SIGKILL)
        server.unblock_import("2")
        wait_for(lambda: server.status["reload"]["number"] == 2)
        assert server.status["reload"]["outcome"] == "ok"
    # only the connections of the killed worker
    assert traffic.summary.failed_total <= held, traffic.summary.failures
    assert set(traffic.summary.failed) <= {"reset", "no answer", "cut", "broken pipe"}
    assert len(server.pids()) == 2


def test_new_workers_serve_immediately_without_old_ones(server: Server) -> None:
    server.start()
    server.release("2", server.block_import("2"))
    server.set_current("2")
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.pids("booting"))
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.unblock_import("2")
    assert server.get()["release"] == "2"
    wait_for(lambda: server.status["reload"])
    assert server.status["reload"]["outcome"] == "ok"


@pytest.mark.versions
def test_incomplete_generation_gets_no_request(server: Server) -> None:
    server.configure(workers=3)
    server.start()
    source = server.release("2")
    # the third worker of the new release fails
    (source / "count").write_text("")
    server.release(
        "2",
        "from pathlib import Path as P\n"
        "with P(__file__).with_name('count').open('a') as f: f.write('x')\n"
        "if len(P(__file__).with_name('count').read_text()) == 3: raise RuntimeError('third')",
    )
    server.set_current("2")
    served = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            served.add(server.get()["release"])

    asking = threading.Thread(target=ask)
    asking.start()
    done = server.reload()
    stop.set()
    asking.join()
    assert done.returncode == 1
    assert "third" in done.stderr
    assert served == {"1"}


@pytest.mark.versions
def test_master_retries_boot_while_code_is_broken(server: Server) -> None:
    server.start()
    server.release("bad", "raise RuntimeError('still bad')")
    server.set_current("bad")
    assert server.reload().returncode == 1
    killed, left = server.pids()
    before = server.log
    os.kill(killed, signal.SIGKILL)
    tries = re.compile(r"Retrying in ([0-9.]+) s")
    wait_for(lambda: len(tries.findall(server.log.removeprefix(before))) == 3)
    assert server.pids() == [left]
    assert tries.findall(server.log.removeprefix(before)) == ["1", "2", "4"]
    assert server.get()["pid"] == left
    server.release("2")
    server.set_current("2")
    assert server.reload().returncode == 0
    assert len(server.pids()) == 2


@pytest.mark.versions
def test_killed_worker_is_replaced_immediately(server: Server) -> None:
    server.start()
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.pids() and len(server.pids()) == 2)
    assert "Retrying" not in server.log


def test_simultaneous_failures_back_off_once(server: Server) -> None:
    server.configure(workers=3, handover_boot_at_once=3)
    server.release("1", "import pathlib\nassert not pathlib.Path(__file__).with_name('broken').exists()")
    server.start()
    (server.root / "releases/1/src/broken").touch()
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.log.count("failed to boot") >= 6)
    # after the kills, and after each of two rounds of three boots
    assert re.findall(r"Retrying in ([0-9.]+) s", server.log) == ["1", "2", "4"]


@pytest.mark.versions
def test_reload_refuses_new_bind_address(server: Server) -> None:
    # without sockets from systemd
    server.listeners.clear()
    server.socket.unlink()
    server.configure(bind=f"unix:{server.socket}")
    server.start()
    server.configure(bind=f"unix:{server.root}/other.sock")
    done = server.reload()
    assert done.returncode == 1
    assert "bind" in done.stderr
    assert server.get()["release"] == "1"


def test_only_booting_workers_have_low_priority(server: Server) -> None:
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    server.release("2", f"{thread}\n{server.block_import('2')}")
    server.start()
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    normal = server.get("/priority")
    normal_slice = time_slice(server.pids()[0])
    server.set_current("2")
    server.signal(signal.SIGHUP)
    booting = wait_for(lambda: server.pids("booting"))[0]
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, booting) == 19)
    wait_for(lambda: session_niceness(booting) in (19, None))
    wait_for(lambda: time_slice(booting) in (0.1, None))
    with open(f"/proc/{booting}/oom_score_adj") as file:
        assert int(file.read()) == min(1000, normal["oom"] + 500)
    server.unblock_import("2")
    wait_for(lambda: server.status["reload"])
    served = server.get("/priority")
    assert len(served["threads"]) > 1
    assert set(served["threads"]) == {mine}
    assert served["oom"] == normal["oom"]
    # two workers' sessions together weigh as one
    wait_for(lambda: {session_niceness(pid) for pid in server.pids()} <= {3, None})
    assert session_niceness(os.getpid()) in (0, None)
    assert {time_slice(pid) for pid in server.pids()} == {normal_slice}


def session_niceness(pid: int) -> int | None:
    """The niceness of a session's autogroup (sched(7)); None without one. The file is empty for a session as old as
    the machine."""
    try:
        group = Path(f"/proc/{pid}/autogroup").read_text().split()
    except FileNotFoundError:
        return None
    return int(group[-1]) if group else None


def test_replacement_of_killed_worker_boots_at_normal_priority(server: Server) -> None:
    server.start()
    server.release("1", server.block_import("1"))
    os.kill(server.pids()[0], signal.SIGKILL)
    booting = wait_for(lambda: server.pids("booting"))[0]
    server.wait_for_loop()
    assert os.getpriority(os.PRIO_PROCESS, booting) == os.getpriority(os.PRIO_PROCESS, 0)


def test_timeout_does_not_apply_to_booting_workers(server: Server) -> None:
    """Neither for a worker that imports nor for one that waits for the others."""
    server.configure(timeout=1)
    server.release("1", "import time; time.sleep(1.3)")
    server.start()
    assert server.reload().returncode == 0
    assert len(server.pids()) == 2
    assert "TIMEOUT" not in server.log


def test_boot_nice_0_keeps_niceness(server: Server) -> None:
    server.configure(handover_boot_nice=0)
    server.release("2", server.block_import("2"))
    server.start()
    server.set_current("2")
    server.signal(signal.SIGHUP)
    booting = wait_for(lambda: server.pids("booting"))[0]
    server.wait_for_loop()
    assert os.getpriority(os.PRIO_PROCESS, booting) == os.getpriority(os.PRIO_PROCESS, 0)
