#!/usr/bin/python
"""Ansible module: create missing files in an application's state folder."""

from __future__ import annotations

DOCUMENTATION = r"""
module: state_files
short_description: Create missing files in an application's state folder
version_added: 0.2.0
description:
  - For data that must exist before the application's first start. Doesn't change existing files, because they belong to
    the application. Runs as the application's user.
  - Has an action on the controller, which reads the files that O(files) refers to.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  directory: {description: The state folder., type: path, required: true}
  user: {description: The application's user., type: str, required: true}
  files:
    description: Files that must exist.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Path in the state folder., type: str, required: true}
      content: {description: Text of the file., type: str}
      src: {description: "File on the controller, of any kind.", type: str}
      mode: {description: "Permissions, in octal.", type: str, default: "0640"}
      encoded: {description: "Content in base64, from the action.", type: str}
  base_dirs: {description: Folders in which a relative C(src) is looked up., type: list, elements: path, default: []}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Create the initial database
  baton.web.state_files:
    directory: /var/lib/links
    user: links
    files: [{path: links.sqlite, src: files/links.sqlite}]
"""

RETURN = r"""
paths: {description: "Paths that were created, or would be.", returned: success, type: list, elements: str}
"""

import base64
import pathlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import state_files


def main() -> None:
    """Parse, call, exit."""
    text = {"type": "str"}
    file = {
        "path": {"type": "str", "required": True},
        "content": text,
        "src": text,
        "mode": {"type": "str", "default": "0640"},
        "encoded": {"type": "str", "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "dict", "required": True, "options": file},
            "base_dirs": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        wanted = [
            state_files.StateFile(
                item["path"],
                base64.b64decode(item["encoded"]) if item["encoded"] else (item["content"] or "").encode(),
                int(item["mode"], 8),
            )
            for item in options["files"]
        ]
        folder = pathlib.Path(options["directory"])
        paths = state_files.apply(folder, options["user"], wanted, dry=module.check_mode)
    except (state_files.StateFilesError, ValueError) as error:
        module.fail_json(msg=f"app_config_state_files: {error}. Correct the entry or the state folder.")
    module.exit_json(changed=bool(paths), paths=paths)


if __name__ == "__main__":
    main()
