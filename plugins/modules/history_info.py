#!/usr/bin/python
"""Ansible module: read the history of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: history_info
short_description: Read the history of an application on a host
version_added: 0.2.0
description:
  - The history is C(/var/lib/baton/<name>/history.jsonl), a line of JSON for each of the last 500 changes, written by
    M(baton.web.finish).
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  lines: {description: "Number of lines to return, from the end.", type: int, default: 20}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Read the history
  baton.web.history_info:
    name: links
"""

RETURN = r"""
entries: {description: "The last lines, oldest first.", returned: success, type: list}
current: {description: The current release., returned: success, type: str}
unfinished:
  description: >-
    Process types that an interrupted change left unlike those of the current release: with another release, removed, or
    not started yet.
  returned: success
  type: list
candidates: {description: "Possible releases for a rollback, best first.", returned: success, type: list}
rollback_to:
  description: >-
    The last release that served well before the current one, C(null) for none; the current one if process types are
    C(unfinished).
  returned: success
  type: str
rollback_candidates:
  description: >-
    All complete releases besides the current one, best first, each with C(release), C(version), C(when) (its last
    successful activation) and C(why_not) (the reason against it; empty for C(candidates)).
  returned: success
  type: list
  elements: dict
releases: {description: Complete releases on the host., returned: success, type: list}
failures:
  description: Start times of the failed changes since the last successful one, in seconds since the epoch.
  returned: success
  type: list
  elements: float
blocking:
  description: For each complete release, the later ones whose migrations a rollback to it would cross.
  returned: success
  type: dict
commands:
  description: >-
    For each complete release that served with other process types or schedules, the settings that were C(added),
    C(removed) or C(changed) since.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.change import history


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    options = module.params
    app = layout.Application(options["name"])
    entries = history.read(app)
    module.exit_json(changed=False, entries=entries[-options["lines"] :], **history.summary(app, entries))


if __name__ == "__main__":
    main()
