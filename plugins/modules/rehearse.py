#!/usr/bin/python
"""Ansible module: boot a release next to the running one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearse
short_description: Boot a staged release completely next to the running one, check its health, and stop it
version_added: 0.2.0
description:
  - Starts C(<name>-rehearsal@<release>.service), which is the web service with one worker on a scratch socket.
    It has the service's user, environment, secrets, sandbox and limits, and reads the configuration on disk.
  - Fails with the cause and the last lines of the application's log. The running release isn't affected, and nothing
    of the rehearsal remains.
  - Before that, looks up in the release what the commands of process types, checks and schedules run, and fails if it
    isn't there.
  - Skips a release that already serves with the configuration of its activation.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.health]
options:
  release: {description: Id of a staged release; empty for the current one., type: str, default: ""}
  timeout: {description: Seconds that the rehearsal may take., type: int, default: 90}
attributes:
  check_mode: {support: full, details: Rehearses nothing.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Rehearse the release
  baton.web.rehearse:
    name: links
    release: 0123456789abcdef
    health_path: /readyz
"""

RETURN = r"""
rehearsed: {description: Whether the release was booted; false if it already serves., returned: success, type: bool}
seconds: {description: Duration., returned: success, type: float}
migrates:
  description: A log line about a migration of the database during the boot; empty if there was none.
  returned: success
  type: str
unchecked:
  description: Why the commands of process types and schedules could not be looked up; empty if they were.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.activation import rehearsal
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout, masking


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 90},
            **health_check.OPTIONS,
        },
        supports_check_mode=True,
    )
    options = module.params
    app = layout.Application(options["name"])
    health = health_check.Health.of(options)
    try:
        result: dict[str, Any] = {"rehearsed": False, "seconds": 0.0, "migrates": "", "unchecked": ""}
        if not module.check_mode:
            result = rehearsal.rehearse(app, options["release"], options["timeout"], health)
    except (layout.ActivationError, rehearsal.RehearsalError) as error:
        module.fail_json(msg=masking.masked(app.name, str(error)))
    result, warnings = rehearsal.reported(app, result)
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
