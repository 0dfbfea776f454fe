#!/usr/bin/python
"""Ansible module: report a host's pending maintenance."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upkeep_info
short_description: Report whether a host needs a reboot, an upgrade, or restarts of services
version_added: 0.2.0
description:
  - Compares packages with apt's current lists, and running processes with the installed files. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  packages: {description: Whether to report the packages that apt would upgrade., type: bool, default: false}
  daemons: {description: "Units to check, or patterns of units.", type: list, elements: str, default: []}
  application:
    description: Name of the application whose units are checked as well; empty for none.
    type: str
    default: ""
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
outdated:
  description: Running units that still execute programs or libraries that an upgrade replaced.
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
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import daemons, upgrades


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "bool", "default": False},
            "daemons": {"type": "list", "elements": "str", "default": []},
            "application": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    units = list(module.params["daemons"])
    if name := module.params["application"]:
        units += [unit for process in layout.Application(name).processes for unit in process.running]
    found: dict[str, Any] = {
        "reboot_required": upgrades.reboot_required(),
        "boot_seconds": upgrades.boot(),
        "outdated": [one["unit"] for one in daemons.behind(units) if one["replaced"]],
    }
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
