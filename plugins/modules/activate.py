#!/usr/bin/python
"""Ansible module: hand an application over to a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: activate
short_description: Activate a staged release without a gap, or revert an activation
version_added: 0.2.0
description:
  - Moves C(/opt/<name>/current), hands over, and proves for each process that it serves the release.
  - The changes determine the strategy. C(reload) applies code, settings and gunicorn.conf.py; C(bridge) applies changes
    that a HUP can't (Python, the server's packages, the unit, secrets); C(start) is used if nothing serves; C(reopen),
    the only strategy with a gap, is used if the socket's own address changed.
  - If the release doesn't serve, the module restores the previous one and fails with the service's log.
  - Has an action on the controller. After the operator's Ctrl-C it starts nothing except O(state=reverted). A host that
    can't be reached fails and stays in the play.
  - O(state=rehearsed) does the same as M(baton.web.rehearse) and nothing else, so that one task can activate some hosts
    while it rehearses later ones.
  - O(state=reverted) undoes a transaction on this host, configuration and release, with the same checks.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.health, baton.web.health.listen]
options:
  release: {description: Id of a staged release; empty for the current one., type: str, default: ""}
  state:
    description: Whether to activate the release, only rehearse it, or undo a transaction.
    type: str
    default: active
    choices: [rehearsed, active, reverted]
  transaction:
    description: >-
      Token of the deploy lock, which identifies the fleet-wide change; C(state=reverted) undoes the change with this
      identifier. The module extends the lock. If another run has the lock, it does nothing.
    type: str
    default: ""
  part:
    description: >-
      Process types to replace. C(before_web) are the background processes that run in the new release before its web
      processes can enqueue jobs for them; C(web) are the web processes and all others, and C(/opt/<name>/current)
      moves with them.
    type: str
    default: all
    choices: [all, before_web, web]
  restart_workers: {description: Replace every worker although nothing changed., type: bool, default: false}
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

- name: Restore the previous release
  baton.web.activate:
    name: links
    state: reverted
    transaction: "{{ lock.token }}"

- name: Replace every worker
  baton.web.activate:
    name: links
    restart_workers: true
"""

RETURN = r"""
method:
  description: Strategy that was used; C(stop) if nothing served before the transaction that was undone.
  returned: success
  type: str
  sample: reload
release: {description: Release that serves., returned: success, type: str}
rehearsed:
  description: Whether the release was booted; false if it already serves.
  returned: when rehearsed
  type: bool
previous: {description: Previous release., returned: success, type: str}
started: {description: Start of the handover; seconds since the epoch., returned: after a handover, type: float}
processes:
  description: >-
    For each background process type that changed, C(method), the units C(started) and C(stopped) (which drain), the
    C(pids) of both, C(stop_requested) (when the old ones were asked to stop; seconds since the epoch), and the
    duration in C(seconds).
  returned: success
  type: dict
seconds: {description: Duration of the handover., returned: success, type: float}
ended: {description: End by the controller's clock; seconds since the epoch., returned: always, type: float}
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
            "restart_workers": {"type": "bool", "default": False},
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
        module.exit_json(changed=True, method="unknown", **_step(layout.current(app), options["release"]))
    health = health_check.Health.of(options)
    began, clock = time.time(), time.monotonic()
    try:
        if options["state"] == "rehearsed":
            module.exit_json(changed=False, **_rehearse(module, app, health))
        with detached.exclusive(app, options["timeout"]):
            # check mode takes no lock
            if options["transaction"] and not module.check_mode:
                # a revert is also allowed for a run that has lost the lock
                deploy_lock.extend(app, options["transaction"], needed=options["state"] == "active")
            before = layout.current(app)
            if options["state"] == "reverted":
                method = detached.run_detached(
                    lambda: activation.revert(app, options["transaction"], options["timeout"], health)
                )
                module.exit_json(
                    changed=method != "none",
                    method=method,
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
                restart_workers=options["restart_workers"],
                transaction=options["transaction"],
                part=options["part"],
            )
            result = {"method": change.method, "processes": change.results(), **_step(before, release)}
            if module.check_mode:
                module.exit_json(changed=change.method != "none", **result)
            if change.method == "none":
                change.execute()  # only records
                module.exit_json(changed=False, **result)
            result["processes"] = detached.run_detached(change.execute)
    except (layout.ActivationError, rehearsal.RehearsalError, deploy_lock.LockedError) as error:
        module.fail_json(msg=masking.masked(app.name, str(error)))
    module.exit_json(changed=True, started=began, seconds=round(time.monotonic() - clock, 3), **result)


def _rehearse(module: AnsibleModule, app: layout.Application, health: health_check.Health | None) -> dict[str, Any]:
    result = rehearsal.rehearse(app, module.params["release"], module.params["timeout"], health)
    result, warnings = rehearsal.reported(app, result)
    for warning in warnings:
        module.warn(warning)
    return {**result, "release": layout.current(app)}


def _step(before: str | None, release: str) -> dict[str, Any]:
    """Return the result's keys about the change of release."""
    diff = {"before": f"{before or 'no release'}\n", "after": f"{release}\n"}
    return {"release": release, "previous": before, "diff": diff}


if __name__ == "__main__":
    main()
