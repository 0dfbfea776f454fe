#!/usr/bin/python
"""Ansible module: install packages of the distribution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install packages of the distribution, even if other sources are broken
version_added: 0.2.0
description:
  - Installs missing packages with M(ansible.builtin.apt). Updates apt's lists if they are older than a day, or if they
    don't contain a required package.
  - A source that can't be read causes a warning with apt's own message, and a failure only if a package is therefore
    unavailable. M(ansible.builtin.apt) retries such a source for minutes and fails without a cause.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  name:
    description: Packages to install. Without any, the module only updates the lists.
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
  description: Output of apt during the installation.
  returned: when a package was installed
  type: str
"""

# implemented by plugins/action/packages.py; this file is only its documentation
