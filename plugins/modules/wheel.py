#!/usr/bin/python
"""Builds wheels of packages that need a compiler, on a host that has one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel
short_description: Build wheels on a host
version_added: 0.2.0
description:
  - Builds the source distributions of a job that M(baton.web.artifact) packed, offline, with the job's build
    requirements.
  - The wheels are then copied to the controller's cache, which provides them to every host of the same kind.
options:
  job:
    description: The job's archive on this host.
    type: path
    required: true
  out_dir:
    description: Folder to build in; it is emptied first.
    type: path
    required: true
  uv:
    description: The uv program.
    type: path
    default: /var/lib/baton/bin/uv
  python:
    description: The Python to build for.
    type: path
    default: /usr/bin/python3
  system_packages:
    description: Packages that were installed for the build; an error message lists them.
    type: list
    elements: str
    default: []
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Build the wheels
  baton.web.wheel:
    job: /var/lib/baton/build/job.tar
    out_dir: /var/lib/baton/build/work
    python: /usr/bin/python3
"""

RETURN = r"""
wheels:
  description: For each wheel its C(path), C(filename), and the C(key) of its source.
  returned: always
  type: list
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import wheel_build
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "job": {"type": "path", "required": True},
            "out_dir": {"type": "path", "required": True},
            "uv": {"type": "path", "default": "/var/lib/baton/bin/uv"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "system_packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    if module.check_mode:
        module.exit_json(changed=True, wheels=[])
    try:
        wheels = wheel_build.build(
            Path(parameters["job"]),
            Path(parameters["out_dir"]),
            Path(parameters["uv"]),
            Path(parameters["python"]),
            parameters["system_packages"],
        )
    except BatonError as error:
        module.fail_json(msg=str(error), cause=error.cause, fix=error.fix)
    module.exit_json(changed=True, wheels=wheels)


if __name__ == "__main__":
    main()
