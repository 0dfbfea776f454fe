"""Action of the module deploy_lock: waits, and knows whether a holder that began on this controller is still alive.

A host that can't be reached is a failure, so that what was locked elsewhere is given back.
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache, run

POLL = 2  # seconds between two looks while waiting


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module until it isn't refused any more, or the time for waiting is over."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        options = dict(self._task.args)
        wait = int(options.get("wait") or 0)
        deadline, told = time.monotonic() + wait, False
        while True:
            if options.get("state") == "held" and action.interrupted():
                result.update(action.INTERRUPTED)
                return result
            answer: dict[str, Any] = action.execute(self, variables, options)
            holder = answer.get("holder") if answer.get("failed") else None
            if not holder:
                return result | answer
            if holder["token"] != options.get("dead") and run.ended(holder["process"]):
                options["dead"] = holder["token"]
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return result | answer
            if not told:
                host = variables["inventory_hostname"]
                action.tell(f"  {host}: waiting up to {wait} s for {holder['who']} ({holder['reason']})")
                told = True
            time.sleep(min(POLL, left))
