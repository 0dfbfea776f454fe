"""Real servers for the tests, started as systemd starts them, on sockets that the tests own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

WORKER = """
from gunicorn_handover.worker import HandoverWorker
class Worker(HandoverWorker):
    CONFIG_KWARGS = {**HandoverWorker.CONFIG_KWARGS, "ws": "%s"}
"""

# What systemd does between fork and exec: pass the sockets from descriptor 3 on, and set the pid that they are for
ACTIVATE = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(fds)]
for fd in fds:
    os.close(fd)
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
    os.close(fd)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def wait_for(condition: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """Waits until `condition` returns a true value, and returns it. The timeout only ends a test that hangs."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} s: {what or condition}")


def time_slice(pid: int) -> float | None:
    """The seconds for which a process runs before another may; None if the kernel doesn't show it."""
    try:
        lines = Path(f"/proc/{pid}/sched").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[-1]) / 1e9 for line in lines if line.startswith("se.slice ")), None)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it exits between open and read
        return False


def pending(pid: int, number: int) -> bool:
    """Whether a signal is still pending for a process, or blocked in it, as while its handler runs."""
    words = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    waiting = (int(words[name], 16) for name in ("ShdPnd", "SigPnd", "SigBlk"))
    return any(signals >> (number - 1) & 1 for signals in waiting)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def get(self, path: str = "/") -> http.client.HTTPResponse:
        """The response, with its parsed JSON body in `.document`."""
        self.request("GET", path)
        response = self.getresponse()
        response.document = json.loads(response.read() or b"null")  # type: ignore[attr-defined]
        return response


