"""Action of the module finish: the change has ended, so what goes wrong here is a warning that names the host."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.display import Display
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, outcome
from ansible_collections.baton.web.plugins.module_utils.controller import module_cache


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once, and never fails."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or what it would be where nothing could be done."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        try:
            answer: dict[str, Any] = self._execute_module("baton.web.finish", task_vars=variables)
        except AnsibleError as error:  # above all a host that can't be reached
            answer = {"msg": str(error)}
        if "left" not in answer:
            why = outcome.failure(answer)
            words = f"The change could not be finished here ({why}). {deploy_lock.STALE_LOCK_REMEDY}"
            trouble = f"what it serves is unknown ({why})" if self._task.args.get("serves") else ""
            answer = {"changed": False, "removed": [], "trouble": trouble, "left": [words]}
        for words in answer["left"]:
            Display().warning(f"{self._task.delegate_to or variables['inventory_hostname']}: {words}")
        return result | answer
