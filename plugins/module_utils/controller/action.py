"""What the actions of a change's steps share, on the controller: Ctrl-C, and hosts that can't be reached or managed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display

from ..change import outcome
from ..host import untrusted
from . import reachability
from .module_cache import CachedModuleAction

INTERRUPTED = {"failed": True, "msg": outcome.INTERRUPTED}


def interrupted() -> bool:
    """Whether the operator has pressed Ctrl-C (see the callback baton.web.run)."""
    return os.path.exists(os.environ.get("BATON_INTERRUPTED", ""))


def tell(words: str) -> None:
    """Print a text that a host may have had a part in, past the callback: with nothing in it that a terminal obeys."""
    Display().display(untrusted.printable(words))


def warn(words: str) -> None:
    """The same as a warning."""
    Display().warning(untrusted.printable(words))


def execute(action: Any, variables: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the action's module, with the task's arguments or others. A host without an answer is a failure.

    A failure is rescued, and the change undone. Ansible leaves out of the play whom it takes for unreachable (with a
    task that is delegated, the host that it was done for) and whose sudo refuses, past any `failed_when` and rescue.
    The result has `lost` where no connection leads to the host, and `refused` where its user may not do what the task
    needs; with the task's argument `optional` a lost host is a warning, and the result has `unreached`.
    """
    host = action._task.delegate_to or variables["inventory_hostname"]
    known = variables.get("hostvars", {}).get(host) or variables
    try:
        result: dict[str, Any] = action._execute_module(module_args=arguments, task_vars=variables)
    except AnsibleConnectionFailure as error:
        told = f"{host} {reachability.lost(error, known)}"
        if boolean(action._task.args.get("optional", False)):
            return {"changed": False, "unreached": True, "warnings": [f"{told} The run goes on without it."]}
        return {"failed": True, "lost": True, "msg": told}
    except AnsibleError as error:
        return {"failed": True, "refused": True, "msg": f"{host} {reachability.unmanaged(str(error), known)}"}
    words = reachability.said(result)
    if words and "Traceback" not in words:
        result["msg"] = f"{host} {reachability.unmanaged(words, known)}"
    return result


class Step(CachedModuleAction):
    """Runs the module of the action's name once."""

    heeds_interrupt = False  # whether it is one that nobody begins after a Ctrl-C

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(INTERRUPTED if self.heeds_interrupt and interrupted() else execute(self, task_vars or {}))
        return result
