"""Action packages: installs with ansible.builtin.apt, and updates apt's lists only if necessary."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_result

LISTS_MAX_AGE = 86400  # seconds
# a source that doesn't respond costs each timeout twice for each of its addresses; another program may hold apt's lock
REFRESH = (
    "apt-get -o Acquire::Retries=1 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "
    "-o DPkg::Lock::Timeout=300 update"
)


class ActionModule(module_result.CheckedModuleAction):
    """Installs what is missing."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return apt's result, with a warning for each source that could not be read."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec({"name": {"type": "list", "elements": "str", "default": []}})
        variables = task_vars or {}
        names = options["name"]
        # with delegation, the facts are not those of the delegated host
        delegated = bool(self._task.delegate_to)
        age = 0 if delegated else variables.get("ansible_facts", {}).get("package_lists_age")
        outdated = not names or age is None or age > LISTS_MAX_AGE
        troubles = self._refresh(variables) if outdated and not self._task.check_mode else None
        if not names:
            return result | {"changed": False} | _warnings(troubles)
        answer = self._install(names, variables)
        if answer.get("failed") and troubles is None and not self._task.check_mode:
            troubles = self._refresh(variables)
            answer = self._install(names, variables)
        if answer.get("failed") and self._task.check_mode and "No package matching" in str(answer.get("msg")):
            # check mode doesn't update the lists
            return result | {"changed": True}
        if answer.get("failed"):
            host = action.host_of(self, variables)
            unread = f" These package lists could not be updated: {'; '.join(troubles)}." if troubles else ""
            answer["msg"] = (
                f"{host}: apt can't install {', '.join(names)}: {str(answer.get('msg', '')).rstrip('.')}.{unread} "
                "Fix the host's sources (/etc/apt/sources.list.d) or its network, then run this again."
            )
        read = troubles is not None and not delegated
        known = {"ansible_facts": {"package_lists_age": 0}} if read else {}
        return result | answer | known | _warnings(troubles, answer)

    def _install(self, names: list[str], variables: dict[str, Any]) -> dict[str, Any]:
        arguments = {"name": names, "state": "present", "install_recommends": False, "lock_timeout": 300}
        answer: dict[str, Any] = self._execute_module("ansible.builtin.apt", module_args=arguments, task_vars=variables)
        if answer.get("failed") and answer.get("stderr"):
            answer["msg"] = f"{answer.get('msg', '')} {errors(answer['stderr'])}".strip()
        return answer

    def _refresh(self, variables: dict[str, Any]) -> list[str]:
        arguments = {"_raw_params": REFRESH}
        answer = self._execute_module("ansible.builtin.command", module_args=arguments, task_vars=variables)
        return troubled(f"{answer.get('stdout', '')}\n{answer.get('stderr', '')}\n{answer.get('module_stderr', '')}")


def troubled(output: str) -> list[str]:
    """Return the sources that apt could not read, each with the reason, from the output of an update."""
    found = [
        line.partition(": ")[2].strip()
        for line in output.splitlines()
        if re.match(r"[EW]: ", line) and "Some index files failed" not in line
    ]
    return list(dict.fromkeys(found))


def errors(output: str) -> str:
    """Return the errors in apt's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " ".join([line for line in lines if line.startswith("E:")] or lines[-3:])


def _warnings(troubles: list[str] | None, answer: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a warning about unreadable sources, unless the installation failed, which reports them itself."""
    if not troubles or (answer or {}).get("failed"):
        return {}
    warning = f"A package source can't be read: {'; '.join(troubles)}. The required packages are available anyway."
    return {"warnings": [*(answer or {}).get("warnings", []), warning]}
