#!/usr/bin/python
"""Ansible module: manage the deploy lock of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lock
short_description: Take, extend, release or remove the deploy lock of an application
version_added: 0.2.0
description:
  - Only one change of the fleet may run at a time. The lock, C(/var/lib/baton/<name>/lock.json), names its holder and
    the start time, and expires unless the steps of a change extend it (C(deploy_lock.extend)).
  - Has an action on the controller, which waits, and checks whether a holder on the same controller is still alive. It
    takes over or removes a dead holder's lock immediately.
  - Reports a change only for O(state=absent), because a successful run leaves no lock.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.run]
options:
  state:
    description:
      - C(held) takes the lock, extends the run's own, or takes over one that expired or whose holder is dead.
      - C(released) releases the run's own lock. C(absent) removes a lock that expired or whose holder is dead.
    type: str
    required: true
    choices: [held, released, absent]
  reason: {description: Purpose of the lock., type: str, default: ""}
  seconds: {description: Seconds after which the lock expires unless it is extended., type: int, default: 900}
  wait: {description: Seconds to wait for other holders., type: int, default: 0}
  force: {description: Remove a lock although its holder may be alive., type: bool, default: false}
  dead: {description: Token of a holder that is known to be dead; set by the action., type: str, default: ""}
attributes:
  check_mode: {support: full, details: A lock of another run causes a warning.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Take the lock
  baton.web.deploy_lock:
    name: links
    state: held
    run: "{{ lookup('ansible.builtin.env', 'BATON_RUN') | from_json }}"
    reason: deploy v1.4.2
    wait: 600
"""

RETURN = r"""
holder:
  description: Previous holder, or the current one if the lock was refused; C(null) for none.
  returned: always
  type: dict
history:
  description: The result of M(baton.web.history_info), without C(entries); stable while the lock is held.
  returned: for O(state=held)
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": ["held", "released", "absent"]},
            "run": {"type": "dict", "options": deploy_lock.RUN_OPTIONS},
            "reason": {"type": "str", "default": ""},
            "seconds": {"type": "int", "default": 900},
            "wait": {"type": "int", "default": 0},
            "force": {"type": "bool", "default": False},
            "dead": {"type": "str", "default": ""},
        },
        required_if=[("state", "held", ["run"]), ("state", "released", ["run"])],
        supports_check_mode=True,
    )
    options = module.params
    app = Application(options["name"])
    before = deploy_lock.read(app)
    if module.check_mode:
        alive = before is not None and not before.is_dead(options["dead"], time.time())
        if before is not None and alive:
            module.warn(f"{app.name} is being changed by {before.description()}.")
        # without force, a lock that may be alive isn't removed
        changed = options["state"] == "absent" and before is not None and (options["force"] or not alive)
        module.exit_json(changed=changed, holder=deploy_lock.as_dict(before), **_history(app, options["state"]))
    try:
        if options["state"] == "held":
            before = deploy_lock.take(
                app, deploy_lock.Run(**options["run"]), options["reason"], options["seconds"], options["dead"]
            )
            if before is not None:
                module.warn(f"Replaced the lock of {before.description()}: that run is no longer active.")
        elif options["state"] == "released":
            deploy_lock.release(app, options["run"]["token"])
        else:
            before = deploy_lock.remove(app, force=options["force"], dead=options["dead"])
    except deploy_lock.LockedError as error:
        module.fail_json(msg=str(error), holder=deploy_lock.as_dict(error.holder))
    except OSError as error:
        module.fail_json(msg=f"The deploy lock below {app.state} can't be changed: {error}", holder=None)
    changed = options["state"] == "absent" and before is not None
    module.exit_json(changed=changed, holder=deploy_lock.as_dict(before), **_history(app, options["state"]))


def _history(app: Application, state: str) -> dict[str, Any]:
    return {"history": history.summary(app, history.read(app))} if state == "held" else {}


if __name__ == "__main__":
    main()
