#!/usr/bin/python
"""Ansible module: wait until an edge has forwarded the requests that it received under an older configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flush_edge
short_description: Wait until an edge has forwarded the requests that it received under an older configuration
version_added: 0.2.0
description:
  - Reloads nginx, so that worker processes from before the reload accept no more connections. Waits until these have
    forwarded the requests that they were receiving, such as uploads, or until I(timeout). Requests that wait for their
    response, WebSockets and streams continue.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  servers:
    description: Servers that the site sends requests to, and those of the older configuration.
    type: list
    elements: str
    required: true
  timeout: {description: Seconds to wait., type: int, default: 30}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Wait until no request is sent to the former port
  baton.web.flush_edge:
    servers: ["10.0.0.21:8000", "10.0.0.21:8443"]
"""

RETURN = r"""
remaining: {description: Requests that haven't been forwarded after the wait., returned: success, type: int}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from ansible_collections.baton.web.plugins.module_utils.host import systemd


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "servers": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, remaining=0)
    try:
        # returns when the previous worker processes no longer accept connections
        systemd.change("reload", "nginx.service", 60)
        remaining = upstream.wait_until_passed_on(module.params["servers"], module.params["timeout"])
    except systemd.UnitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, remaining=remaining)


if __name__ == "__main__":
    main()
