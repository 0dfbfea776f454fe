#!/usr/bin/python
"""Ansible module: run a command in the current release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: exec
short_description: Run a command in the current release, in the service's environment
version_added: 0.2.0
description:
  - Runs the command with C(sh -c) in a transient unit with the service's user, sandbox, limits, environment and
    secrets, in the application's working folder, with its programs and import paths. No process has secrets in its
    arguments.
  - If the connection to the controller ends, as after Ctrl-C, the command is stopped (SIGTERM, after 10 s SIGKILL).
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  command: {description: Shell command., type: str, required: true}
  timeout: {description: Seconds after which the command is stopped., type: int, default: 600}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Show the database's revision
  baton.web.exec:
    name: links
    command: alembic current
"""

RETURN = r"""
rc: {description: "Exit status of the command; null if systemd didn't stop it in time.", returned: always, type: int}
output: {description: "The last MiB of its output, without the application's secrets.", returned: always, type: str}
release: {description: Release in which it ran., returned: always, type: str}
seconds: {description: Duration., returned: always, type: float}
"""

import time
import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking, transient_unit
from ansible_collections.baton.web.plugins.module_utils.change import outcome


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "command": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    options = module.params
    app = layout.Application(options["name"])
    release = layout.current(app) or module.fail_json(msg="No release has been activated on this host yet. Deploy one.")
    if module.check_mode:
        module.exit_json(changed=True, rc=0, output="", release=release, seconds=0.0)
    started = time.monotonic()
    unit = f"{app.name}-command-{uuid.uuid4().hex[:8]}.service"
    argv = transient_unit.invocation(app, release, options["command"], options["timeout"], unit)
    status, output = transient_unit.run(argv, options["timeout"] + 60, unit)
    output = masking.masked(app.name, output)
    seconds = round(time.monotonic() - started, 3)
    result = {"changed": True, "rc": status, "output": output, "release": release, "seconds": seconds}
    if status != 0:
        cut = f" It was stopped after {options['timeout']} s." if seconds >= options["timeout"] else ""
        words = [f"Exit code {status} in release {release}.{cut}", output.rstrip(), *outcome.advice(output)]
        module.fail_json(msg="\n".join(filter(None, words)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
