"""Evaluate the checks of the roles' preflights on the controller, before any host is contacted.

The roles' task files remain the only place of these checks and their messages. What needs facts of the host, or the
result of a task there, is left out: the preflight on the hosts evaluates all checks.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from . import templates

_ASSERT = "ansible.builtin.assert"
_FILES = ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks")


class Checks:
    """The checks of roles. `folder`: of the roles. `vars_files`: variables that override those of the inventory."""

    def __init__(self, folder: pathlib.Path, vars_files: list[pathlib.Path]) -> None:
        self._folder = folder
        self._loader = DataLoader()
        self._wired = [self._load(path) for path in vars_files]

    def failing(self, role: str, values: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[str]:
        """Return the messages of a role's checks that fail for a host.

        `values`: its variables, unevaluated. `hostvars`: those of all hosts.
        """
        folder = self._folder / role
        # facts and results of an earlier run may be outdated
        given = {name: value for name, value in values.items() if name != "ansible_facts" and not name.startswith("__")}
        settings = {**self._load(folder / "defaults/main.yml"), **given}
        # the paths are for lookups of files, as in a task of the role
        task = {"role_path": str(folder), "ansible_search_path": [str(folder), str(folder / "tasks")]}
        self._loader.set_basedir(given.get("playbook_dir", "."))
        variables = {name: value for name, value in settings.items() if not _needs_facts(value)}
        for more in (*self._wired, self._load(folder / "vars/main.yml"), task, {"hostvars": hostvars}):
            variables.update(more)
        return list(self._messages(folder / "tasks/preflight.yml", variables))

    def _load(self, path: pathlib.Path) -> Any:
        return (self._loader.load_from_file(str(path), trusted_as_template=True) if path.exists() else None) or {}

    def _messages(self, path: pathlib.Path, variables: Mapping[str, Any]) -> Iterator[str]:
        for task in self._load(path):
            own = task.get("vars", {})
            local = {**variables, **own}
            templar = Templar(self._loader, local)
            try:
                if not all(map(templar.evaluate_conditional, _listed(task.get("when", [])))):
                    continue
                files = [path.parent / templar.template(task[name]) for name in _FILES if name in task]
            except AnsibleError:
                continue
            for file in files:
                yield from self._messages(file, local)
            if _ASSERT in task:
                yield from self._refusals(task[_ASSERT], templar, own)

    def _refusals(self, check: Mapping[str, Any], templar: Templar, own: Mapping[str, Any]) -> list[str]:
        """Return the messages of a task. `own`: the task's variables, of which lists may contain several checks."""
        try:
            return _failed(templar, check)
        except AnsibleError:
            pass
        known = {
            name: [one for one in several if _is_known(templar, one)]
            for name, several in own.items()
            if isinstance(several, list) and all(isinstance(one, Mapping) and "message" in one for one in several)
        }
        try:
            return _failed(Templar(self._loader, {**templar.available_variables, **known}), check)
        except AnsibleError:
            return []


def _needs_facts(value: Any) -> bool:
    """Whether a value's templates use facts of the host, maybe with a default until these are known."""
    return any("ansible_facts" in text for text in templates.written(value))


def _listed(conditions: Any) -> list[Any]:
    return conditions if isinstance(conditions, list) else [conditions]


def _failed(templar: Templar, check: Mapping[str, Any]) -> list[str]:
    if all(map(templar.evaluate_conditional, _listed(check["that"]))):
        return []
    return [str(message) for message in _listed(templar.template(check["fail_msg"]))]


def _is_known(templar: Templar, check: Mapping[str, Any]) -> bool:
    """Whether one of several checks can be evaluated."""
    try:
        templar.template({key: value for key, value in check.items() if key != "message"})
    except AnsibleError:
        return False
    return True
