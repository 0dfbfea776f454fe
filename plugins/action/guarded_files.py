"""Action of the module guarded_files: confirms a change over a new connection, or reports why none could be made."""

from __future__ import annotations

import time
import uuid
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache, reachability

POLL = 1.0  # seconds between two tries
GRACE = 30.0  # seconds after the undo in which a host may become reachable again


class ActionModule(module_cache.CachedModuleAction):
    """Fails if the change wasn't confirmed, with what the host did."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        host = variables["inventory_hostname"]
        # a local connection can't be renewed, even if the operator's own login has SSH_CONNECTION
        reconnects = self._connection.transport != "local"
        arguments = {**self._task.args, "token": uuid.uuid4().hex, "reconnects": reconnects}
        answer = action.execute(self, variables, arguments)
        name, seconds = str(arguments.get("name", "")), float(arguments.get("seconds", 45))
        advice = str(arguments.get("advice", ""))
        if answer.get("lost"):
            answer["msg"] += (
                f" If the change of the {name} configuration had begun, the host reverts it within {seconds:.0f} s. "
                f"{advice}"
            )
        elif answer.get("failed"):
            if not str(answer.get("msg", "")).startswith(f"{host} "):
                answer["msg"] = f"{host}: the {name} configuration can't be changed: {answer.get('msg', '')}"
        elif (
            answer.get("changed")
            and not self._task.check_mode
            and (why := self._unconfirmed(variables, name, arguments["token"], seconds))
        ):
            answer = {"failed": True, "msg": f"{host}: {why} {advice}".strip()}
        return result | answer

    def _unconfirmed(self, variables: dict[str, Any], name: str, token: str, seconds: float) -> str:
        """Confirm the change. Returns why that failed and what the host did; empty if it is confirmed."""
        question = {"name": name, "token": token, "state": "confirmed"}
        until = time.monotonic() + seconds + GRACE
        why = ""
        while time.monotonic() < until:
            outcome, reason = self._confirm(variables, question)
            if outcome == "confirmed":
                return ""
            # an error of ssh says more than the host's reason
            why = (reason or why) if not outcome else (why or reason)
            if outcome in ("undone", "unknown"):
                return (
                    f"after the change of the {name} configuration no new connection could be made within "
                    f"{seconds:.0f} s, so the host has restored the former one. "
                    f"Cause: {why or 'no connection succeeded in that time'}."
                )
            time.sleep(POLL)
        return (
            f"after the change of the {name} configuration no new connection could be made, and still can't be, "
            f"although the host restores the former one by itself after {seconds:.0f} s. Cause: {why}."
        )

    def _confirm(self, variables: dict[str, Any], question: dict[str, Any]) -> tuple[str, str]:
        """Try over a new connection. Returns the host's outcome, empty without a connection, and the reason."""
        try:
            self._connection.reset()
            answer = self._execute_module(module_args=question, task_vars=variables)
        except AnsibleError as error:
            return "", " ".join(str(error).split()).rstrip(".")
        reason = reachability.unexpected_output(answer) or str(answer.get("why") or answer.get("msg") or "")
        return str(answer.get("outcome") or ""), " ".join(reason.split()).rstrip(".")
