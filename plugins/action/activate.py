"""Action of the module activate: begins nothing after a Ctrl-C, and makes an unreachable host a failure."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, with `ended` by this controller's clock, which the logs' windows need."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        state = self._task.args.get("state")
        if state == "reverted":
            # not by action.execute: the playbook handles unreachable hosts in a revert
            result.update(self._execute_module(task_vars=task_vars))
            result["ended"] = time.time()
        elif action.interrupted():
            result.update(action.INTERRUPTED)
        else:
            result.update(action.execute(self, task_vars or {}))
            if state != "rehearsed":
                result["ended"] = time.time()
        return result
