#!/usr/bin/python
"""Ansible module: wait until an application's draining web workers have ended."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_drained
short_description: Wait until the draining web workers have ended
version_added: 0.2.0
description:
  - After a reload, the old workers finish their requests, and may still enqueue jobs.
  - The master ends them by its own time limit. Workers that remain after O(timeout) cause a warning. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  transaction:
    description: Token of the deploy lock, which the module extends while it waits; empty for none.
    type: str
    default: ""
  timeout: {description: Seconds to wait., type: int, default: 3600}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Wait for the old workers
  baton.web.wait_drained:
    name: links
    transaction: "{{ lock.token }}"
"""

RETURN = r"""
left: {description: Pids of the workers that still drain., returned: success, type: list, elements: int}
seconds: {description: Duration., returned: success, type: float}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import layout, server_status
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock

POLL_SECONDS = 0.2
EXTEND_SECONDS = 60.0


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "transaction": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    app = layout.Application(module.params["name"])
    began = extended = time.monotonic()
    while (left := server_status.draining(app)) and (now := time.monotonic()) - began < module.params["timeout"]:
        # check mode takes no lock
        if module.params["transaction"] and not module.check_mode and now - extended >= EXTEND_SECONDS:
            extended = now
            try:
                deploy_lock.extend(app, module.params["transaction"])
            except deploy_lock.LockedError as error:
                module.fail_json(msg=str(error))
        time.sleep(POLL_SECONDS)
    if left:
        pids = ", ".join(map(str, left))
        module.warn(f"Web workers of the former release still drain after {module.params['timeout']} s: {pids}.")
    module.exit_json(changed=False, left=left, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
