#!/usr/bin/python
"""Ansible module: change files that affect the reachability of the host, and revert the change automatically."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guarded_files
short_description: Change files that affect the reachability of the host
version_added: 0.2.0
description:
  - Writes files on the host like M(baton.web.files), and applies them. Before that, the host saves the current state
    and starts a timer that restores it; a reboot restores it too.
  - The action then opens a new connection to the host, and confirms the change over it. An open connection proves
    nothing, because firewalls keep it. Without confirmation in time, the host reverts the change by itself, even if the
    controller has died, and the task fails.
  - Waits for a change of the same name that is still unconfirmed, of another run or of one that was killed.
  - Without a change, this takes one round trip to the host, like any module.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  name: {description: "Name of the changed configuration, such as C(firewall).", type: str, required: true}
  state:
    description: The action uses C(confirmed) over the new connection.
    type: str
    choices: [present, confirmed]
    default: present
  reconnects:
    description: Whether a new connection can be distinguished from the earlier one; set by the action.
    type: bool
    default: true
  token: {description: Identifier of the change; set by the action., type: str, required: true}
  files:
    description: Files and directories to write, in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Absolute path., type: path, required: true}
      state:
        description: Whether it is a file, a directory, or absent.
        type: str
        choices: [file, directory, absent]
        default: file
      content: {description: Text of the file., type: str, default: ""}
      mode: {description: "Permissions, in octal; by default 0644 for a file, 0755 for a directory.", type: str}
      validate:
        description: Command that accepts the file with exit status 0; C(%s) is the path of a temporary copy.
        type: str
        default: ""
  in_force:
    description: >-
      Shell command that exits with 0 if the files on the host are applied; empty assumes that they are.
    type: str
    default: ""
  before: {description: Shell command that prints the applied state before the change., type: str, default: ":"}
  apply: {description: Shell command that applies the files., type: str, default: ":"}
  undo:
    description: >-
      Shell command that applies the former files after they were restored; its standard input is the output of
      I(before). It doesn't run after a reboot.
    type: str
    default: ":"
  seconds: {description: Seconds after the change within which it must be confirmed., type: int, default: 45}
  advice: {description: "What to check if it wasn't confirmed, a sentence for the message.", type: str, default: ""}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Allow SSH only from the office
  baton.web.guarded_files:
    name: firewall
    files:
      - path: /etc/nftables.conf
        content: "{{ lookup('ansible.builtin.template', 'nftables.conf.j2') }}"
        validate: nft -c -f %s
    before: nft list ruleset
    apply: nft -f /etc/nftables.conf
    undo: nft flush ruleset && nft -f -
"""

RETURN = r"""
paths: {description: "Paths that changed, or would change.", returned: success, type: list, elements: str}
"""

import subprocess
from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.host import files, guard


def main() -> None:
    """Parse, call, exit."""
    module = files.unlogged(AnsibleModule)(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "confirmed"], "default": "present"},
            # an identifier, not a secret
            "token": {"type": "str", "required": True, "no_log": False},
            "reconnects": {"type": "bool", "default": True},
            "files": {"type": "list", "elements": "dict", "default": [], "options": files.OPTIONS},
            "in_force": {"type": "str", "default": ""},
            "before": {"type": "str", "default": ":"},
            "apply": {"type": "str", "default": ":"},
            "undo": {"type": "str", "default": ":"},
            "seconds": {"type": "int", "default": 45},
            "advice": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    guarded = guard.Guard(module.params["name"])
    if module.params["state"] == "confirmed":
        outcome, why = guarded.confirm(module.params["token"])
        module.exit_json(outcome=outcome, why=why)
    try:
        wanted = files.desired(module.params["files"])
        if module.check_mode:
            changed, differences = _needed(module, wanted)
        else:
            with guarded.exclusive():
                changed, differences = _needed(module, wanted)
                if changed:
                    _change(module, guarded, wanted)
    except (files.FilesError, guard.GuardError) as error:
        module.fail_json(msg=str(error))
    except (OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")
    paths = list(dict.fromkeys(difference["after_header"] for difference in differences))
    module.exit_json(changed=changed, paths=paths, diff=differences if module._diff else [])


def _apply(module: AnsibleModule, wanted: Sequence[files.DesiredFile], *, dry: bool) -> list[dict[str, str]]:
    return files.apply(wanted, files.validation(module.run_command), dry=dry)


def _needed(module: AnsibleModule, wanted: Sequence[files.DesiredFile]) -> tuple[bool, list[dict[str, str]]]:
    """Return whether anything has to change, and the differences of the files."""
    differences = _apply(module, wanted, dry=True)
    return bool(differences) or not guard.is_applied(module.params["in_force"]), differences


def _change(module: AnsibleModule, guarded: guard.Guard, wanted: Sequence[files.DesiredFile]) -> None:
    names = ("before", "apply", "undo", "seconds")
    change = guard.Change(**{name: module.params[name] for name in names})
    guarded.change(
        module.params["token"],
        change,
        wanted,
        lambda: _apply(module, wanted, dry=False),
        reconnects=module.params["reconnects"],
    )


if __name__ == "__main__":
    main()
