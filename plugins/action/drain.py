"""Action of the module drain."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Fails where an edge can't be reached."""
