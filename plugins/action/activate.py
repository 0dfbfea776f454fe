"""Action of the module activate: begins nothing after a Ctrl-C, and fails where a host can't be reached."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result and `ended`, the time by this controller's clock, as the logs' windows need it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        state = self._task.args.get("state")
        if state == "reverted":
            # a host that can't be asked is told of as such
            result.update(self._execute_module(task_vars=task_vars))
            result["ended"] = time.time()
        elif action.interrupted():
            result.update(action.INTERRUPTED)
        else:
            result.update(action.execute(self, task_vars or {}))
            if state != "rehearsed":
                result["ended"] = time.time()
        return result
