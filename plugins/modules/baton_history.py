#!/usr/bin/python
"""Ansible module: what was done to an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: baton_history
short_description: Note a change of an application on a host, or read what was noted
description:
  - The history is C(/var/lib/baton/<name>/history.jsonl), a line of JSON for each change.
author: Baton contributors
options:
  name: {description: Name of the application., type: str, required: true}
  entry:
    description: >-
      What to note; nothing is noted without. C(kind), C(release), C(version), C(previous), C(who), C(when), C(seconds),
      C(way), C(result), C(reason), C(migrations), C(token).
    type: dict
  lines: {description: How many of the last lines to return., type: int, default: 20}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Note the deploy
  baton_history:
    name: links
    entry: {kind: deploy, release: 0123456789abcdef, result: deployed}
"""

RETURN = r"""
entries: {description: The last lines; the oldest first., returned: success, type: list}
current: {description: The release that serves., returned: success, type: str}
candidates: {description: Releases that a rollback may go to; the best first., returned: success, type: list}
releases: {description: Complete releases on the host., returned: success, type: list}
blocking:
  description: For each complete release the later ones whose migrations a rollback to it would cross.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.baton import activation, history


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "entry": {"type": "dict"},
            "lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    options = module.params
    app = activation.Application(options["name"])
    if options["entry"] and not module.check_mode:
        history.append(app, options["entry"])
    current = activation.current(app)
    entries = history.read(app)
    releases = sorted(path.parent.name for path in app.path("opt", app.name, "releases").glob("[!.]*/release.json"))
    module.exit_json(
        changed=bool(options["entry"]),
        entries=entries[-options["lines"] :],
        current=current,
        candidates=history.candidates(app, current),
        releases=releases,
        blocking={release: history.blocking(entries, current, release) for release in releases},
    )


if __name__ == "__main__":
    main()
