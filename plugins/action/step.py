"""Action of modules that are a step of a change and need nothing else on the controller (see meta/runtime.yml)."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Makes an unreachable host a failure, which can be rescued."""
