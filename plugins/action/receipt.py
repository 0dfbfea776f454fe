"""Action receipt: writes the receipt in Ansible's own process, in a tenth of a module's time."""

from __future__ import annotations

import pathlib
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.baton.web.plugins.module_utils.change import receipt
from ansible_collections.baton.web.plugins.module_utils.controller import action, receipt_page
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError


class ActionModule(ActionBase):  # type: ignore[misc]
    """Composes and writes the receipt."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the receipt and the paths of its files."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "directory": {"type": "path", "required": True},
                "keep": {"type": "int", "default": 50},
                "deploy": {
                    "type": "dict",
                    "required": True,
                    "options": {
                        "application": {"type": "str", "required": True},
                        "result": {"type": "str", "required": True},
                        "started": {"type": "float", "required": True},
                        "ended": {"type": "float"},
                        "seconds": {"type": "float"},
                        "kind": {"type": "str"},
                        "release": {"type": "str"},
                        "previous": {"type": "str"},
                        "version": {"type": "str"},
                        "who": {"type": "str"},
                        "where": {"type": "str"},
                        "reason": {"type": "str"},
                    },
                },
                "edges": {"type": "dict", "default": {}},
                "hosts": {"type": "dict", "default": {}},
                "phases": {"type": "list", "elements": "dict", "default": []},
            }
        )
        directory = pathlib.Path(options["directory"])
        document = receipt.compose(options["deploy"], options["edges"], options["hosts"], options["phases"])
        files = receipt.paths(document, directory)
        result |= {
            "text": receipt.text(document),
            "headline": document["headline"],
            "receipt": document,
            "name": receipt.name_of(document),
            "json": receipt.as_json(document),
        }
        removed: list[pathlib.Path] = []
        if not self._task.check_mode:
            try:
                removed = receipt.keep(document, receipt_page.page(document), directory, options["keep"])
            except BatonError as error:
                # the change has already ended; a failure here would hide its result
                action.warn(str(error))
                return result | {"changed": False}
        return result | {
            "changed": True,
            "text": f"{result['text']}\nReceipt: {files['html']}",
            "json_path": str(files["json"]),
            "html_path": str(files["html"]),
            "removed": [str(path) for path in removed],
        }
