"""Action of the module edge_log_info: runs a bake in pieces, and checks for a Ctrl-C after each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

PIECE = 10.0  # seconds, at most
CHECKS = 3  # minimum of active checks in each; fewer prove nothing


def pieces(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the module's arguments for each piece of the bake."""
    seconds = float(arguments.get("bake_seconds") or 0)
    number = max(1, math.ceil(seconds / PIECE))
    for _ in range(number):
        piece = {**arguments, "bake_seconds": seconds / number}
        if number > 1 and (checks := arguments.get("checks")):
            piece["checks"] = {**checks, "count": max(CHECKS, math.ceil(int(checks["count"]) / number))}
        yield piece


class ActionModule(module_cache.CachedModuleAction):
    """Fails if an edge can't be reached, and after a Ctrl-C."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result; its verdict applies to the whole bake."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = {}
        for piece in pieces(self._task.args):
            answer = action.execute(self, task_vars or {}, piece)
            if not untrusted.mapping(answer.get("verdict")).get("ok"):
                break
            if action.interrupted():
                answer = action.INTERRUPTED
                break
        return result | answer
