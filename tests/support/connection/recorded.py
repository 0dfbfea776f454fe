"""A connection plugin to fake hosts: records the modules that run on each, and returns the test's results."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import pathlib
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: recorded
short_description: Records the modules of fake hosts and returns given results
description: The folder E(RECORDED_HOSTS) contains the results, and the steps are written there.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: connection_pipelining
options: {}
"""

CALL = "_ansiballz_main("  # at the end of the program into which Ansible packs a module


class Connection(ConnectionBase):  # type: ignore[misc]
    """A connection to one host."""

    transport = "recorded"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Return the result of a module, which is in the input, or of a command."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if in_data and CALL in (program := in_data.decode()):
            call = ast.parse(program[program.rindex(CALL) :], mode="eval").body
            assert isinstance(call, ast.Call)
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            parameters = json.loads(ast.literal_eval(keywords["params"]))["ANSIBLE_MODULE_ARGS"]
            module = ast.literal_eval(keywords["ansible_module"])
            arguments = {name: value for name, value in parameters.items() if not name.startswith("_ansible_")}
            return 0, json.dumps(self._run(module, arguments)).encode(), b""
        self._run("command", {"command": cmd})
        # a different output each time, like that of a boot id after each reboot
        return 0, str(time.monotonic_ns()).encode(), b""

    def _run(self, module: str, arguments: dict[str, Any]) -> dict[str, Any]:
        folder, host = pathlib.Path(os.environ["RECORDED_HOSTS"]), self._play_context.remote_addr
        with (folder / "steps").open("a+", encoding="utf-8") as file:
            # with several forks, another process would read a line of which only a part is there
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            steps = [json.loads(line) for line in file]
            file.write(json.dumps({"host": host, "module": module, "arguments": arguments}) + "\n")
        for rule in json.loads((folder / "results.json").read_text(encoding="utf-8")):
            if (
                rule["module"] == module
                and host in rule.get("hosts", [host])
                and all(arguments.get(name) == value for name, value in rule.get("arguments", {}).items())
            ):
                if rule["result"] is None:
                    raise AnsibleConnectionFailure(f"{host} closed the connection.")
                results = rule["result"] if isinstance(rule["result"], list) else [rule["result"]]
                earlier = sum((step["host"], step["module"]) == (host, module) for step in steps)
                result: dict[str, Any] = {"changed": False} | results[min(earlier, len(results) - 1)]
                return result
        return {"changed": False}

    def put_file(self, in_path: str, out_path: str) -> None:
        """Do nothing."""

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
