"""handover.json and the commands that read it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import gunicorn_handover
from conftest import Server, wait_for
from gunicorn_handover import status


def test_status_describes_workers(server: Server) -> None:
    server.start()
    status = wait_for(lambda: len(server.pids()) == 2 and server.status)
    assert server.process is not None
    assert status["schema"] == 1
    assert status["master"]["pid"] == server.process.pid
    assert status["generation"] == 1
    assert status["release"] == "1"
    assert status["workers_wanted"] == 2
    assert status["reload"] is None
    assert status["reload_under_way"] is None
    for worker in status["workers"]:
        assert set(worker) == {"pid", "state", "generation", "release", "since"}
        assert (worker["state"], worker["generation"], worker["release"]) == ("ready", 1, "1")
    assert set(status["versions"]) == {"python", "gunicorn", "uvicorn", "uvicorn_worker", "gunicorn_handover"}
    assert server.reload().returncode == 0
    reload = server.status["reload"]
    assert (reload["number"], reload["outcome"], reload["error"]) == (1, "ok", None)
    assert 0 < reload["duration_seconds"] < 60


def test_fingerprint_contains_what_reload_cannot_replace(server: Server) -> None:
    source = server.release("1")
    (source / "settings.py").write_text("VALUE = 1\n")
    server.configure(f"import sys\nsys.path.insert(0, {str(server.current / 'src')!r})\nimport settings")
    server.start()
    fingerprint = server.status["fingerprint"]
    assert fingerprint["python"]["executable"] == os.path.realpath(sys.executable)
    # a module that gunicorn.conf.py imports stays in the master
    assert fingerprint["files"]["src/settings.py"] == hashlib.sha256(b"VALUE = 1\n").hexdigest()
    package = Path(gunicorn_handover.__file__).parent
    arbiter = (package / "arbiter.py").read_bytes()
    assert fingerprint["files"][str(package / "arbiter.py")] == hashlib.sha256(arbiter).hexdigest()
    assert fingerprint["distributions"]["gunicorn"] == server.status["versions"]["gunicorn"]
    for folder, found in fingerprint["startup"].items():
        assert set(found) == {path.name for path in Path(folder).glob("*.pth")}
        for name, digest in found.items():
            assert digest == hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()
    assert any("site-packages" in folder for folder in fingerprint["startup"])
    # the application and the parsers are loaded only in workers
    assert "src/main.py" not in fingerprint["files"]
    assert not any("httptools" in path or "uvloop/" in path for path in fingerprint["files"])
    server.release("2")
    server.set_current("2")
    assert server.reload().returncode == 0
    assert server.status["fingerprint"] == fingerprint


def test_status_file_is_written_atomically(server: Server) -> None:
    server.start()
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(json.loads(server.status_file.read_text())["schema"])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3):
        assert server.reload().returncode == 0
    stop.set()
    reader.join()
    assert set(seen) == {1}
    assert [path.name for path in server.root.glob("handover.json*")] == ["handover.json"]


def test_status_command(server: Server) -> None:
    server.start()
    done = server.cli("status")
    assert done.returncode == 0
    assert "release 1" in done.stdout
    document = json.loads(server.cli("status", "--json").stdout)
    assert document["master"]["alive"] is True
    assert all(worker["rss_bytes"] > 2**20 for worker in document["workers"])
    server.release("bad", "raise RuntimeError('bad')")
    server.set_current("bad")
    server.reload()
    assert "failed: worker" in server.cli("status").stdout
    server.signal(signal.SIGKILL)
    server.stop()
    done = server.cli("status")
    assert done.returncode == 1
    assert "ENDED" in done.stdout


def test_reload_without_running_master_fails(server: Server) -> None:
    done = server.reload()
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    server.start()
    server.signal(signal.SIGKILL)
    server.stop()
    done = server.reload()
    assert done.returncode == 1
    assert "has exited" in done.stderr


def test_reload_does_not_signal_reused_pid(server: Server) -> None:
    """The pid may have been reused by another process."""
    server.start()
    status = server.status
    status["master"]["start_ticks"] += 1
    stale = server.root / "stale.json"
    stale.write_text(json.dumps(status))
    server.status_file = stale
    done = server.reload()
    assert done.returncode == 1
    assert "has exited" in done.stderr
    server.wait_for_loop()
    assert "hup" not in server.log


def test_reload_wait_times_out(server: Server) -> None:
    server.start()
    server.release("2", "import time; time.sleep(3600)")
    server.set_current("2")
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.pids("booting"))
    done = server.cli("reload", "--wait", "--timeout", "1")
    assert done.returncode == 1
    assert "has not finished after 1 s (booting workers, 0 of 2 up)" in done.stderr


def test_reload_detects_killed_master(server: Server) -> None:
    server.start()
    server.release("2", "import time; time.sleep(3600)")
    server.set_current("2")
    caller: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: caller.append(server.reload()))
    waiting.start()
    wait_for(lambda: server.status["reload_under_way"])
    server.signal(signal.SIGKILL)
    assert server.process is not None
    server.process.wait()
    waiting.join()
    assert caller[0].returncode == 1
    assert "exited during the reload" in caller[0].stderr


def test_unwritable_status_file_does_not_stop_service(server: Server) -> None:
    server.environ = {"GUNICORN_HANDOVER_STATUS": str(server.root / "missing" / "handover.json")}
    server.start()
    assert server.get()["release"] == "1"
    assert "status file can't be written" in server.log


def test_master_removes_only_its_own_status_file(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    file = status.StatusFile(str(path))
    file.write({"schema": status.SCHEMA, "master": {"pid": os.getpid()}})
    # as a second master does that has taken over the service
    path.write_text(json.dumps({"schema": status.SCHEMA, "master": {"pid": os.getppid()}}))
    file.remove()
    assert json.loads(path.read_text())["master"]["pid"] == os.getppid()
    path.write_text(json.dumps({"schema": status.SCHEMA, "master": {"pid": os.getpid()}}))
    file.remove()
    assert not path.exists()
