"""Action of the module baton_drain: fails where an edge can't be reached."""

from __future__ import annotations

import pathlib
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import step  # noqa: E402


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module once."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(step.execute(self, task_vars or {}))
        return result
