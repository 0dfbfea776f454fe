"""Action of the module upkeep."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Fails where the host can't be reached."""
