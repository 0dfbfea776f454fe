#!/usr/bin/python
"""Ansible module: have packages of the distribution installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install packages of the distribution, whatever is wrong with other sources
version_added: 0.2.0
description:
  - Installs with M(ansible.builtin.apt) what is missing. apt's lists are read anew when they are older than a day, and
    when they don't have what is wanted.
  - A source that can't be read is a warning, with apt's own words; it is a failure only where a package can't be had
    for it. M(ansible.builtin.apt) tries such a source again for minutes and fails without a reason.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  name:
    description: The packages. Without any, the lists alone are read anew.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Install nftables
  baton.web.packages:
    name: [nftables]
"""

RETURN = r"""
stdout:
  description: What apt said while it installed.
  returned: when something was installed
  type: str
"""

# plugins/action/packages.py does it; this is its documentation
