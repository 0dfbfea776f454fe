"""Action of modules that are a step of a change and need nothing else on the controller (see meta/runtime.yml)."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Fails where a host can't be reached, so that the failure can be rescued."""
