"""A fleet that notes what the playbooks ask of its hosts: playbooks, roles and actions are the project's, the hosts
are a connection (connection/noted.py) that answers for every module.
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
# what activate answers
SWITCHED = {"changed": True, "way": "reload", "seconds": 1.2, "started": 1764072009.0, "previous": "r1"}
SWITCHED |= {"release": "r2"}


class NotedFleet:
    """App servers and edges by the names of their groups, and what was asked of them."""

    def __init__(self, folder: pathlib.Path, groups: dict[str, list[str]], **variables: Any) -> None:
        """`variables` are the inventory's."""
        self.folder = folder
        self._rules: list[dict[str, Any]] = []
        hosts = [host for members in groups.values() for host in members]
        about = {
            host: {"baton_address": f"10.0.0.{number}", "private_address": f"10.0.0.{number}"}
            for number, host in enumerate(dict.fromkeys(hosts), 1)
        }
        given: dict[str, Any] = {
            "ansible_connection": "noted",
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "app_name": "links",
            "nginx_site_server_names": ["links.example.org"],
        }
        children: dict[str, Any] = {name: {"hosts": {host: {} for host in members}} for name, members in groups.items()}
        inventory = {"all": {"hosts": about, "children": children, "vars": given | variables}}
        (folder / "hosts.yml").write_text(json.dumps(inventory))

    def answer(self, module: str, answer: dict[str, Any] | None, *hosts: str, **arguments: Any) -> None:
        """What a module with these arguments answers on these hosts, or on all; None: the connection breaks.

        The last one that was told comes first.
        """
        rule: dict[str, Any] = {"module": module, "arguments": arguments, "answer": answer}
        self._rules.insert(0, rule | ({"hosts": list(hosts)} if hosts else {}))

    def play(self, playbook: str, *options: str, **variables: Any) -> Done:
        """Run one of the project's playbooks, host after host; `variables` are those of its import."""
        (self.folder / "answers.json").write_text(json.dumps(self._rules))
        (self.folder / "steps").write_text("")
        facts = {"hosts": "all", "gather_facts": False, "tasks": [{FACTS_MODULE: {}}]}
        imported = {"ansible.builtin.import_playbook": str(PROJECT / "playbooks" / playbook), "vars": variables}
        (self.folder / "play.yml").write_text(json.dumps([facts, imported]))
        environment = {
            "ANSIBLE_CONNECTION_PLUGINS": str(PROJECT / "tests/support/connection"),
            "NOTED_HOSTS": str(self.folder),
            # so that the steps of a task have an order, too
            "ANSIBLE_FORKS": "1",
        }
        return Playbooks(self.folder / "hosts.yml", environment).play(str(self.folder / "play.yml"), *options)

    @property
    def _asked(self) -> list[tuple[str, str, dict[str, Any]]]:
        lines = (self.folder / "steps").read_text().splitlines()
        found = (json.loads(line) for line in lines)
        return [(one["host"], one["module"], one["arguments"]) for one in found if one["module"] != FACTS_MODULE]

    def arguments(self, wanted: str, **given: Any) -> list[dict[str, Any]]:
        """What a module was told, each time that it was asked with these arguments."""
        return [told for _, module, told in self._asked if module == wanted and given.items() <= told.items()]

    @property
    def steps(self) -> list[str]:
        """What was asked, in order and in words: host, module and what tells it from others of that module."""
        return [" ".join([host, name.rpartition(".")[2], *_words(name, told)]) for host, name, told in self._asked]


def _words(module: str, told: dict[str, Any]) -> list[str]:
    match module.rpartition(".")[2]:
        case "drain":
            return [*sorted(told["drained"]), *(["restore", *sorted(told["back"])] if told["back"] else [])]
        case "edge_log_info":
            return ["bake", *sorted(told["upstreams"])] if told.get("bake_since") else []
        case "activate":
            # the web processes are what most are of
            words = (told.get("state", "active"), told.get("part"), told.get("release"))
            return [word for word in words if word and word != "web"]
        case "rehearse":
            return [told["release"]] if told["release"] else []
        case "finish":
            return [told["entry"]["result"]] if told.get("entry") else []
        case "release":
            return [told["artifact"]["id"]]
        case "command":
            return ["shutdown"] * ("shutdown" in str(told.get("command")))
        case "files":
            return [told["files"][0]["path"]]
    return [told[name] for name in ("state", "name") if told.get(name)][:1]
