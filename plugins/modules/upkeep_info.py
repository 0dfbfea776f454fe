#!/usr/bin/python
"""Ansible module: report a host's pending maintenance."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upkeep_info
short_description: Report whether a host needs a reboot or an upgrade
version_added: 0.2.0
description:
  - Compares packages with apt's current lists. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  packages: {description: Whether to report the packages that apt would upgrade., type: bool, default: false}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Read the state of the host
  baton.web.upkeep_info:
    packages: true
"""

RETURN = r"""
reboot_required:
  description: Packages for which the distribution requests a reboot.
  returned: always
  type: list
  elements: str
boot_seconds: {description: Duration of the last boot., returned: always, type: float}
upgrades:
  description: "Packages to upgrade or add, each with its versions: openssl 3.0.15-1 -> 3.0.16-1."
  returned: with packages
  type: list
  elements: str
removals: {description: Packages that the upgrade would remove., returned: with packages, type: list, elements: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import upgrades


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(argument_spec={"packages": {"type": "bool", "default": False}}, supports_check_mode=True)
    found: dict[str, Any] = {"reboot_required": upgrades.reboot_required(), "boot_seconds": upgrades.boot()}
    if module.params["packages"]:
        done = upgrades.simulate()
        if done.returncode:
            module.fail_json(
                msg=f"apt can't determine the upgrades: {done.stderr.strip()} Repair apt on this host "
                "(`apt-get --fix-broken install`, `dpkg --configure -a`) and run this again."
            )
        found |= upgrades.pending(done.stdout)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
