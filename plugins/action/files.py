"""Action of the module files."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Fails where a host can't be reached."""
