#!/usr/bin/python
"""Ansible module: run a oneshot unit and wait for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Run a oneshot unit, and fail with its log
version_added: 0.2.0
description:
  - Like C(systemctl start) of a oneshot unit, but the message of a failure contains the last lines of its journal.
  - Only one instance of a template runs at a time. The module waits for an instance that a killed run started.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  name: {description: The unit., type: str, required: true}
  timeout:
    description: Seconds that the unit may take. The unit's own limit should be shorter.
    type: int
    default: 660
  application: {description: Application whose secrets are masked in the result., type: str, required: true}
  lock:
    description: The lock of an application that the run holds. If it has lost the lock, the module starts nothing.
    type: dict
    suboptions:
      name: {description: Name of the application., type: str, required: true}
      token: {description: Name of the run., type: str, required: true}
  history:
    description: >-
      Entry for an application's history, added before the unit starts, so that the history has it even if the run dies.
      If it can't be written, the module starts nothing.
    type: dict
    suboptions:
      name: {description: Name of the application., type: str, required: true}
      entry: {description: An entry in the format of M(baton.web.finish)., type: dict, required: true}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Migrate the database
  baton.web.unit:
    name: links-migration@0123456789abcdef.service
    application: links
"""

RETURN = r"""
log: {description: The last lines of its log., returned: success, type: str}
seconds: {description: Duration., returned: success, type: float}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import masking
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.module_utils.host import systemd


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 660},
            "application": {"type": "str", "required": True},
            "lock": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    # an identifier, not a secret
                    "token": {"type": "str", "required": True, "no_log": False},
                },
            },
            "history": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "entry": {"type": "dict", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    unit = module.params["name"]
    if module.check_mode:
        module.exit_json(changed=True)
    if module.params["lock"]:
        try:
            deploy_lock.extend(Application(module.params["lock"]["name"]), module.params["lock"]["token"])
        except deploy_lock.LockedError as error:
            module.fail_json(msg=str(error))
    template, instance, _ = unit.partition("@")
    others = ("list-units", "--plain", "--no-legend", "--state=activating", f"{template}@*.service")
    deadline = time.monotonic() + module.params["timeout"]
    while instance and systemd.systemctl(*others).stdout.strip():
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"{unit} can't start: another instance of {template}@ is still running. Stop it, or wait."
            )
        time.sleep(0.5)
    if module.params["history"]:
        app = Application(module.params["history"]["name"])
        try:
            history.append(app, module.params["history"]["entry"])
        except OSError as error:
            module.fail_json(
                msg=f"{unit} wasn't started, because the history below {app.state} can't be written: {error}. Check "
                "that disk."
            )
    application = module.params["application"]
    started, began = time.time(), time.monotonic()
    try:
        systemd.change("start", unit, module.params["timeout"])
    except systemd.UnitError as error:
        module.fail_json(msg=masking.masked(application, f"{unit} failed. It logged last:\n{error}"))
    log = masking.masked(application, systemd.tail(unit, started))
    module.exit_json(changed=True, log=log, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
