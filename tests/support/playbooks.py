"""Runs playbooks and ad hoc commands the way an operator does, and returns their status and output."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from . import program

PROJECT = pathlib.Path(__file__).parents[2]


def plugin(path: str) -> Any:
    """Load one of the project's plugins, which only Ansible can import by name."""
    return program.load(PROJECT / f"plugins/{path}.py", path.replace("/", "_"))


def tool(name: str) -> pathlib.Path:
    """The path of a program in the controller's venv."""
    return pathlib.Path(sys.executable).with_name(name)


@dataclasses.dataclass(frozen=True)
class Done:
    """A run's exit status and output."""

    status: int
    output: str

    @property
    def words(self) -> str:
        """The output without line breaks and indentation."""
        return " ".join(self.output.split())

    @property
    def changed(self) -> list[int]:
        """The number of changed tasks of each host."""
        recap = self.output.rpartition("PLAY RECAP")[2]
        return [int(part.split()[0]) for part in recap.split("changed=")[1:]]

    def check_status(self) -> Done:
        """Assert that the run succeeded; return itself."""
        assert self.status == 0, self.output
        return self


@dataclasses.dataclass(frozen=True)
class Playbooks:
    """The project's playbooks with one inventory."""

    inventory: pathlib.Path
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def written(
        cls, folder: pathlib.Path, *plays: dict[str, Any], host: str = "", environment: dict[str, str] | None = None
    ) -> tuple[Playbooks, str]:
        """Write a playbook and an inventory of one host, app1. `host`: its variables; this machine by default."""
        inventory, playbook = folder / "hosts", folder / "play.yml"
        variables = f"ansible_python_interpreter={sys.executable} {host or 'ansible_connection=local'}"
        inventory.write_text(f"app1 {variables}\n")
        playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, **play} for play in plays]))
        return cls(inventory, environment or {}), str(playbook)

    def start(self, playbook: str, *options: str, **variables: object) -> subprocess.Popen[str]:
        """Start a playbook in a session of its own, so that a test can kill it and all its children."""
        given = ["--extra-vars", json.dumps(variables)] if variables else []
        return self._start("ansible-playbook", *options, *given, str(PROJECT / playbook))

    def _start(self, program: str, *words: str) -> subprocess.Popen[str]:
        settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
        return subprocess.Popen(
            [str(tool(program)), "-i", str(self.inventory), *words],
            env={**os.environ, **settings, **self.environment},
            cwd=PROJECT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def play(self, playbook: str, *options: str, **variables: object) -> Done:
        """Run a playbook, whether it succeeds or fails."""
        return self.finish(self.start(playbook, *options, **variables))

    @staticmethod
    def finish(running: subprocess.Popen[str]) -> Done:
        """Wait for a playbook that was started."""
        output = running.communicate()[0]
        return Done(running.returncode, output)

    def succeed(self, playbook: str, *options: str, **variables: object) -> Done:
        """Run a playbook that must succeed."""
        return self.play(playbook, *options, **variables).check_status()

    def ad_hoc(self, hosts: str, module: str, arguments: str, *options: str) -> Done:
        """Run one module without a playbook, whether it succeeds or fails."""
        return self.finish(self._start("ansible", hosts, "-m", module, "-a", arguments, *options))
