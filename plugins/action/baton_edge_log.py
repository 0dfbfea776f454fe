"""Action of the module baton_edge_log: a bake is watched in pieces, and a Ctrl-C is heeded after each of them."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import module_cache, step  # noqa: E402

PIECE = 10.0  # seconds, at most
CHECKS = 3  # active checks in each, at least: of fewer nothing can be told


def pieces(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The module's arguments, once for each time that it is to be run."""
    seconds = float(arguments.get("bake_seconds") or 0)
    number = max(1, math.ceil(seconds / PIECE))
    for _ in range(number):
        piece = {**arguments, "bake_seconds": seconds / number}
        if number > 1 and (checks := arguments.get("checks")):
            piece["checks"] = {**checks, "count": max(CHECKS, math.ceil(int(checks["count"]) / number))}
        yield piece


class ActionModule(module_cache.CachedModuleAction):  # type: ignore[misc]
    """Fails where an edge can't be reached, and when the operator asks to stop while it watches."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result, whose verdict is that of the whole bake."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = {}
        for piece in pieces(self._task.args):
            answer = step.execute(self, task_vars or {}, piece)
            if not answer.get("verdict", {}).get("ok"):
                break
            if step.interrupted():
                answer = step.INTERRUPTED
                break
        return result | answer
