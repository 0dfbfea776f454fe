"""The benchmark's host: set up by Baton's playbooks, reloaded, and asked for its state."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

from fleet import fleet
from tests.bench import machine
from tests.bench.controller import BenchError, await_answers, playbook, run_as_root, wheels

from .plan import AUTHORITY, HERE, INVENTORY, PORT, Import, Server, servers

PLAYBOOKS = "tests/bench/reload/playbooks"


class Host:
    """One host of the fleet."""

    def __init__(self) -> None:
        (host,) = fleet.load(str(INVENTORY)).hosts
        self._port = host.port

    def run(self, *command: str, script: str = "") -> str:
        """Run a command as root on the host; return its output. Raises BenchError."""
        return run_as_root(self._port, *command, script=script)

    def provision(self) -> None:
        """Set up Baton's service by site.yml, and the peers beside it."""
        playbook(INVENTORY, "site.yml")
        playbook(INVENTORY, f"{PLAYBOOKS}/peers.yml", {"bench_wheels": str(wheels())})
        for server in servers():
            await_answer(server)

    def switch(self, imported: Import) -> None:
        """Change the duration of the application's import for every server."""
        playbook(INVENTORY, "playbooks/configure.yml", {"app_config_environment": imported.environment})
        lines = "".join(f"{name}={value}\n" for name, value in imported.environment.items())
        self.run("tee", "/etc/bench-peers/environment", script=lines)
        peers = [server for server in servers() if not server.ours]
        self.run("systemctl", "restart", *(peer.unit for peer in peers))
        for server in servers():
            await_answer(server)

    def reload(self, server: Server, count: int, *, every: float = 0.0, least: float = 0.0) -> list[dict[str, Any]]:
        """Reload a server at least `count` times and for at least `least` seconds. Returns the result of each.

        A reload starts `every` seconds after the start of the previous one, or once that has ended, if this is later.
        """
        script = (HERE / "on_host/reloads.py").read_text()
        follow = [] if server.ours else [f"/run/{server.unit.removesuffix('.service')}/web.sock"]
        lines = self.run("python3", "-", server.unit, str(count), str(every), str(least), *follow, script=script)
        return [json.loads(line) for line in lines.splitlines()]

    def bridge(self, count: int) -> list[dict[str, Any]]:
        """Hand over Baton's service by bridge repeatedly, as its playbooks do."""
        with tempfile.TemporaryDirectory() as scratch:
            answers = pathlib.Path(scratch, "answers.json")
            variables = {"bench_bridges": count, "bench_answers": str(answers)}
            playbook(INVENTORY, f"{PLAYBOOKS}/bridges.yml", variables)
            return [{"ok": True, "error": "", **answer} for answer in json.loads(answers.read_text())]

    def evidence(self, since: float) -> str:
        """The host's logs and state since a time in which requests failed."""
        parts = (
            ("handover.json", ["cat", "/run/baton/bench/handover.json"]),
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
        """The number of workers of Baton's service."""
        return int(json.loads(self.run("cat", "/run/baton/bench/handover.json"))["workers_wanted"])

    def versions(self) -> dict[str, str]:
        """The versions on the host."""
        found = machine.host_versions(self.run)
        found["nginx"] = self.run("sh", "-c", "nginx -v 2>&1").strip().rsplit("/", 1)[-1]
        released = json.loads(self.run("cat", "/opt/bench/current/release.json"))["packages"]
        found |= {f"baton: {name}": str(released[name]) for name in sorted(released)}
        listed = self.run("/var/lib/baton/bin/uv", "pip", "freeze", "--quiet", "--python=/opt/bench-peers/bin/python")
        found |= {f"peers: {name}": version for name, version in (line.split("==") for line in listed.splitlines())}
        return found


def await_answer(server: Server) -> None:
    await_answers(PORT, server.host, AUTHORITY)
