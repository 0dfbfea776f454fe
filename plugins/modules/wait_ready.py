#!/usr/bin/python
"""Ansible module: wait until a host provably serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_ready
short_description: Wait until a host provably serves
version_added: 0.2.0
description:
  - An app server serves if its master is the service's, every worker is ready with the current release, and the
    health page answers. Other hosts serve if the given units are active. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.health, baton.web.health.listen]
options:
  name: {description: Name of the application; empty for a host that doesn't run it., type: str, default: ""}
  units: {description: Units that must be active., type: list, elements: str, default: []}
  timeout: {description: Seconds to wait., type: int, default: 120}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Wait until the application serves
  baton.web.wait_ready:
    name: links
    health_path: /readyz
    health_listen: /run/links/web.sock

- name: Wait until the edge serves
  baton.web.wait_ready:
    units: [nginx.service]
"""

RETURN = r"""
release: {description: Release that every worker serves., returned: success, type: str}
workers: {description: Number of workers that serve it., returned: success, type: int}
seconds: {description: Duration., returned: success, type: float}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout, masking, server_status
from ansible_collections.baton.web.plugins.module_utils.host import systemd


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": ""},
            "units": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 120},
            **health_check.LISTEN_OPTIONS,
        },
        supports_check_mode=True,
    )
    options = module.params
    app = layout.Application(options["name"]) if options["name"] else None
    health = health_check.Health.of(options)
    started, pause = time.monotonic(), 0.1
    while True:
        why = "; ".join(f"{unit} is not active" for unit in options["units"] if not systemd.is_active(unit))
        if not why and app:
            why = server_status.unready(app, health)
        seconds = round(time.monotonic() - started, 3)
        if not why:
            break
        if seconds > options["timeout"]:
            why = masking.masked(app.name, why) if app else why
            module.fail_json(msg=f"The host doesn't serve after {options['timeout']} s: {why}.")
        # request an unhealthy page less and less often
        pause = min(2 * pause, health_check.LONGEST_PAUSE)
        time.sleep(pause)
    status = server_status.read(app, app.service) if app else {}
    release = layout.current(app) if app else None
    module.exit_json(changed=False, release=release or "", workers=len(status.get("workers", [])), seconds=seconds)


if __name__ == "__main__":
    main()