class Server:
    """A service: its releases, `current`, socket, status file and process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "current"
        self.socket = root / "web.sock"
        self.status_file = root / "handover.json"
        self.config_file = root / "gunicorn.conf.py"
        self.log_file = root / "log"
        self.environ: dict[str, str] = {}
        self.python = sys.executable
        self.module = "main:application"
        self.process: subprocess.Popen[bytes] | None = None
        self.arguments: list[str] = []
        self.messages: list[str] = []
        self.listeners = [self._listen()]
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(root / "notify"))
        threading.Thread(target=self._receive, daemon=True).start()
        self.release("1")
        self.set_current("1")
        self.configure()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen(512)
        return listener

    @property
    def target(self) -> str:
        return f"unix:{self.socket}"

    def release(self, name: str, before: str = "", after: str = "") -> Path:
        """Creates a release of the tests' application, with lines inserted before and after its code."""
        source = self.root / "releases" / name / "src"
        source.mkdir(parents=True, exist_ok=True)
        text = (HERE / "application.py").read_text()
        future, _, rest = text.partition("from __future__ import annotations\n")
        (source / "main.py").write_text(f"{future}from __future__ import annotations\n{before}\n{rest}\n{after}\n")
        (source.parent / "release.json").write_text(json.dumps({"id": name}))
        return source

    def set_current(self, name: str) -> None:
        """Points `current` to a release."""
        scratch = self.root / "current.new"
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(f"releases/{name}")
        scratch.replace(self.current)

    def configure(self, text: str = "", **settings: Any) -> None:
        """Writes gunicorn.conf.py."""
        values = {"workers": 2, "chdir": str(self.current / "src"), "keepalive": 2, "graceful_timeout": 10, **settings}
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        self.config_file.write_text("\n".join([*lines, text, ""]))

    def configure_websockets(self, implementation: str, **settings: Any) -> None:
        """Writes gunicorn.conf.py with an implementation of WebSockets: a value of Uvicorn's `ws`."""
        (self.root / "workers.py").write_text(WORKER % implementation)
        self.configure(worker_class="workers.Worker", pythonpath=str(self.root), **settings)
        self.environ["PYTHONPATH"] = f"{self.root}:{os.environ.get('PYTHONPATH', '')}"

    def start(self, ready: bool = True) -> Server:
        """Starts the service; if `ready`, waits for READY=1."""
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.root / "notify"),
            "GUNICORN_HANDOVER_STATUS": str(self.status_file),
            "GUNICORN_HANDOVER_RELEASE_FILE": str(self.current / "release.json"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environ,
        }
        descriptors = [listener.fileno() for listener in self.listeners]
        command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, descriptors)), self.python]
        command += ["-m", "gunicorn_handover", "-c", str(self.config_file), *self.arguments, self.module]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=environ, pass_fds=descriptors, stdout=log, stderr=log
            )
        if ready:
            process = self.process
            wait_for(lambda: self.notified("READY=1") or process.poll() is not None, what="READY=1")
            assert process.poll() is None, self.log
        return self

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Stops the service; returns its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        """Kills all processes and closes the sockets."""
        if self.process is not None:
            pids = [self.process.pid, *self.children()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        for listener in self.listeners:
            listener.close()
        self._notify.shutdown(socket.SHUT_RDWR)
        self._notify.close()

    def children(self) -> list[int]:
        """The pids of the master's children."""
        assert self.process is not None
        try:
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def notified(self, message: str) -> bool:
        """Whether the service has ever sent this line to systemd."""
        return message in self.messages

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._notify.recv(65536):
                self.messages += message.decode().splitlines()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the package against this server."""
        command = [sys.executable, "-m", "gunicorn_handover", *arguments, "--status-file", str(self.status_file)]
        return subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)

    def reload(self) -> subprocess.CompletedProcess[str]:
        """`systemctl reload`."""
        return self.cli("reload", "--wait", "--timeout", "100")

    @property
    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.status_file.read_text())
        return document

    def pids(self, state: str = "ready") -> list[int]:
        return [worker["pid"] for worker in self.status["workers"] if worker["state"] == state]

    @property
    def log(self) -> str:
        """The complete lines so far, as the last one may be incomplete."""
        text = self.log_file.read_bytes()
        return text[: text.rfind(b"\n") + 1].decode()

    @property
    def failed_exits(self) -> list[str]:
        """How workers exited that failed or were killed."""
        return re.findall(r"Worker \(pid:\d+\) (exited with code [1-9]\d*|was killed by \w+)", self.log)

    def accepts(self, pid: int) -> bool:
        """Whether a process has the listening sockets open."""
        ours = {f"socket:[{os.fstat(listener.fileno()).st_ino}]" for listener in self.listeners}
        try:
            return bool(ours & {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()})
        except (FileNotFoundError, PermissionError):  # it exits, or closes a descriptor in the meantime
            return self.accepts(pid) if alive(pid) else False

    def wait_accepted(self) -> None:
        """Waits until no connection is queued."""
        wait_for(lambda: not select.select(self.listeners, [], [], 0)[0], what="the last accept")

    def received(self) -> list[str]:
        """All messages that the service has sent to systemd so far."""
        marker = f"X_HEARD={time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(marker.encode(), str(self.root / "notify"))
        wait_for(lambda: marker in self.messages)
        return self.messages

    def wait_for_loop(self) -> None:
        """Waits until the master has handled all signals so far."""
        message = "USR2 is ignored"
        for _ in range(2):  # the work that a signal causes is done when the master handles the next signal
            before = self.log.count(message)
            self.signal(signal.SIGUSR2)
            wait_for(lambda before=before: self.log.count(message) > before, what="the master's answer to USR2")  # type: ignore[misc]

    def block_import(self, name: str) -> str:
        """Lines for a release whose import blocks until `unblock_import(name)`."""
        path = str(self.root / f"go-{name}")
        return f"import os, time\nwhile not os.path.exists({path!r}): time.sleep(0.02)\n"

    def unblock_import(self, name: str) -> None:
        """Unblocks the import of such a release."""
        (self.root / f"go-{name}").touch()

    def wait_started(self, name: str) -> None:
        """Waits until the application has started the request that has `began=name` in its query."""
        wait_for((self.current / "src" / name).exists, what=f"the request {name}")

    def connect(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def get(self, path: str = "/") -> Any:
        """The document from a request on a new connection."""
        connection = self.connect()
        try:
            return connection.get(path).document  # type: ignore[attr-defined]
        finally:
            connection.close()


@pytest.fixture
def life(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Creates workers in simulated time, with the tests' application by default."""
    from application import application
    from simulation import Life, process_restored

    with contextlib.ExitStack() as stack:
        stack.enter_context(process_restored())

        def create(served: Any = application, **settings: Any) -> Life:
            # a short name, as a Unix socket's path has at most 107 bytes
            root = tmp_path_factory.mktemp("w")
            stack.callback(shutil.rmtree, root)
            life = Life(root, monkeypatch, served, **settings)
            stack.callback(life.close)
            return life

        yield create


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # a short name, as a Unix socket's path has at most 107 bytes
    root = tmp_path_factory.mktemp("s")
    server = Server(root)
    yield server
    server.close()
    shutil.rmtree(root, ignore_errors=True)
