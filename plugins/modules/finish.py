#!/usr/bin/python
"""Ansible module: end a change of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: finish
short_description: Prune old releases, add a change to the history, keep its receipt, release the deploy lock
version_added: 0.2.0
description:
  - Ends a change of an application on a host, in one round trip. The change is already complete, so this module never
    fails.
  - Has an action on the controller, which warns about steps that failed, including an unreachable host.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.run]
options:
  serves:
    description: >-
      The activated release, which every worker must still serve. Without it, the module proves nothing.
    type: str
  keep:
    description: Number of old releases to keep besides the current one. Without it, the module removes none.
    type: int
  entry:
    description: >-
      Entry for C(/var/lib/baton/<name>/history.jsonl), which has a line of JSON for each of the last 500 changes.
      Without it, the module adds none. Keys are C(kind), C(release), C(version), C(previous), C(who), C(when),
      C(seconds), C(method), C(result), C(reason), C(migrations), C(token). Baton adds its version, C(baton).
    type: dict
  first_host:
    description: >-
      The host that runs process types and schedules with C(hosts: first), to store for later changes; empty to store
      none. Without it, the stored host stays.
    type: str
  receipt:
    description: >-
      The receipt that M(baton.web.receipt) returns in C(json), to keep in C(/var/lib/baton/<name>/receipts), readable
      only by root; the newest 20 stay. Without it, the module keeps none.
    type: str
  receipt_name: {description: "Name of its file, without the extension.", type: str}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: End the deploy
  baton.web.finish:
    name: links
    run: "{{ lookup('ansible.builtin.env', 'BATON_RUN') | from_json }}"
    keep: 5
    entry: {kind: deploy, release: 0123456789abcdef, result: deployed}
    receipt: "{{ kept.json }}"
    receipt_name: "{{ kept.name }}"

- name: Only remove old releases
  baton.web.finish:
    name: links
    keep: 5
"""

RETURN = r"""
removed: {description: Ids of the releases that were pruned., returned: always, type: list}
trouble: {description: "Why not all workers serve that release; empty if they do.", returned: always, type: str}
left: {description: "Failed steps with their fixes, one or more sentences each.", returned: always, type: list}
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import running
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application, current
from ansible_collections.baton.web.plugins.module_utils.app.server_status import unready
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.module_utils.release import store


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run": {"type": "dict", "options": deploy_lock.RUN_OPTIONS},
            "serves": {"type": "str"},
            "keep": {"type": "int"},
            "entry": {"type": "dict"},
            "first_host": {"type": "str"},
            # not secret, but too long for the host's log
            "receipt": {"type": "str", "no_log": True},
            "receipt_name": {"type": "str"},
        },
        required_together=[("receipt", "receipt_name")],
        supports_check_mode=True,
    )
    options = module.params
    app = Application(options["name"])
    left: list[str] = []
    # first, because it may free the disk space that the rest needs
    removed = _prune(module, app, left)
    written = False
    for write, lost, fix in _writes(app, options):
        try:
            if not module.check_mode:
                write()
            written = True
        except OSError as error:
            left.append(f"{lost} ({error}). {fix}")
    try:
        if options["run"] and not module.check_mode:
            deploy_lock.release(app, options["run"]["token"])
    except OSError as error:
        left.append(f"The deploy lock below {app.state} can't be released ({error}). {deploy_lock.STALE_LOCK_REMEDY}")
    trouble = ""
    if options["serves"]:
        serving = current(app)
        replaced = serving not in (None, options["serves"])
        trouble = f"release {serving} has been activated since" if replaced else unready(app, None)
    before = "".join(f"{app.releases / identity}\n" for identity in removed)
    module.exit_json(
        changed=bool(removed) or written,
        removed=removed,
        trouble=trouble,
        left=left,
        diff={"before": before, "after": ""},
    )


def _prune(module: AnsibleModule, app: Application, left: list[str]) -> list[str]:
    """Remove old releases, if asked to. Returns their ids; adds to `left` why none is removed."""
    keep, run, holder = module.params["keep"], module.params["run"], deploy_lock.read(app)
    if keep is None:
        return []
    if run and holder is not None and holder.token != run["token"]:
        left.append(f"{app.name} is now being changed by {holder.description()}, so no old release is removed here.")
        return []
    places = store.ReleaseStore(releases=app.releases, current=app.current, state=app.state)
    try:
        removed: list[str] = store.prune(places, keep, dry=module.check_mode)["removed"]
    except (OSError, BatonError) as error:
        left.append(f"Old releases in {places.releases} can't be removed ({error}). The next deploy tries again.")
        return []
    return removed


def _writes(app: Application, options: Mapping[str, Any]) -> Iterator[tuple[Callable[[], object], str, str]]:
    """Yield what is to be written: a function that does it, the message if it fails, and the fix."""
    if options["entry"]:
        lost = f"The history below {app.state} lacks this change"
        yield lambda: history.append(app, options["entry"]), lost, "Check that disk."
    if options["first_host"] is not None and options["first_host"] != running.recorded_first_host(app):
        lost = f"{app.first_host} can't be written"
        yield (
            lambda: running.record_first_host(app, options["first_host"]),
            lost,
            "Check that disk, then run this again.",
        )
    if options["receipt"]:
        lost = f"The receipt is not kept below {app.state}"
        keep = (app, options["receipt_name"], options["receipt"])
        yield lambda: history.keep_receipt(*keep), lost, "Check that disk."


if __name__ == "__main__":
    main()
