#!/usr/bin/python
"""Ansible module: put several files and directories on a host in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Put several files and directories on a host at once
version_added: 0.2.0
description:
  - Does what M(ansible.builtin.file), M(ansible.builtin.copy) and M(ansible.builtin.template) do, for a whole list in
    one round trip to the host. Templates are given as C(lookup('ansible.builtin.template', ...)).
  - A file is replaced in one step, after I(validate) has accepted it. In check mode what isn't there yet is taken for
    granted, so that a fresh host can be checked.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  files:
    description: What is wanted, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path., type: path, required: true}
      state:
        description: Whether it is a file or a directory, or is not there (with all that is in it).
        type: str
        choices: [file, directory, absent]
        default: file
      content: {description: Text of the file., type: str, default: ""}
      owner: {description: Name of the owner., type: str, default: root}
      group: {description: Name of the group., type: str, default: root}
      mode: {description: "Permissions, in octal; by default 0644 for a file, 0755 for a directory.", type: str}
      validate:
        description: Command that accepts the file by ending with status 0; C(%s) in it is the scratch file's path.
        type: str
        default: ""
      purge:
        description: Whether other files are removed from the directory.
        type: bool
        default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Render the unit and its drop-in
  baton.web.files:
    files:
      - path: /etc/systemd/system/links.service.d
        state: directory
      - path: /etc/systemd/system/links.service.d/limits.conf
        content: "{{ lookup('ansible.builtin.template', 'limits.conf.j2') }}"
"""

RETURN = r"""
paths: {description: "What was changed, or would be.", returned: success, type: list, elements: str}
"""

import pathlib
import shlex
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import files


class Module(AnsibleModule):  # type: ignore[misc]
    """One that doesn't write whole files into the host's log."""

    def _log_invocation(self) -> None:
        self.log("Invoked")


def main() -> None:
    """Parse, call, exit."""
    module = Module(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
                    "content": {"type": "str", "default": ""},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str"},
                    "validate": {"type": "str", "default": ""},
                    "purge": {"type": "bool", "default": False},
                },
            }
        },
        supports_check_mode=True,
    )

    def validate(command: str, scratch: pathlib.Path) -> str:
        words = [word.replace("%s", str(scratch)) for word in shlex.split(command)]
        status, out, err = module.run_command(words)
        return (err or out).strip() or f"{command} says so" if status else ""

    try:
        wanted = [_wanted(item) for item in module.params["files"]]
        differences = files.apply(wanted, validate, dry=module.check_mode)
    except files.FilesError as error:
        module.fail_json(msg=str(error))
    paths = list(dict.fromkeys(difference["after_header"] for difference in differences))
    module.exit_json(changed=bool(differences), paths=paths, diff=differences if module._diff else [])


def _wanted(item: dict[str, Any]) -> files.DesiredFile:
    mode = item["mode"] or ("0755" if item["state"] == "directory" else "0644")
    try:
        return files.DesiredFile(**{**item, "path": pathlib.Path(item["path"]), "mode": int(mode, 8)})
    except ValueError:
        raise files.FilesError(f"{item['path']}: the mode {mode} isn't octal, as 0644 is.") from None


if __name__ == "__main__":
    main()
