"""Action of the module wait_ready: an unreachable host isn't ready yet, for example after a reboot."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache

POLL = 1  # seconds between two tries


class ActionModule(module_cache.CachedModuleAction):
    """Fails if the host can't be reached within the timeout."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        deadline = time.monotonic() + float(self._task.args.get("timeout", 120))
        while True:
            answer: dict[str, Any] = action.execute(self, task_vars or {})
            if not answer.get("lost") or time.monotonic() > deadline:
                return result | answer
            time.sleep(POLL)
