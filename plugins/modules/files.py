#!/usr/bin/python
"""Ansible module: write several files and directories on a host in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write several files and directories on a host at once
version_added: 0.2.0
description:
  - Does what M(ansible.builtin.file), M(ansible.builtin.copy) and M(ansible.builtin.template) do, for a whole list in
    one round trip to the host. Pass templates as C(lookup('ansible.builtin.template', ...)).
  - Encrypts a file named as in C(TOKEN.host.cred) with that key of the host (C(host), C(tpm2) or C(host+tpm2)), for
    systemd's C(LoadCredentialEncrypted=), and writes it again only when its decrypted content differs.
  - Replaces a file atomically, after I(validate) has accepted it. Check mode assumes that missing prerequisites will
    exist, so that it works on a new host.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  files:
    description: Files and directories to write, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path., type: path, required: true}
      state:
        description: Whether it is a file, a directory, or absent (including its contents).
        type: str
        choices: [file, directory, absent]
        default: file
      content: {description: Text of the file., type: str, default: ""}
      source:
        description: >-
          File on the host whose text it gets instead of I(content), such as a private key for a service that must own
          its key. Differences don't show the text.
        type: path
        default: ""
      owner: {description: Name of the owner., type: str, default: root}
      group: {description: Name of the group., type: str, default: root}
      mode: {description: "Permissions, in octal; by default 0644 for a file, 0755 for a directory.", type: str}
      validate:
        description: Command that accepts the file with exit status 0; C(%s) is the path of a temporary copy.
        type: str
        default: ""
      keep:
        description: Paths of the files that may stay in the directory; others are removed. Without it, none is.
        type: list
        elements: path
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
paths: {description: "Paths that changed, or would change.", returned: success, type: list, elements: str}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import files


def main() -> None:
    """Parse, call, exit."""
    module = files.unlogged(AnsibleModule)(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    **files.OPTIONS,
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "source": {"type": "path", "default": ""},
                    "keep": {"type": "list", "elements": "path"},
                },
            }
        },
        supports_check_mode=True,
    )
    try:
        wanted = files.desired(module.params["files"])
        differences = files.apply(wanted, files.validation(module.run_command), dry=module.check_mode)
    except files.FilesError as error:
        module.fail_json(msg=str(error))
    paths = list(dict.fromkeys(difference["after_header"] for difference in differences))
    module.exit_json(changed=bool(differences), paths=paths, diff=differences if module._diff else [])


if __name__ == "__main__":
    main()
