"""Action of the module host_facts: knows how far the host's clock is from the controller's, and takes no other address
than one from it: what a host says of itself goes into the settings of others. It never fails: a host that can't be
reached or managed is for the playbook to tell of, which asks all of them.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once, and looks at the clock before and after."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result with `clock_ahead`, which is 0 where the host's time lies between the two.

        Without an answer it has `failure`, why, and `asked`, whether something could run on the host.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = action.execute(self, task_vars or {})
        facts = answer.get("ansible_facts", {})
        if answer.get("failed") or "clock" not in facts:
            why = str(answer.get("msg") or "it gave no answer")
            # a module that fails tells of the interpreter that was found
            return result | {"changed": False, "failure": why, "asked": not answer.keys() & {"lost", "refused"}}
        facts["clock_ahead"] = facts["clock"] - min(max(facts["clock"], self.began), time.time())
        try:
            ipaddress.IPv4Address(facts["default_ipv4"]["address"])
        except (KeyError, ValueError):
            facts["default_ipv4"] = {}
        return result | answer
