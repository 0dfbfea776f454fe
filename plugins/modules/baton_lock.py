#!/usr/bin/python
"""Ansible module: the deploy lock of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: baton_lock
short_description: Take, extend, give back or remove the deploy lock of an application
description:
  - One change of the fleet at a time. The lock says who is at it, since when, and expires without a sign of life.
  - Never reports a change; a run that ends well leaves no lock.
author: Baton contributors
options:
  name: {description: Name of the application., type: str, required: true}
  state:
    description:
      - C(held) takes the lock, extends one's own, takes over one that expired or whose holder is known to be dead.
      - C(released) gives one's own back. C(absent) removes anybody's.
    type: str
    required: true
    choices: [held, released, absent]
  run:
    description: >-
      Who asks, as the callback baton_run says it in E(BATON_RUN): C(token), C(who), C(controller), C(living) (tokens of
      the runs that live on that controller), C(at) (when that was found out).
    type: dict
    default: {}
  now: {description: The controller's time; seconds since the epoch., type: float, default: 0}
  reason: {description: What is done., type: str, default: ""}
  seconds: {description: Seconds without a sign of life after which the lock expires., type: int, default: 900}
  wait: {description: Seconds to wait for others., type: int, default: 0}
  force: {description: Remove a lock although its holder may be alive., type: bool, default: false}
attributes:
  check_mode: {support: full, description: A lock that is held is a warning.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Take the lock
  baton_lock:
    name: links
    state: held
    run: "{{ lookup('ansible.builtin.env', 'BATON_RUN') | from_json }}"
    reason: deploy v1.4.2
"""

RETURN = r"""
holder: {description: Who held it before; C(null) when nobody did., returned: success, type: dict}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.baton import deploy_lock
from ansible.module_utils.baton.activation import Application


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": ["held", "released", "absent"]},
            "run": {"type": "dict", "default": {}},
            "now": {"type": "float", "default": 0},
            "reason": {"type": "str", "default": ""},
            "seconds": {"type": "int", "default": 900},
            "wait": {"type": "int", "default": 0},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    app = Application(options["name"])
    run = options["run"]
    if module.check_mode:
        holder = deploy_lock.read(app)
        if holder is not None and holder.expires > time.time():
            module.warn(f"{app.name} is being changed by {holder.words()}.")
        module.exit_json(changed=False, holder=deploy_lock.as_dict(holder))
    try:
        if options["state"] == "held":
            age = max(options["now"] - float(run["at"]), 0)
            asker = deploy_lock.Asker(
                run["token"], run["who"], options["reason"], run["controller"], run["living"], age
            )
            holder = deploy_lock.take(app, asker, options["seconds"], options["wait"])
            if holder is not None:
                module.warn(f"The lock of {holder.words()} is taken over: that run is dead.")
        elif options["state"] == "released":
            holder = deploy_lock.read(app)
            deploy_lock.release(app, run["token"])
        else:
            holder = deploy_lock.remove(app, force=options["force"])
    except deploy_lock.LockedError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, holder=deploy_lock.as_dict(holder))


if __name__ == "__main__":
    main()
