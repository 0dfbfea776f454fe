#!/usr/bin/python
"""Ansible module: check the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: controller_info
short_description: Check that the controller has what the playbooks need
version_added: 0.2.0
description:
  - Fails with one message that names every missing part and its fix. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  collections:
    description: Entries of C(requirements.yml), each with C(name) and C(version) (C(>=X.Y.Z)).
    type: list
    elements: dict
    required: true
  search_paths:
    description: Further folders that may contain C(ansible_collections), searched before Python's own.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check the controller's tools
  baton.web.controller_info:
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

# implemented by plugins/action/controller_info.py; this file is only its documentation
