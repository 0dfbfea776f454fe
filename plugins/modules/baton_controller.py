#!/usr/bin/python
"""Ansible module: check the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: baton_controller
short_description: Check that the controller has what the playbooks need
description:
  - Fails with one message that names every missing part and its fix. Changes nothing.
author: Baton contributors
options:
  collections:
    description: Entries of C(requirements.yml), each with C(name) and C(version) (C(>=X.Y.Z)).
    type: list
    elements: dict
    required: true
  search_paths:
    description: Further folders that may hold C(ansible_collections), searched before Python's own.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check the controller's tools
  baton_controller:
    collections: [{name: ansible.posix, version: ">=2.0.0"}]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
installed:
  description: Collections found, with their versions.
  returned: success
  type: dict
"""

import os
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.baton import controller


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "collections": {"type": "list", "elements": "dict", "required": True},
            "search_paths": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    configured = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "~/.ansible/collections:/usr/share/ansible/collections")
    roots = [*module.params["search_paths"], *configured.split(":"), *(path for path in sys.path if path)]
    installed = controller.installed_collections(roots)
    found = controller.problems(
        ansible_version=module.ansible_version, wanted=module.params["collections"], installed=installed
    )
    if found:
        module.fail_json(msg="This controller can't deploy. " + " ".join(found))
    module.exit_json(changed=False, installed=installed)


if __name__ == "__main__":
    main()
