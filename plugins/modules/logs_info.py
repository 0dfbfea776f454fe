#!/usr/bin/python
"""Ansible module: read the logs of an application."""

from __future__ import annotations

DOCUMENTATION = r"""
module: logs_info
short_description: Read an application's logs on a host
version_added: 0.2.0
description:
  - Reads the journal of the application's units, without the values of its secrets. Changes nothing.
  - Selects lines by the unit that wrote them. Lines that others write under its name aren't shown.
  - With I(follow), an action plugin of the same name polls the host and prints new lines as they arrive.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  since:
    description: >-
      A time such as C(10 min ago), C(today), C(12:30) or C(2026-01-31 12:00), in the controller's time zone unless it
      ends in C(UTC) or an offset; an action plugin of the same name converts it to the same moment for every host. Or
      the position that an earlier call returned.
    type: str
    default: 10 min ago
  lines: {description: Maximum number of entries to return; the newest ones., type: int, default: 200}
  grep: {description: Perl-compatible regular expression that a line must match; empty for all., type: str, default: ""}
  level:
    description: Lowest level to return.
    type: str
    default: debug
    choices: [debug, info, warning, error, critical]
  process:
    description: Process type whose lines to return, such as C(web); empty for all of the application.
    type: str
    default: ""
  wait: {description: Seconds to wait for an entry if there is none., type: int, default: 0}
  follow: {description: Seconds to print new entries as they arrive; nothing is returned then., type: int, default: 0}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Read
  baton.web.logs_info:
    name: links
    since: 1 hour ago
    level: error
"""

RETURN = r"""
entries:
  description: >-
    Oldest first; each with time (in seconds), level and message, and for a JSON line method, path, status,
    duration_ms, request_id, exception and stack.
  returned: always
  type: list
  elements: dict
position: {description: Position to continue from; pass it as I(since)., returned: always, type: str}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import journal, layout, masking


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "since": {"type": "str", "default": "10 min ago"},
            "lines": {"type": "int", "default": 200},
            "grep": {"type": "str", "default": ""},
            "level": {"type": "str", "default": "debug", "choices": list(journal.LEVELS)},
            "process": {"type": "str", "default": ""},
            "wait": {"type": "int", "default": 0},
            "follow": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    options = module.params
    deadline = time.monotonic() + options["wait"]
    position = options["since"]
    app, mask = layout.Application(options["name"]), masking.mask_of(options["name"])
    try:
        while True:
            entries, position = journal.read(
                app, position, options["lines"], options["grep"], options["level"], options["process"], mask
            )
            if entries or time.monotonic() > deadline:
                break
            time.sleep(0.3)
    except journal.JournalError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, entries=entries, position=position)


if __name__ == "__main__":
    main()
