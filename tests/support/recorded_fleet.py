"""A fleet of fake hosts for playbook tests: playbooks, roles and actions are real; a connection plugin
(connection/recorded.py) records each module and returns the test's results.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from tests.support.playbooks import PROJECT, Done, Playbooks

FACTS: dict[str, Any] = {
    "clock": 1.0,
    "architecture": "x86_64",
    "default_ipv4": {"address": "10.0.0.99"},
    "distribution": "Debian",
    "distribution_major_version": "12",
    "distribution_version": "12.15",
    "memtotal_mb": 4096,
    "processor_vcpus": 2,
    "python": {"version": {"major": 3, "minor": 11, "micro": 2}},
    "service_mgr": "systemd",
    "app_prepared": True,
    "app_release": "r1",
    "app_before_web": False,
}
FACTS_MODULE = "baton.web.host_facts"
# the result of activate
ACTIVATED = {"changed": True, "method": "reload", "seconds": 1.2, "started": 1764072009.0, "previous": "r1"}
ACTIVATED |= {"release": "r2"}


class RecordedFleet:
    """Fake hosts, and the modules that were run on them."""

    def __init__(self, folder: pathlib.Path, groups: dict[str, list[str]], **variables: Any) -> None:
        """`groups`: each group's hosts. `variables`: those of the inventory."""
        self.folder = folder
        self._rules: list[dict[str, Any]] = []
        hosts = [host for members in groups.values() for host in members]
        addresses = {
            host: {"baton_address": f"10.0.0.{number}", "private_address": f"10.0.0.{number}"}
            for number, host in enumerate(dict.fromkeys(hosts), 1)
        }
        defaults: dict[str, Any] = {
            "ansible_connection": "recorded",
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "app_name": "links",
            "nginx_site_server_names": ["links.example.org"],
        }
        children: dict[str, Any] = {name: {"hosts": {host: {} for host in members}} for name, members in groups.items()}
        inventory = {"all": {"hosts": addresses, "children": children, "vars": defaults | variables}}
        (folder / "hosts.yml").write_text(json.dumps(inventory))

    def set_result(
        self, module: str, result: dict[str, Any] | list[dict[str, Any]] | None, *hosts: str, **arguments: Any
    ) -> None:
        """Set a module's result, for these arguments, on these hosts or on all. None closes the connection.

        A list has the results of a host's first run of the module, its second and so on; the last one is repeated.

        Later rules take precedence.
        """
        rule: dict[str, Any] = {"module": module, "arguments": arguments, "result": result}
        self._rules.insert(0, rule | ({"hosts": list(hosts)} if hosts else {}))

    def play(self, playbook: str, *options: str, **variables: Any) -> Done:
        """Run one of the project's playbooks, one host after another. `variables`: those of its import."""
        (self.folder / "results.json").write_text(json.dumps(self._rules))
        (self.folder / "steps").write_text("")
        facts = {"hosts": "all", "gather_facts": False, "tasks": [{FACTS_MODULE: {}}]}
        imported = {"ansible.builtin.import_playbook": str(PROJECT / "playbooks" / playbook), "vars": variables}
        (self.folder / "play.yml").write_text(json.dumps([facts, imported]))
        environment = {
            "ANSIBLE_CONNECTION_PLUGINS": str(PROJECT / "tests/support/connection"),
            "RECORDED_HOSTS": str(self.folder),
            # so that the hosts of a task have an order, too
            "ANSIBLE_FORKS": "1",
        }
        return Playbooks(self.folder / "hosts.yml", environment).play(str(self.folder / "play.yml"), *options)

    @property
    def _calls(self) -> list[tuple[str, str, dict[str, Any]]]:
        lines = (self.folder / "steps").read_text().splitlines()
        calls = (json.loads(line) for line in lines)
        return [(call["host"], call["module"], call["arguments"]) for call in calls if call["module"] != FACTS_MODULE]

    def arguments(self, module: str, **matching: Any) -> list[dict[str, Any]]:
        """The arguments of each run of a module that had at least the given ones."""
        return [given for _, name, given in self._calls if name == module and matching.items() <= given.items()]

    @property
    def steps(self) -> list[str]:
        """All runs of modules, in order: host, module, and the arguments that distinguish the run from others."""
        return [
            " ".join([host, name.rpartition(".")[2], *_summary(name, arguments)])
            for host, name, arguments in self._calls
        ]


def _summary(module: str, arguments: dict[str, Any]) -> list[str]:
    match module.rpartition(".")[2]:
        case "drain":
            return [
                *sorted(arguments["drained"]),
                *(["restore", *sorted(arguments["back"])] if arguments["back"] else []),
            ]
        case "edge_log_info":
            return ["bake", *sorted(arguments["upstreams"])] if arguments.get("bake_since") else []
        case "activate":
            # the web processes are the usual ones
            words = (arguments.get("state", "active"), arguments.get("part"), arguments.get("release"))
            return [word for word in words if word and word != "web"]
        case "rehearse":
            return [arguments["release"]] if arguments["release"] else []
        case "finish":
            return [arguments["entry"]["result"]] if arguments.get("entry") else []
        case "release":
            return [arguments["artifact"]["id"]]
        case "command":
            return ["shutdown"] * ("shutdown" in str(arguments.get("command")))
        case "files":
            return [arguments["files"][0]["path"]]
    return [arguments[name] for name in ("state", "name") if arguments.get(name)][:1]
