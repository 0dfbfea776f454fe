"""Action of the module baton_activate: begins nothing after a Ctrl-C, and fails where a host can't be reached."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module once."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result and `ended`, the time by this controller's clock, as the logs' windows need it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        reverts = self._task.args.get("state") == "reverted"
        if os.environ.get("BATON_INTERRUPTED") == "1" and not reverts:
            return result | {"failed": True, "msg": "Interrupted by the operator."}
        try:
            answer: dict[str, Any] = self._execute_module("baton_activate", task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            if reverts:
                raise
            # it has to stay in the play, to be put back: a failure is rescued, an unreachable host is left out
            return result | {"failed": True, "msg": str(error)}
        return result | answer | {"ended": time.time()}
