"""Action of the module baton_rehearse."""

from __future__ import annotations

import pathlib

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import step  # noqa: E402


class ActionModule(step.Step):  # type: ignore[misc]
    """Begins nothing after a Ctrl-C, and fails where a host can't be reached."""

    heeds_interrupt = True
