"""Common code of the action plugins for the steps of a change: Ctrl-C, and hosts that can't be reached or managed."""

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
    """Print a text that may contain parts from a host, with control characters escaped; the callback doesn't see it."""
    Display().display(untrusted.printable(words))


def warn(words: str) -> None:
    """Print such a text as a warning."""
    Display().warning(untrusted.printable(words))


def host_of(action: Any, variables: Mapping[str, Any]) -> str:
    """Return the host on which an action runs its module, for messages."""
    return str(action._task.delegate_to or variables["inventory_hostname"])


def execute(action: Any, variables: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the action's module, by default with the task's arguments. An unreachable host is a failure.

    A failure can be rescued, so that the change is reverted. Ansible itself removes an unreachable host (for a
    delegated task, the host that it was run for) and one whose sudo fails from the play, regardless of `failed_when`
    and rescue. The result has `lost` if the connection failed, and `refused` if its user lacks permission. With the
    task's argument `optional`, a lost host is a warning, and the result has `unreached`.
    """
    host = host_of(action, variables)
    known = variables.get("hostvars", {}).get(host) or variables
    try:
        result: dict[str, Any] = action._execute_module(module_args=arguments, task_vars=variables)
    except AnsibleConnectionFailure as error:
        message = f"{host} {reachability.lost(error, known)}"
        if boolean(action._task.args.get("optional", False)):
            return {"changed": False, "unreached": True, "warnings": [f"{message} The run goes on without it."]}
        return {"failed": True, "lost": True, "msg": message}
    except AnsibleError as error:
        return {"failed": True, "refused": True, "msg": f"{host} {reachability.unmanaged(str(error), known)}"}
    output = reachability.unexpected_output(result)
    if output and "Traceback" not in output:
        result["msg"] = f"{host} {reachability.unmanaged(output, known)}"
    elif result.get("failed") and host != variables["inventory_hostname"]:
        # Ansible labels the failure of a delegated task with the host that it was run for
        message = str(result.get("msg", ""))
        result["msg"] = message if message.startswith((f"{host}: ", f"{host} ")) else f"{host}: {message}"
    return result


class Step(CachedModuleAction):
    """Action that runs the module of the same name."""

    interruptible = False  # whether the step must not begin after a Ctrl-C

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(INTERRUPTED if self.interruptible and interrupted() else execute(self, task_vars or {}))
        return result
