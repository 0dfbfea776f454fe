#!/usr/bin/python
"""Ansible module: what a deploy proves of itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: receipt
short_description: Put together and keep what a deploy proves of itself
version_added: 0.2.0
description:
  - Adds up what the edges' logs say (see M(baton.web.edge_log_info)), with each host's outcome and the phases, and
    writes it on the controller as JSON and as a page that needs nothing else. Returns a text for the terminal.
  - What isn't known is said; an edge whose result is a failure is named as missing, and fails nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  directory: {description: Where receipts are kept; made when it is missing., type: path, required: true}
  keep: {description: Receipts to keep of each application., type: int, default: 50}
  deploy:
    description: What was done.
    type: dict
    required: true
    suboptions:
      application: {description: Name of the application., type: str, required: true}
      result:
        description: "How it ended, in a word or two: deployed, rolled back, restarted, configured, reverted, failed."
        type: str
        required: true
      started: {description: Seconds since the epoch., type: float, required: true}
      ended: {description: "Seconds since the epoch; `seconds` instead says how long it took.", type: float}
      seconds: {description: How long it took., type: float}
      kind: {description: "deploy, rollback, restart or configure.", type: str}
      release: {description: Id of the release., type: str}
      previous: {description: Id of the release before., type: str}
      version: {description: Version of the application., type: str}
      who: {description: Who did it., type: str}
      where: {description: On which controller., type: str}
      reason: {description: "A sentence: why it was reverted, or failed.", type: str}
  edges:
    description: >-
      Results of M(baton.web.edge_log_info) by host, with windows C(before), C(during), C(after), or failed ones.
    type: dict
    default: {}
  hosts:
    description: >-
      What became of each host; results of M(baton.web.activate), failed ones too, with C(started) (seconds since the
      epoch) and C(reverted) where these are known.
    type: dict
    default: {}
  phases:
    description: The phases in order, each with C(name), C(seconds) and, unless it followed at once, C(started).
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
headline: {description: What became of requests meanwhile., returned: success, type: str}
receipt: {description: The receipt as it is kept in JSON., returned: success, type: dict}
json: {description: "The same as a text, as M(baton.web.finish) takes it.", returned: success, type: str}
name: {description: "What its files are called, without their endings.", returned: success, type: str}
json_path: {description: Where it is kept., returned: when it could be written, type: str}
html_path: {description: Where the page is., returned: when it could be written, type: str}
removed:
  description: Files of older receipts that were removed.
  returned: when it could be written
  type: list
  elements: str
"""

# plugins/action/receipt.py does it; this is its documentation
