"""Action of the module deploy_lock: waits for the lock, and checks whether a holder on this controller is alive.

An unreachable host is a failure, so that the playbook releases the locks of the other hosts.
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache, run

POLL = 2  # seconds between two attempts


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module until it gets the lock, or until the time for waiting is over."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        options = dict(self._task.args)
        wait = int(options.get("wait") or 0)
        deadline, shown = time.monotonic() + wait, False
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
            if not shown:
                host = action.host_of(self, variables)
                action.tell(f"  {host}: waiting up to {wait} s for {holder['who']} ({holder['reason']})")
                shown = True
            time.sleep(min(POLL, left))
