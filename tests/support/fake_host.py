"""A fake host to activate releases on: a folder as its root, a real server, and a stand-in only for systemd.

`systemctl`, `journalctl` and `sync` are programs on PATH, as on a host. `systemctl` asks a thread of the test, which
does what systemd would: it holds the listening socket, starts masters with it, signals them and waits. `Host.events`
lists everything that happens, in order.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout

from .program import write_script

MASTER = pathlib.Path(__file__).with_name("fake_master.py")
SERVICE, BRIDGE, SOCKET = "links.service", "links-bridge.service", "links.socket"
# a shell script, because it is started hundreds of times
SYSTEMCTL = """echo "$*" > {root}/request
{{
  read -r status
  while IFS= read -r line; do
    if [ "$status" = 0 ]; then echo "$line"; else echo "$line" >&2; fi
  done
}} < {root}/answer
exit "$status"
"""


class Clock:
    """Replaces the module `time`: each sleep counts as at least a second, and returns at once."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.pauses: list[float] = []
        self.time = time.time

    def monotonic(self) -> float:
        """The current time, in seconds."""
        return time.monotonic() + self.slept

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.pauses.append(seconds)
        self.slept += max(seconds, 1.0)


class Unit:
    """A service's state, as systemd has it."""

    def __init__(self) -> None:
        self.state = "inactive"
        self.process: subprocess.Popen[str] | None = None
        self.polls = 0


