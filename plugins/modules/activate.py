#!/usr/bin/python
"""Ansible module: hand an application over to a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: activate
short_description: Let an application serve a staged release, without a gap, or put back what served before
version_added: 0.2.0
description:
  - Moves C(/opt/<name>/current), hands over and proves by process that every worker serves the release.
  - The way is chosen from what changed; C(reload) for code, settings and gunicorn.conf.py; C(bridge) for what a HUP
    can't carry (Python, the server's packages, the unit, secrets); C(start) when nothing serves; C(reopen), the only
    one with a gap, when the socket's own address changed.
  - When the release doesn't serve, what served before is put back, and the module fails with what the service logged.
  - Has an action on the controller. After the operator's Ctrl-C it begins nothing but O(state=reverted); a host that
    can't be reached fails and stays in the play.
  - O(state=rehearsed) does what M(baton.web.rehearse) does and goes no further, so that in one task some hosts are
    handed over while those that come later are rehearsed.
  - O(state=reverted) undoes on this host what a transaction did, configuration and release, by the same gated way.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.health, baton.web.health.listen]
options:
  release: {description: Id of a staged release; empty for the current one., type: str, default: ""}
  state:
    description: Whether to hand over to the release, only to rehearse it, or to undo a transaction.
    type: str
    default: active
    choices: [rehearsed, active, reverted]
  transaction:
    description: >-
      Token of the deploy lock, which names the change of the fleet that this is a part of; C(state=reverted) undoes
      it by that name. The lock is extended; when it is another's by now, nothing is done.
    type: str
    default: ""
  part:
    description: >-
      Process types that follow. C(before_web) are the background processes that run in the new release before its web
      processes can hand out jobs to them; C(web) are the web processes and all others, with which
      C(/opt/<name>/current) moves.
    type: str
    default: all
    choices: [all, before_web, web]
  renew: {description: Replace every worker although nothing changed., type: bool, default: false}
  timeout: {description: "Seconds that one step (start, reload, stop, rehearsal) may take.", type: int, default: 300}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Serve the release
  baton.web.activate:
    name: links
    release: 0123456789abcdef

- name: Put back what served before
  baton.web.activate:
    name: links
    state: reverted
    transaction: "{{ lock.token }}"

- name: Replace every worker
  baton.web.activate:
    name: links
    renew: true
"""

RETURN = r"""
way:
  description: How it was handed over; C(stop) when nothing was served before the transaction that was undone.
  returned: success
  type: str
  sample: reload
release: {description: Release that serves., returned: success, type: str}
rehearsed: {description: Whether it was booted; false for what serves already., returned: when rehearsed, type: bool}
previous: {description: Release that served before., returned: success, type: str}
started: {description: When it began; seconds since the epoch., returned: when it was handed over, type: float}
processes:
  description: >-
    Of each background process type that changed, C(way), the units C(started) and C(stopped) (which drain), the C(pids)
    of both, when the old ones were C(told) to stop (seconds since the epoch), and the C(seconds) that it took.
  returned: success
  type: dict
seconds: {description: Time that the handover took., returned: success, type: float}
ended: {description: When it ended by the controller's clock; seconds since the epoch., returned: always, type: float}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.activation import activation, detached, rehearsal
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout, masking
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "str", "default": ""},
            "state": {"type": "str", "default": "active", "choices": ["rehearsed", "active", "reverted"]},
            "transaction": {"type": "str", "default": ""},
            "part": {"type": "str", "default": "all", "choices": ["all", "before_web", "web"]},
            "renew": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 300},
            **health_check.LISTEN_OPTIONS,
        },
        supports_check_mode=True,
    )
    options = module.params
    app = layout.Application(options["name"])
    if module.check_mode and options["state"] == "rehearsed":
        module.exit_json(changed=False, rehearsed=False)
    if module.check_mode and options["release"] and not (app.release(options["release"]) / "release.json").exists():
        module.exit_json(changed=True, way="unknown", **_step(layout.current(app), options["release"]))
    health = health_check.Health.of(options)
    began, clock = time.time(), time.monotonic()
    try:
        if options["state"] == "rehearsed":
            module.exit_json(changed=False, **_rehearse(module, app, health))
        with detached.exclusive(app, options["timeout"]):
            # a check takes no lock, and changes nothing that one would be for
            if options["transaction"] and not module.check_mode:
                # the way back is also for a run that has lost it
                deploy_lock.extend(app, options["transaction"], needed=options["state"] == "active")
            before = layout.current(app)
            if options["state"] == "reverted":
                way = detached.run_detached(
                    lambda: activation.revert(app, options["transaction"], options["timeout"], health)
                )
                module.exit_json(
                    changed=way != "none",
                    way=way,
                    release=layout.current(app),
                    previous=before,
                    seconds=round(time.monotonic() - clock, 3),
                )
            release = (
                options["release"]
                or before
                or module.fail_json(msg="No release has been activated on this host yet. Deploy one.")
            )
            change = activation.Activation(
                app,
                release,
                options["timeout"],
                health,
                renew=options["renew"],
                transaction=options["transaction"],
                part=options["part"],
            )
            result = {"way": change.way, "processes": change.results(), **_step(before, release)}
            if change.way == "none" or module.check_mode:
                module.exit_json(changed=change.way != "none", **result)
            result["processes"] = detached.run_detached(change.execute)
    except (layout.ActivationError, rehearsal.RehearsalError, deploy_lock.LockedError) as error:
        module.fail_json(msg=masking.masked(app.name, str(error)))
    module.exit_json(changed=True, started=began, seconds=round(time.monotonic() - clock, 3), **result)


def _rehearse(module: AnsibleModule, app: layout.Application, health: health_check.Health | None) -> dict[str, Any]:
    result = rehearsal.rehearse(app, module.params["release"], module.params["timeout"], health)
    if result["migrates"]:
        result["migrates"] = masking.masked(app.name, result["migrates"])
        module.warn(rehearsal.migration_warning(app, result["migrates"]))
    return {**result, "release": layout.current(app)}


def _step(before: str | None, release: str) -> dict[str, Any]:
    """From what to what, for the result."""
    diff = {"before": f"{before or 'no release'}\n", "after": f"{release}\n"}
    return {"release": release, "previous": before, "diff": diff}


if __name__ == "__main__":
    main()
