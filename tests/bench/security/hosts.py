"""The hosts of one Debian release."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from fleet import fleet
from tests.bench.controller import playbook, run_as_root

NAME = "links.baton.test"


class Hosts:
    """The fleet of an inventory, with the demo's application."""

    def __init__(self, inventory: pathlib.Path) -> None:
        self.inventory = inventory
        listed = fleet.load(str(inventory)).hosts
        self._hosts = {host.name: host for host in listed}
        self.https = int(self._hosts["edge1"].publish[0].split(":")[1])

    def provision(self, variables: Mapping[str, Any] | None = None) -> None:
        """Set them up, with these variables besides the inventory's. Raises BenchError."""
        playbook(self.inventory, "site.yml", variables)

    def address(self, name: str) -> str:
        return self._hosts[name].address

    def run(self, name: str, script: str, text: str = "") -> str:
        """Run a shell script as root, with a text as its input; return its output. Raises BenchError."""
        return run_as_root(self._hosts[name].port, "sh", "-c", script, script=text)

    @property
    def authority(self) -> pathlib.Path:
        return self.inventory.parent / "tls/ca.pem"
