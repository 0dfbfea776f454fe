"""The benchmark's host: set up by Baton's playbooks, reloaded, and asked for its state."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from fleet import fleet
from tests.bench import machine, mix
from tests.bench.controller import BenchError, await_answers, playbook, run_as_root, wheels

from .plan import BENCH, HERE, LINKS, PORT, Application, Server

PLAYBOOKS = "tests/bench/reload/playbooks"


class Host:
    """One host of the fleet."""

    def __init__(self) -> None:
        (host,) = fleet.load(str(BENCH.inventory)).hosts
        self._port = host.port

    def run(self, *command: str, script: str = "") -> str:
        """Run a command as root on the host; return its output. Raises BenchError."""
        return run_as_root(self._port, *command, script=script)

    def provision(self, application: Application) -> None:
        """Set up Baton's service by site.yml, and the peers beside it."""
        playbook(application.inventory, "site.yml")
        playbook(application.inventory, f"{PLAYBOOKS}/peers.yml", {"bench_wheels": str(wheels())})
        self._await_answers(application)
        if application is LINKS:
            playbook(application.inventory, f"{PLAYBOOKS}/links.yml", {"bench_slugs": mix.SLUGS})

    def switch(self, application: Application, environment: Mapping[str, str]) -> None:
        """Change the application's environment for every server."""
        playbook(application.inventory, "playbooks/configure.yml", {"app_config_environment": environment})
        lines = "".join(f"{name}={value}\n" for name, value in environment.items())
        self.run("tee", f"/etc/bench-peers/{application.name}.environment", script=lines)
        self.run("systemctl", "restart", *(server.unit for server in application.servers if not server.ours))
        self._await_answers(application)

    def _await_answers(self, application: Application) -> None:
        for server in application.servers:
            await_answers(PORT, server.host, application.authority, path=application.json_path)

    def reload(self, server: Server, count: int, *, every: float = 0.0, least: float = 0.0) -> list[dict[str, Any]]:
        """Reload a server at least `count` times and for at least `least` seconds. Returns the result of each.

        A reload starts `every` seconds after the start of the previous one, or once that has ended, if this is later.
        """
        script = (HERE / "on_host/reloads.py").read_text()
        follow = [] if server.ours else [f"/run/{server.unit.removesuffix('.service')}/web.sock"]
        lines = self.run("python3", "-", server.unit, str(count), str(every), str(least), *follow, script=script)
        return [json.loads(line) for line in lines.splitlines()]

    def bridge(self, application: Application, count: int) -> list[dict[str, Any]]:
        """Hand over Baton's service by bridge repeatedly, as its playbooks do."""
        with tempfile.TemporaryDirectory() as scratch:
            answers = pathlib.Path(scratch, "answers.json")
            variables = {"bench_bridges": count, "bench_answers": str(answers)}
            playbook(application.inventory, f"{PLAYBOOKS}/bridges.yml", variables)
            return [{"ok": True, "error": "", **answer} for answer in json.loads(answers.read_text())]

    def evidence(self, application: Application, since: float) -> str:
        """The host's logs and state since a time in which requests failed."""
        name = application.name
        journal = ["journalctl", "--no-pager", f"--since=@{since:.0f}", "-u", f"{name}*"]
        log = f"/var/log/nginx/{name}-access.log"
        parts = (
            ("handover.json", ["cat", f"/run/baton/{name}/handover.json"]),
            ("journal", [*journal, "--grep", r"^(?!.*GET|.*POST)"]),
            ("nginx", ["tail", "-n", "200", "/var/log/nginx/error.log"]),
            ("answers", ["sh", "-c", f'grep -h -E "\\"status\\":(5|0|499)" {log} | tail -n 200']),
        )
        text = ""
        for title, command in parts:
            try:
                text += f"== {title}\n{self.run(*command)}\n"
            except BenchError as error:
                text += f"== {title}\n{error}\n"
        return text

    def workers(self) -> int:
        """The number of workers of every server."""
        return int(json.loads(self.run("cat", f"/run/baton/{BENCH.name}/handover.json"))["workers_wanted"])

    def versions(self) -> dict[str, str]:
        """The versions on the host."""
        found = machine.host_versions(self.run)
        found["nginx"] = self.run("sh", "-c", "nginx -v 2>&1").strip().rsplit("/", 1)[-1]
        for package in ("postgresql", "redis-server"):
            found[package] = self.run("dpkg-query", "--show", "--showformat=${Version}", package)
        found |= {f"baton: {name}": version for name, version in self._released(BENCH).items()}
        listed = self.run("/var/lib/baton/bin/uv", "pip", "freeze", "--quiet", "--python=/opt/bench-peers/bin/python")
        found |= {f"peers: {name}": version for name, version in (line.split("==") for line in listed.splitlines())}
        services = {name: self._released(LINKS)[name] for name in ("asyncpg", "fastapi", "redis", "sqlalchemy")}
        found |= {f"{LINKS.title}: {name}": version for name, version in services.items()}
        return found

    def _released(self, application: Application) -> dict[str, str]:
        """The packages of Baton's current release and their versions."""
        packages = json.loads(self.run("cat", f"/opt/{application.name}/current/release.json"))["packages"]
        return {name: str(packages[name]) for name in sorted(packages)}
