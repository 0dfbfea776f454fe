"""Action of the module state_files: reads files on the controller, including binary ones, and sends them."""

from __future__ import annotations

import base64
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache
from ansible_collections.baton.web.plugins.module_utils.host import command

SETTING = "app_config_state_files"
LARGEST = 16 * 1024 * 1024  # bytes; files are sent as arguments of the module


class ActionModule(module_cache.CachedModuleAction):
    """Fails if a file doesn't exist or is too large."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        files = []
        for item in arguments.get("files", []):
            entry = dict(item)
            if source := entry.pop("src", None):
                try:
                    found = command.find_file(source, arguments["base_dirs"], SETTING)
                except command.BatonError as error:
                    return result | {"failed": True, "msg": str(error)}
                if found.stat().st_size > LARGEST:
                    return result | {"failed": True, "msg": f"{SETTING}: {found} is larger than 16 MiB. Correct src."}
                entry["encoded"] = base64.b64encode(found.read_bytes()).decode()
            files.append(entry)
        answer: dict[str, Any] = action.execute(self, task_vars or {}, {**arguments, "files": files})
        return result | answer
