"""Action of modules that are a step of a change that must not begin after a Ctrl-C (see meta/runtime.yml)."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Begins nothing after a Ctrl-C, and makes an unreachable host a failure."""

    interruptible = True
