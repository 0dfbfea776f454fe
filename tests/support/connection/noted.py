"""A connection to hosts that aren't there: notes what is asked of which host, and answers as the test wants."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: noted
short_description: Notes what each host is asked, and answers for it
description: The folder E(NOTED_HOSTS) has the answers and gets the steps.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: connection_pipelining
options: {}
"""

CALL = "_ansiballz_main("  # at the end of the program that Ansible packs a module into


class Connection(ConnectionBase):  # type: ignore[misc]
    """One of the hosts."""

    transport = "noted"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """What the host says to a module, which comes by the input, or to a command."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if in_data and CALL in (program := in_data.decode()):
            call = ast.parse(program[program.rindex(CALL) :], mode="eval").body
            assert isinstance(call, ast.Call)
            given = {word.arg: word.value for word in call.keywords}
            arguments = json.loads(ast.literal_eval(given["params"]))["ANSIBLE_MODULE_ARGS"]
            module = ast.literal_eval(given["ansible_module"])
            asked = {name: value for name, value in arguments.items() if not name.startswith("_ansible_")}
            return 0, json.dumps(self._answer(module, asked)).encode(), b""
        self._answer("command", {"command": cmd})
        # never the same twice, as when a reboot lies between
        return 0, str(time.monotonic_ns()).encode(), b""

    def _answer(self, module: str, arguments: dict[str, Any]) -> dict[str, Any]:
        folder, host = pathlib.Path(os.environ["NOTED_HOSTS"]), self._play_context.remote_addr
        with (folder / "steps").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"host": host, "module": module, "arguments": arguments}) + "\n")
        for rule in json.loads((folder / "answers.json").read_text(encoding="utf-8")):
            if (
                rule["module"] == module
                and host in rule.get("hosts", [host])
                and all(arguments.get(name) == value for name, value in rule.get("arguments", {}).items())
            ):
                if rule["answer"] is None:
                    raise AnsibleConnectionFailure(f"{host} closed the connection.")
                answer: dict[str, Any] = {"changed": False} | rule["answer"]
                return answer
        return {"changed": False}

    def put_file(self, in_path: str, out_path: str) -> None:
        """Send nothing."""

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Fetch nothing."""

    def close(self) -> None:
        """Nothing is open."""
