"""Action of the module baton_release: uploads the archives that a host lacks for a release, and no others."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module, and once more when it asks for archives."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = self._execute_module("baton_release", task_vars=task_vars)
        if answer.get("uploads"):
            # Ansible removes this folder when the task has ended
            incoming = self._make_tmp_path()
            for item in answer["uploads"]:
                name = os.path.basename(item["dest"])
                self._transfer_file(item["src"], self._connection._shell.join_path(incoming, name))
            arguments = {**self._task.args, "incoming": incoming}
            answer = self._execute_module("baton_release", module_args=arguments, task_vars=task_vars)
        return result | answer
