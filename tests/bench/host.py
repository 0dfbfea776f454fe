"""The benchmark's host: made, provisioned by Baton's own playbooks, spoken to over SSH, removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from fleet import fleet

from .plan import HERE, PROJECT, Import, Server, servers

INVENTORY = str(HERE / "inventory")
AUTHORITY = str(HERE / "inventory/tls/ca.pem")
LOCK = HERE / "peers/requirements.txt"
CACHE = pathlib.Path.home() / ".cache/baton/bench"
PORT = 18511  # of nginx, as the inventory publishes it
ADDRESS = f"https://127.0.0.1:{PORT}"


class BenchError(Exception):
    """Why nothing could be measured."""


class Host:
    """One host of the fleet."""

    def __init__(self) -> None:
        (host,) = fleet.load(INVENTORY).hosts
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["ServerAliveInterval=15", "ConnectTimeout=10"]
        self._ssh = ["ssh", "-i", str(fleet.ssh_key()), "-p", str(host.port)]
        self._ssh += [word for option in options for word in ("-o", option)]
        self._ssh.append("deploy@127.0.0.1")

    @classmethod
    @contextlib.contextmanager
    def made(cls, keep: bool) -> Iterator[Host]:
        """A fresh host, removed in any case unless it is to be kept."""
        fleet.down(INVENTORY)
        try:
            fleet.up(INVENTORY)
            host = cls()
            host.provision()
            yield host
        finally:
            if keep:
                print(f"Kept: fleet/fleet.py down {pathlib.Path(INVENTORY).relative_to(PROJECT)} removes it.")
            else:
                fleet.down(INVENTORY)

    def run(self, *command: str, script: str = "") -> str:
        """What a command prints that root runs on the host. Raises BenchError."""
        line = shlex.join(["sudo", *command])
        done = subprocess.run([*self._ssh, line], input=script, text=True, capture_output=True, check=False)
        if done.returncode:
            raise BenchError(
                f"`{line[:100]}` ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def provision(self) -> None:
        """Baton's service by site.yml, then the peers beside it."""
        playbook("site.yml")
        playbook("tests/bench/playbooks/peers.yml", {"bench_wheels": str(wheels())})
        for server in servers():
            await_answer(server)

    def switch(self, imported: Import) -> None:
        """Let every server import the application in another way."""
        playbook("playbooks/configure.yml", {"app_config_environment": imported.environment})
        lines = "".join(f"{name}={value}\n" for name, value in imported.environment.items())
        self.run("tee", "/etc/bench-peers/environment", script=lines)
        peers = [server for server in servers() if not server.ours]
        self.run("systemctl", "restart", *(peer.unit for peer in peers))
        for server in servers():
            await_answer(server)

    def reload(self, server: Server, count: int, gap: float) -> list[dict[str, Any]]:
        """Reload a server again and again; what became of each."""
        script = (HERE / "on_host/reloads.py").read_text()
        follow = [] if server.ours else [f"/run/{server.unit.removesuffix('.service')}/web.sock"]
        lines = self.run("python3", "-", server.unit, str(count), str(gap), *follow, script=script)
        return [json.loads(line) for line in lines.splitlines()]

    def bridge(self, count: int) -> list[dict[str, Any]]:
        """Hand Baton's service over by bridge again and again, as its playbooks do."""
        with tempfile.TemporaryDirectory() as scratch:
            answers = pathlib.Path(scratch, "answers.json")
            variables = {"bench_bridges": count, "bench_answers": str(answers)}
            playbook("tests/bench/playbooks/bridges.yml", variables)
            return [{"ok": True, "error": "", **answer} for answer in json.loads(answers.read_text())]

    def evidence(self, since: float) -> str:
        """What the host knows of a time in which requests failed."""
        parts = (
            ("handover.json", ["cat", "/run/bench/handover.json"]),
            (
                "journal",
                ["journalctl", "--no-pager", f"--since=@{since:.0f}", "-u", "bench*", "--grep", r"^(?!.*GET|.*POST)"],
            ),
            ("nginx", ["tail", "-n", "200", "/var/log/nginx/error.log"]),
            (
                "answers",
                ["sh", "-c", 'grep -h -E "\\"status\\":(5|0|499)" /var/log/nginx/bench-access.log | tail -n 200'],
            ),
        )
        text = ""
        for title, command in parts:
            try:
                text += f"== {title}\n{self.run(*command)}\n"
            except BenchError as error:
                text += f"== {title}\n{error}\n"
        return text

    def workers(self) -> int:
        """How many workers Baton's service has."""
        return int(json.loads(self.run("cat", "/run/bench/handover.json"))["workers_wanted"])

    def versions(self) -> dict[str, str]:
        """What runs on the host."""
        found = {"python": self.run("python3", "-V").split()[-1]}
        found["os"] = self.run("sh", "-c", ". /etc/os-release; echo $PRETTY_NAME").strip()
        found["systemd"] = self.run("systemctl", "--version").split()[1]
        found["nginx"] = self.run("sh", "-c", "nginx -v 2>&1").strip().rsplit("/", 1)[-1]
        released = json.loads(self.run("cat", "/opt/bench/current/release.json"))["packages"]
        found |= {f"baton: {name}": str(released[name]) for name in sorted(released)}
        listed = self.run("/var/lib/baton/bin/uv", "pip", "freeze", "--quiet", "--python=/opt/bench-peers/bin/python")
        found |= {f"peers: {name}": version for name, version in (line.split("==") for line in listed.splitlines())}
        return found


def playbook(path: str, variables: dict[str, Any] | None = None) -> None:
    """Run a playbook against the benchmark's inventory. Raises BenchError with its last lines."""
    command = [str(pathlib.Path(sys.executable).with_name("ansible-playbook")), "-i", INVENTORY, path]
    command += ["-e", json.dumps(variables or {})]
    done = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BenchError(
            f"{path} ended with {done.returncode}:\n" + "\n".join(done.stdout.splitlines()[-30:]) + done.stderr
        )


def wheels() -> pathlib.Path:
    """The wheels of the peers' lock, fetched once on the controller: the host asks no index."""
    folder = CACHE / f"wheels-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            # Debian 12's Python, whatever the controller's is
            command += ["--require-hashes", "--only-binary=:all:", "--python-version=3.11"]
            machine = os.uname().machine
            command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in (36, 34, 28, 17)]
            command += [f"--platform=manylinux2014_{machine}", f"--dest={scratch}/wheels", f"--requirement={LOCK}"]
            done = subprocess.run(command, text=True, capture_output=True, check=False)
            if done.returncode:
                raise BenchError(f"the peers' wheels could not be fetched: {done.stderr.strip()}")
            pathlib.Path(scratch, "wheels").rename(folder)
    return folder


def await_answer(server: Server, seconds: float = 60.0) -> None:
    """Wait until a server answers twenty requests one after another, so that no worker is still on its way."""
    context = ssl.create_default_context(cafile=AUTHORITY)
    deadline = time.monotonic() + seconds
    well = 0
    while well < 20:
        if time.monotonic() > deadline:
            raise BenchError(f"{server.title} doesn't answer")
        try:
            well = well + 1 if _status(server, context) == 200 else 0
        except OSError:
            well = 0
        time.sleep(0.05 if well else 0.5)


def _status(server: Server, context: ssl.SSLContext) -> int:
    # http.client can't ask for another name than the one it connects to
    with (
        socket.create_connection(("127.0.0.1", PORT), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=server.host) as connection,
    ):
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])
