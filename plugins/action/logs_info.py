"""Action of the module logs_info: prints new entries as they arrive, which a module can't."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.app import journal
from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache

DEFAULT = "10 min ago"
POLL = 3  # seconds that a call waits on the host for new entries


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module, once or for as long as `follow` says."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; with `follow`, print the entries instead."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        options = dict(self._task.args)
        try:
            options["since"] = journal.start(str(options.get("since") or DEFAULT))
        except journal.JournalError as error:
            return result | {"failed": True, "msg": str(error)}
        seconds = int(options.pop("follow", None) or 0)
        if not seconds:
            return result | self._read(options, variables)
        host, width = variables["inventory_hostname"], max(map(len, variables["ansible_play_hosts"]))
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            found = self._read({**options, "wait": max(1, min(POLL, int(left)))}, variables)
            if not isinstance(found.get("entries"), list):
                return result | found
            for _, line in journal.prefixed(host, found["entries"], width):
                action.tell(line)
            options["since"] = str(found.get("position") or options["since"])
        return result | {"changed": False, "entries": [], "position": options["since"]}

    def _read(self, options: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module("baton.web.logs_info", module_args=options, task_vars=variables)
        return found
