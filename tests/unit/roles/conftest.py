"""Roles as the tests use them: their declarations, rendered templates, and the messages of their preflight."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
# as Ansible's template action sets it
TEMPLATE_OVERRIDES = {"trim_blocks": True}
HOST: dict[str, Any] = {
    "inventory_hostname": "edge1",
    "inventory_dir": "/nonexistent/inventory",
    "ansible_managed": "Ansible managed",
    "ansible_check_mode": False,
    "ansible_facts": {
        "distribution": "Debian",
        "distribution_version": "12.15",
        "distribution_major_version": "12",
        "architecture": "x86_64",
        "python": {"version": {"major": 3, "minor": 11}},
        "memtotal_mb": 8192,
        "processor_vcpus": 2,
        "service_mgr": "systemd",
        "virtualization_role": "guest",
        "virtualization_type": "kvm",
    },
}


class Role:
    """A role of the project, loaded the way Ansible does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROLES / name
        self.loader = DataLoader()
        self.loader.set_basedir(str(self.path))

    def load(self, file: str) -> Any:
        path = self.path / file
        return self.loader.load_from_file(str(path), trusted_as_template=True) if path.exists() else {}

    @property
    def defaults(self) -> dict[str, Any]:
        return dict(self.load("defaults/main.yml") or {})

    @property
    def entry_points(self) -> dict[str, Any]:
        return dict(self.load("meta/argument_specs.yml")["argument_specs"])

    def templar(self, **given: Any) -> Templar:
        variables = {**HOST, **self.defaults, **(self.load("vars/main.yml") or {}), **trusted(given)}
        return Templar(loader=self.loader, variables=variables)

    def render(self, template: str, **given: Any) -> str:
        """The rendered text; an undefined variable is an error."""
        source = (self.path / "templates" / template).read_text()
        templar = self.templar(**given).copy_with_new_env(searchpath=[str(self.path / "templates")])
        text = templar.template(trust_as_template(source), escape_backslashes=False, overrides=TEMPLATE_OVERRIDES)
        return str(text)

    def value(self, expression: str, **given: Any) -> Any:
        return self.templar(**given).template(trust_as_template("{{ " + expression + " }}"))

    def refusals(self, file: str = "tasks/preflight.yml", **given: Any) -> list[str]:
        """The messages of the failing assertions in a task file, except those in blocks."""
        templar = self.templar(**given)
        messages: list[str] = []
        for task in self.load(file):
            arguments = task.get("ansible.builtin.assert")
            if arguments is None or not _all_hold(templar, task.get("when", [])):
                continue
            local = self.templar(**given, **task.get("vars", {}))
            if not _all_hold(local, arguments["that"]):
                found = local.template(arguments["fail_msg"])
                messages += map(str, found if isinstance(found, list) else [found])
        return messages


def _all_hold(templar: Templar, conditions: Any) -> bool:
    listed = conditions if isinstance(conditions, list) else [conditions]
    return all(templar.evaluate_conditional(trust_as_template(str(condition))) for condition in listed)


def trusted(value: Any) -> Any:
    """Marks a test's variables as trusted templates, like those of an inventory."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return value


@pytest.fixture(scope="session")
def load_role() -> Callable[[str], Role]:
    return Role
