"""Action of modules that are a step of a change which isn't begun after a Ctrl-C (see meta/runtime.yml)."""

from __future__ import annotations

from ansible_collections.baton.web.plugins.module_utils.controller import action


class ActionModule(action.Step):
    """Begins nothing after a Ctrl-C, and fails where a host can't be reached."""

    interruptible = True
