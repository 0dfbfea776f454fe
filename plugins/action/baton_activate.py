"""Action of the module baton_activate: begins nothing after a Ctrl-C, and fails where a host can't be reached."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import module_cache, step  # noqa: E402


class ActionModule(module_cache.CachedModuleAction):  # type: ignore[misc]
    """Runs the module once."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result and `ended`, the time by this controller's clock, as the logs' windows need it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        state = self._task.args.get("state")
        if state == "reverted":
            # a host that can't be asked is told of as such
            result.update(self._execute_module(task_vars=task_vars))
        elif step.interrupted():
            result.update(step.INTERRUPTED)
        else:
            result.update(step.execute(self, task_vars or {}))
            if state != "rehearsed":
                result["ended"] = time.time()
        return result
