"""Action of the module baton_facts: knows how far the host's clock is from the controller's, and takes no other address
than one from it: what a host says of itself goes into the settings of others.
"""

from __future__ import annotations

import ipaddress
import pathlib
import time
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import module_cache  # noqa: E402


class ActionModule(module_cache.CachedModuleAction):  # type: ignore[misc]
    """Runs the module once, and looks at the clock before and after."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result with `clock_ahead`, which is 0 where the host's time lies between the two."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = self._execute_module(task_vars=task_vars)
        if "ansible_facts" in answer:
            clock = answer["ansible_facts"]["clock"]
            answer["ansible_facts"]["clock_ahead"] = clock - min(max(clock, self.began), time.time())
            try:
                ipaddress.IPv4Address(answer["ansible_facts"]["default_ipv4"]["address"])
            except (KeyError, ValueError):
                answer["ansible_facts"]["default_ipv4"] = {}
        return result | answer
