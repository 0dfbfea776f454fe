"""Action controller_info: checks the controller in Ansible's own process, in a tenth of a module's time."""

from __future__ import annotations

import sys
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.release import __version__
from ansible_collections.baton.web.plugins.module_utils.controller import prerequisites


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks the controller's tools."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the installed collections, or fail with what is missing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "collections": {"type": "list", "elements": "dict", "required": True},
                "search_paths": {"type": "list", "elements": "str", "default": []},
            }
        )
        roots = [*options["search_paths"], *constants.COLLECTIONS_PATHS, *(path for path in sys.path if path)]
        installed = prerequisites.installed_collections(roots)
        found = prerequisites.problems(ansible_version=__version__, wanted=options["collections"], installed=installed)
        if found:
            return result | {"failed": True, "msg": "This controller can't deploy. " + " ".join(found)}
        return result | {"changed": False, "installed": installed}
