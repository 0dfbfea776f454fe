#!/usr/bin/python
"""Ansible module: report how background processes ended: those that a change stopped, and new ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: process_ends_info
short_description: Report how background processes of an application ended
version_added: 0.2.0
description:
  - Reads from systemd and its journal how instances of background processes ended after they were asked to stop, and
    whether those that were started are still up. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  stopped:
    description: For each process type, the value that M(baton.web.activate) returns in C(processes).
    type: dict
    required: true
  started:
    description: Units that M(baton.web.activate) has started, to check that they are up and weren't restarted.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check how the old processes ended
  baton.web.process_ends_info:
    name: links
    stopped: "{{ activated.processes }}"
"""

RETURN = r"""
ends:
  description: >-
    By unit, C(state) and C(seconds) since it was asked to stop. C(draining) means that it finishes its job, C(drained)
    that it has ended, C(killed) that it didn't end within its stop_timeout, C(failed) that it ended with an error, and
    C(unknown) that the journal has no information.
  returned: success
  type: dict
down:
  description: The first of O(started) that ended, and what it logged last; empty if all are up.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.activation import background
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking
from ansible_collections.baton.web.plugins.module_utils.host import untrusted


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "stopped": {"type": "dict", "required": True},
            "started": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    app = layout.Application(module.params["name"])
    found: dict[str, dict[str, Any]] = {}
    for process in module.params["stopped"].values():
        about = untrusted.mapping(process)
        found |= background.ends(
            app, untrusted.texts(about.get("stopped")), untrusted.moment(about.get("stop_requested"))
        )
    down = background.down(app, module.params["started"])
    module.exit_json(changed=False, ends=found, down=masking.masked(app.name, down) if down else "")


if __name__ == "__main__":
    main()
