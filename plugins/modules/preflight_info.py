#!/usr/bin/python
"""Ansible module: check a host before anything on it is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_info
short_description: Check a host's disk, ports and platform before anything is changed
version_added: 0.2.0
description:
  - Fails with one message that names every problem and its fix. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  host: {description: Name of the host for messages., type: str, required: true}
  directories:
    description: Folders that need free space, each with C(path) and C(megabytes) (MiB).
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The folder; it may be missing., type: str, required: true}
      megabytes: {description: Required free space in MiB., type: int, required: true}
  ports:
    description: TCP ports that must be free, or used only by the allowed units.
    type: list
    elements: dict
    default: []
    suboptions:
      port: {description: The port., type: int, required: true}
      for: {description: Purpose of the port., type: str, required: true}
      allowed: {description: Patterns of units that may listen on it., type: list, elements: str, required: true}
  application:
    description: The application that will use users, folders, units and files of its name.
    type: dict
    suboptions:
      name: {description: Its name., type: str, required: true}
      user: {description: User that will run it., type: str, required: true}
      adopt:
        description: Existing objects that it takes over, named as in the message.
        type: list
        elements: str
        default: []
      server: {description: Whether the host runs it., type: bool, default: true}
      edge: {description: Whether the host is one of its edges., type: bool, default: false}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check the edge
  baton.web.preflight_info:
    host: "{{ inventory_hostname }}"
    directories: [{path: /var, megabytes: 1024}]
    ports: [{port: 443, for: nginx, allowed: [nginx.service]}]
"""

RETURN = r"""
architecture: {description: The machine's architecture., returned: success, type: str, sample: x86_64}
glibc: {description: Version of the C library., returned: success, type: str, sample: "2.36"}
"""

import platform
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import ownership
from ansible_collections.baton.web.plugins.module_utils.host import preflight


def _rows(**options: dict[str, str]) -> dict[str, Any]:
    """A list of dictionaries, each of which has all of these options."""
    required = {name: {**option, "required": True} for name, option in options.items()}
    return {"type": "list", "elements": "dict", "default": [], "options": required}


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "directories": _rows(path={"type": "str"}, megabytes={"type": "int"}),
            "ports": _rows(
                **{"port": {"type": "int"}, "for": {"type": "str"}, "allowed": {"type": "list", "elements": "str"}}
            ),
            "application": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "user": {"type": "str", "required": True},
                    "adopt": {"type": "list", "elements": "str", "default": []},
                    "server": {"type": "bool", "default": True},
                    "edge": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    application = module.params["application"]
    host = module.params["host"]
    found = [
        *(ownership.problems(host, **application) if application else []),
        *preflight.disk_problems(host, module.params["directories"]),
        *preflight.port_problems(host, module.params["ports"]),
    ]
    if found:
        module.fail_json(msg=" ".join(found))
    module.exit_json(changed=False, architecture=platform.machine(), glibc=preflight.glibc())


if __name__ == "__main__":
    main()
