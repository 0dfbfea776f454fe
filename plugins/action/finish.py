"""Action of the module finish: the change is already complete, so errors are warnings that name the host."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, outcome
from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache
from ansible_collections.baton.web.plugins.module_utils.host import untrusted


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once, and never fails."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or an equivalent one if it failed."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        try:
            answer: dict[str, Any] = self._execute_module("baton.web.finish", task_vars=variables)
        except AnsibleError as error:  # mostly an unreachable host
            answer = {"msg": str(error)}
        if not isinstance(answer.get("left"), list):
            why = outcome.failure(answer)
            sentence = f"The change could not be finished here ({why}). {deploy_lock.STALE_LOCK_REMEDY}"
            trouble = f"what it serves is unknown ({why})" if self._task.args.get("serves") else ""
            answer = {"changed": False, "removed": [], "trouble": trouble, "left": [sentence]}
        for sentence in untrusted.texts(answer["left"]):
            action.warn(f"{action.host_of(self, variables)}: {sentence}")
        return result | answer
