#!/usr/bin/python
"""Ansible module: apply the settings of a file of sysctl.d."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_settings
short_description: Apply kernel settings (sysctl), and report those that the kernel doesn't allow
version_added: 0.2.0
description:
  - Compares the kernel's values with the required ones, and sets those that differ. Another task writes the file, which
    the host reads at the next boot.
  - Doesn't change settings for which another file of sysctl.d takes precedence at boot.
  - Warns about settings that can't be set, as in a container, or that another file overrides.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  path: {description: The file of sysctl.d that holds the settings., type: path, required: true}
  settings:
    description: Values by name, as in C(net.core.somaxconn); C(*) matches one part, such as an interface.
    type: dict
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Refuse redirects on all interfaces
  baton.web.kernel_settings:
    path: /etc/sysctl.d/10-baton.conf
    settings:
      net.ipv4.conf.*.accept_redirects: 0
"""

RETURN = r"""
changes: {description: "Names of settings that changed, or would change.", returned: success, type: list, elements: str}
unmet:
  description: Settings for which the kernel has another value.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the setting., type: str}
    wanted: {description: Required value., type: str}
    has: {description: "Current value; empty if the kernel has no such setting.", type: str}
    why: {description: Reason., type: str}
"""

import dataclasses
import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import kernel_settings


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "settings": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    settings = {kernel_settings.normal(name): str(value) for name, value in module.params["settings"].items()}
    done = kernel_settings.apply(settings, module.params["path"], dry=module.check_mode)
    if done.unmet:
        # with the host's name, because Ansible shows equal warnings of several hosts only once
        unmet = "; ".join(one.description() for one in done.unmet)
        module.warn(f"{platform.node()}: kernel settings that could not be applied: {unmet}.")
    before, after = (
        "".join(f"{name} = {values[which]}\n" for name, values in done.changed.items()) for which in (0, 1)
    )
    module.exit_json(
        changed=bool(done.changed),
        changes=list(done.changed),
        unmet=[dataclasses.asdict(one) for one in done.unmet],
        diff={"before_header": "kernel settings", "after_header": "kernel settings", "before": before, "after": after},
    )


if __name__ == "__main__":
    main()
