#!/usr/bin/python
"""Ansible module: write a change's receipt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: receipt
short_description: Build and keep the receipt of a change
version_added: 0.2.0
description:
  - Adds up the counts of the edges' logs (see M(baton.web.edge_log_info)), adds each host's outcome and the phases, and
    writes the result on the controller as JSON and as a self-contained page. Returns a text for the terminal.
  - Names unknown values. An edge with a failed result is listed as missing, and doesn't fail the module.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  directory: {description: Folder for receipts; created if missing., type: path, required: true}
  keep: {description: Number of receipts to keep per application., type: int, default: 50}
  deploy:
    description: The change.
    type: dict
    required: true
    suboptions:
      application: {description: Name of the application., type: str, required: true}
      result:
        description: "Outcome: deployed, rolled back, restarted, configured, reverted, failed."
        type: str
        required: true
      started: {description: Seconds since the epoch., type: float, required: true}
      ended: {description: "Seconds since the epoch; alternatively, set `seconds`.", type: float}
      seconds: {description: Duration., type: float}
      kind: {description: "deploy, rollback, restart or configure.", type: str}
      release: {description: Id of the release., type: str}
      previous: {description: Id of the previous release., type: str}
      version: {description: Version of the application., type: str}
      who: {description: User who made the change., type: str}
      where: {description: Controller., type: str}
      reason: {description: "A sentence with the cause, if it was reverted or failed.", type: str}
  edges:
    description: >-
      Results of M(baton.web.edge_log_info) by host, with windows C(before), C(during), C(after), including failed ones.
    type: dict
    default: {}
  hosts:
    description: >-
      Outcome of each host; results of M(baton.web.activate), including failed ones, with C(started) (seconds since the
      epoch) and C(reverted) if known.
    type: dict
    default: {}
  phases:
    description: The phases in order, each with C(name), C(seconds) and, unless it followed immediately, C(started).
    type: list
    elements: dict
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Keep the receipt
  baton.web.receipt:
    directory: "{{ inventory_dir }}/.baton/receipts"
    deploy:
      application: links
      kind: deploy
      result: deployed
      release: 0123456789abcdef
      started: 1764000060.0
      ended: 1764000078.2
    edges: {edge1: "{{ hostvars['edge1'].__traffic }}"}
    hosts: {app1: "{{ hostvars['app1'].__activated }}"}
    phases: [{name: stage, seconds: 4.2}, {name: roll, seconds: 9.1}]
  run_once: true
"""

RETURN = r"""
text: {description: The receipt for a terminal., returned: success, type: str}
headline: {description: Outcome of the requests during the change., returned: success, type: str}
receipt: {description: The receipt in its JSON format., returned: success, type: dict}
json: {description: "The same as a string, for M(baton.web.finish).", returned: success, type: str}
name: {description: "Name of its files, without extensions.", returned: success, type: str}
json_path: {description: Path of the JSON file., returned: when it could be written, type: str}
html_path: {description: Path of the page., returned: when it could be written, type: str}
removed:
  description: Files of older receipts that were removed.
  returned: when it could be written
  type: list
  elements: str
"""

# implemented by plugins/action/receipt.py; this file is only its documentation
