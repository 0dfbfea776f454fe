#!/usr/bin/python
"""Ansible module: suspend and resume a scheduled command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: schedule
short_description: Suspend or resume a scheduled command of an application
version_added: 0.2.0
description:
  - Until a suspended command is resumed, its timer doesn't start it, even after a reboot or a later deploy. A running
    command continues. When it is resumed, a missed run starts at once if C(catch_up) is true.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application]
options:
  schedule: {description: Name of the command in C(app_schedules)., type: str, required: true}
  state:
    description: >-
      State of the command. C(known) only reports whether it runs on this host, and fails if the application has no
      command of that name.
    type: str
    default: known
    choices: [known, suspended, resumed]
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Suspend the nightly clean-up
  baton.web.schedule:
    name: links
    schedule: cleanup
    state: suspended
"""

RETURN = r"""
release: {description: Id of the current release; empty if there is none., returned: success, type: str}
runs: {description: Whether the command runs on this host., returned: success, type: bool}
timeout: {description: Seconds that a run may take., returned: success, type: int}
unit: {description: The unit of the command., returned: success, type: str, sample: links-cleanup.service}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.activation import boot, detached
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import atomic_file, systemd

TIMEOUT = 60  # seconds to wait for a running activation


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "schedule": {"type": "str", "required": True},
            "state": {"type": "str", "default": "known", "choices": ["known", "suspended", "resumed"]},
        },
        supports_check_mode=True,
    )
    app, wanted = layout.Application(module.params["name"]), module.params["schedule"]
    state = module.params["state"]
    try:
        known = {one.name: one for one in app.processes if one.strategy == layout.TIMER and one.declared}
        if wanted not in known:
            names = ", ".join(known) or "none (app_schedules is empty)"
            module.fail_json(msg=f"{app.name} has no scheduled command {wanted!r} here. It has {names}.")
        schedule = known[wanted]
        mark, timer = app.suspended(wanted), schedule.running[0]
        # what ends a suspension or a resumption comes last, so that an interrupted one can be repeated
        suspended = mark.exists() and not boot.is_enabled(app, timer)
        changed = {"known": False, "suspended": not suspended, "resumed": mark.exists()}[state]
        if changed and not module.check_mode:
            with detached.exclusive(app, TIMEOUT):
                if state == "suspended":
                    mark.parent.mkdir(mode=0o755, exist_ok=True)
                    atomic_file.write(mark, "", mode=0o644)
                    systemd.change("stop", timer, TIMEOUT)
                    boot.disable(app, [timer])
                else:
                    # before the first release there is nothing to start
                    if schedule.count and layout.current(app):
                        boot.start_timer(app, timer, TIMEOUT, catch_up=True)
                    mark.unlink()
                    atomic_file.sync_folder(mark.parent)
    except (layout.ActivationError, systemd.UnitError, OSError) as error:
        module.fail_json(msg=str(error))
    about = app.declared[f"app_schedules.{wanted}"]
    module.exit_json(
        changed=changed,
        release=layout.current(app) or "",
        runs=bool(schedule.count),
        # settings that an earlier version wrote don't contain it
        timeout=int(about.get("timeout", 3600)),
        unit=f"{app.name}-{wanted}.service",
    )


if __name__ == "__main__":
    main()