class Host:
    """A host with the releases aaaa, bbbb and cccc of the application `links`. None is active."""

    def __init__(self, root: pathlib.Path) -> None:
        """`root` must be short: the path of a unix socket has at most 107 bytes."""
        self.root = root
        self.app = layout.Application("links", str(root))
        self.health = health_check.Health("/health", str(root / "run/links/web.sock"), "links.example")
        self.units = {SERVICE: Unit(), BRIDGE: Unit()}
        self.listener: socket.socket | None = None
        self.loaded: dict[str, str] = {}
        self.faults: dict[str, list[str]] = {}
        self.hooks: dict[str, Callable[[], object]] = {}
        self._make()
        for name in ("request", "answer"):
            os.mkfifo(root / name)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _make(self) -> None:
        for path in ("run/links", "run/baton/links", "var/lib/baton/links", "usr/bin", "bin"):
            (self.root / path).mkdir(parents=True)
        (self.root / "usr/bin/python3").write_text("the interpreter")
        for release in ("aaaa", "bbbb", "cccc"):
            folder = self.app.release(release)
            (folder / "venv/bin").mkdir(parents=True)
            (folder / "src").mkdir()
            (folder / "venv/bin/python").symlink_to(self.root / "usr/bin/python3")
            metadata = {"id": release, "python": "3.11.2", "packages": {"gunicorn": "27.0.1"}}
            (folder / "release.json").write_text(json.dumps(metadata))
        self.write("etc/machine-id", "1234")
        self.write("etc/links/gunicorn.conf.py", "workers = 2", mode=0o640)
        self.write("etc/links/environment", 'A="1"', mode=0o640)
        self.write("etc/links/secrets/TOKEN", "secret", mode=0o400)
        self.write("etc/systemd/system/links.service", "[Service]\nNice=0\n")
        self.write("etc/systemd/system/links-bridge.service", "[Service]\nNice=0\n")
        self.write("etc/systemd/system/links.socket", "[Socket]\nListenStream=/run/links/web.sock\n")
        self.load()
        self.program("systemctl", SYSTEMCTL.format(root=self.root))
        self.program("journalctl", "echo what the unit logged")
        self.program("sync", f'echo "sync $2" >> {self.root}/events')

    def program(self, name: str, body: str) -> None:
        """Put a shell script on the host's PATH."""
        write_script(self.root / "bin" / name, body)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file as the roles would, with its owner."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)
        if os.geteuid() == 0 and path.startswith("etc/links/"):
            os.chown(file, 0, 12345)

    def load(self) -> None:
        """Do what `systemctl daemon-reload` does."""
        folder = self.root / "etc/systemd/system"
        self.loaded = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}

    def behave(self, release: str, **behaviour: Any) -> None:
        """Set how a release behaves; see fake_master.py."""
        (self.app.release(release) / "src/behaviour.json").write_text(json.dumps(behaviour))
        (self.root / "turns").unlink(missing_ok=True)

    def fail(self, order: str, reason: str = "a simulated failure") -> None:
        """Make the next command of this kind fail (`reload links.service`)."""
        self.faults.setdefault(order, []).append(reason)

    # -- what happened -------------------------------------------------------------------------------------

    @property
    def events(self) -> list[str]:
        """Everything that happened, in order. Repeated events in a row are listed once."""
        path = self.root / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for at, line in enumerate(lines) if at == 0 or lines[at - 1] != line]

    def count(self, event: str) -> int:
        """How often an event happened."""
        return (self.root / "events").read_text().splitlines().count(event)

    def forget(self) -> None:
        """Clear the list."""
        (self.root / "events").unlink(missing_ok=True)

    def note(self, event: str) -> None:
        """Add an event to the list."""
        with (self.root / "events").open("a") as file:
            file.write(event + "\n")

    def ask(self, path: str = "/") -> dict[str, Any]:
        """The application's answer on its socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.root / "run/links/web.sock"))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: links.example\r\n\r\n".encode())
            response = http.client.HTTPResponse(client)
            response.begin()
            body: dict[str, Any] = json.loads(response.read())
            return body

    def pid(self) -> int:
        """The pid of the service's master; 0 if there is none."""
        process = self.units[SERVICE].process
        return process.pid if process else 0

    def files(self) -> dict[str, tuple[bytes, int, int, int]]:
        """The configuration: content, mode, owner and group of each path."""
        found = {}
        for top in ("etc/links", "etc/systemd/system"):
            for path in (self.root / top).rglob("*"):
                if path.is_file():
                    status = path.stat()
                    name = str(path.relative_to(self.root))
                    found[name] = (path.read_bytes(), status.st_mode, status.st_uid, status.st_gid)
        return found

    # -- systemd -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        # also opened for writing, so that it never reaches its end
        with os.fdopen(os.open(self.root / "request", os.O_RDWR)) as requests:
            while (words := requests.readline().split()) != ["end"]:
                try:
                    status, output = self._execute(*words)
                except Exception as error:
                    status, output = 1, f"the stand-in broke: {error!r}\n"
                with (self.root / "answer").open("w") as answer:
                    answer.write(f"{status}\n{output}")

    def _execute(self, verb: str, *words: str) -> tuple[int, str]:
        if verb == "show":
            return 0, self._show(*words)
        order = " ".join([verb, *words])
        self.note(order)
        if order in self.hooks:
            self.hooks.pop(order)()
        if self.faults.get(order):
            reason = self.faults[order].pop(0)
            if verb in ("start", "restart") and words[0] in self.units:
                self.stop(words[0], "failed")
            return 1, f"{reason}\n"
        reason = ""
        if verb == "daemon-reload":
            self.load()
        for unit in words:
            reason = reason or (self._of_socket(verb) if unit == SOCKET else self._of_service(verb, unit))
        return int(bool(reason)), reason and f"{reason}\n"

    def _show(self, unit: str, names: str = "") -> str:
        if unit == SOCKET:
            return f"ActiveState={'active' if self.listener else 'inactive'}\n"
        known = self.units[unit]
        if "MainPID" in names:
            self.note(f"prove {unit}")
            known.polls -= 1
            if known.polls == 0 and known.process:
                known.process.send_signal(signal.SIGUSR1)
                self._line(known)
        return f"ActiveState={known.state}\nMainPID={known.process.pid if known.process else 0}\n"

    def _of_socket(self, verb: str) -> str:
        path = self.root / "run/links/web.sock"
        if verb in ("stop", "restart") and self.listener:
            self.listener.close()
            self.listener = None
            path.unlink(missing_ok=True)
        if verb in ("start", "restart") and not self.listener:
            address = self.loaded[SOCKET].partition("ListenStream=")[2].split()[0]
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(str(self.root / address.lstrip("/")))
            except OSError as error:
                listener.close()
                return f"{address}: {error.strerror}"
            listener.listen(128)
            self.listener = listener
        return ""

    def _of_service(self, verb: str, unit: str) -> str:
        known = self.units[unit]
        if verb in ("stop", "restart"):
            self.stop(unit, "inactive")
        if verb in ("start", "restart") and known.state != "active":
            if not self.listener:
                return f"{SOCKET} is not active"
            known.process = subprocess.Popen(
                [sys.executable, "-IS", MASTER, self.root, unit],
                stdin=self.listener.fileno(),
                stdout=subprocess.PIPE,
                text=True,
                env={"UNIT_TEXT": self.loaded[unit]},
            )
            return self._booted(unit)
        if verb == "reload":
            if known.state != "active" or not known.process:
                return f"{unit} is not active"
            known.process.send_signal(signal.SIGHUP)
            self._polls(known)
            return line if (line := self._line(known)) != "ready" else ""
        if verb == "reset-failed" and known.state == "failed":
            known.state = "inactive"
        return ""

    def _booted(self, unit: str) -> str:
        known = self.units[unit]
        self._polls(known)
        line = self._line(known)
        if line == "ready":
            known.state = "active"
            return ""
        self.stop(unit, "failed")
        return line or "it ended without a message"

    def _polls(self, known: Unit) -> None:
        release = os.path.basename(os.readlink(self.app.current))
        path = self.app.release(release) / "src/behaviour.json"
        known.polls = json.loads(path.read_text()).get("proves_after", 0) if path.exists() else 0

    def _line(self, known: Unit) -> str:
        assert known.process is not None
        assert known.process.stdout is not None
        return known.process.stdout.readline().strip()

    def stop(self, unit: str, state: str = "inactive") -> None:
        """Stop a service without a systemctl command."""
        known = self.units[unit]
        if known.process:
            known.process.terminate()
            known.process.wait()
            if known.process.stdout:
                known.process.stdout.close()
        known.process, known.state = None, state

    def end(self) -> None:
        """Stop all processes and remove the root."""
        (self.root / "request").write_text("end\n")
        self._thread.join(10)
        for unit in self.units:
            self.stop(unit, "inactive")
        if self.listener:
            self.listener.close()
        shutil.rmtree(self.root)
