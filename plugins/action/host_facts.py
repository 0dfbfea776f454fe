"""Action of the module host_facts: compares the host's clock with the controller's, and validates its answer.

The answer goes into paths on the controller and into the settings of other hosts. The action never fails: the playbook
reports hosts that can't be reached or managed, after it has asked all of them.
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, host_answer, module_cache


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module once, and reads the controller's clock before and after it."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result with `clock_ahead`, which is 0 if the host's time is between the two.

        If the host doesn't answer, the result has `failure` (the reason) and `asked` (whether a program could run).
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = action.execute(self, task_vars or {})
        facts = answer.get("ansible_facts", {})
        if answer.get("failed") or "clock" not in facts:
            why = str(answer.get("msg") or "it didn't answer")
            # if the module itself failed, a program could run
            return result | {"changed": False, "failure": why, "asked": not answer.keys() & {"lost", "refused"}}
        if wrong := host_answer.wrong(facts):
            why = (
                f"it returned facts that Baton's program doesn't return ({', '.join(wrong)}). Find out whether it "
                "is compromised, and reinstall it if it is."
            )
            return result | {"changed": False, "failure": why, "asked": False}
        facts["clock_ahead"] = facts["clock"] - min(max(facts["clock"], self.began), time.time())
        return result | answer
