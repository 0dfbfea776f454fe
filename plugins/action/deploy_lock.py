"""Action of the module deploy_lock: waits for the lock, and checks whether a holder on this controller is alive.

An unreachable host is a failure, so that the playbook releases the locks of the other hosts.
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache, run
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

POLL = 2  # seconds between two attempts
MOST_ENDED = 10  # holders of this controller that have ended, one after another


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module until it gets the lock, or until the time for waiting is over."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        options = dict(self._task.args)
        wait = int(options.get("wait") or 0)
        deadline, shown, replaced = time.monotonic() + wait, False, 0
        while True:
            if options.get("state") == "held" and action.interrupted():
                result.update(action.INTERRUPTED)
                return result
            answer: dict[str, Any] = action.execute(self, variables, options)
            holder = untrusted.mapping(answer.get("holder")) if answer.get("failed") else {}
            if not holder:
                return result | answer
            token, process, who, why = (
                untrusted.text(holder.get(key)) for key in ("token", "process", "who", "reason")
            )
            # limited, because a host could invent ended runs forever
            if replaced < MOST_ENDED and token != options.get("dead") and run.ended(process):
                options["dead"], replaced = token, replaced + 1
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return result | answer
            if not shown:
                host = action.host_of(self, variables)
                action.tell(untrusted.line(f"  {host}: waiting up to {wait} s for {who} ({why})"))
                shown = True
            time.sleep(min(POLL, left))
