#!/usr/bin/python
"""Ansible module: read an edge's access log for a period, and evaluate a release that was just activated."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_log_info
short_description: Count requests, failures and latencies in an edge's access log, or watch it to evaluate a release
version_added: 0.2.0
description:
  - Reads nginx's access log (format C(baton_json)) for one or several time windows, quickly regardless of its size, and
    also the previously rotated log if a window begins there. Changes nothing.
  - A request belongs to the window in which it ended. Answers of nginx itself (redirects to HTTPS, bodies that
    are too large) aren't counted, except 5xx. WebSockets count as requests and have no latency.
  - The latency is the time to the first byte of the application's answer, over all servers that got the request.
    Therefore slow clients, downloads and event streams don't count as latency of the application.
  - All times are the edge's. If the controller passes times, both clocks must be synchronised, for example by NTP.
  - With C(bake_seconds), the module first watches the log. It returns a verdict as soon as that is bad, or after that
    time.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  edge: {description: Name of the edge for messages., type: str, required: true}
  log: {description: Path of the access log., type: path, required: true}
  windows:
    description:
      - Windows to read, each with C(since) and C(until) in seconds since the epoch.
      - A bake is compared with the window C(before).
    type: dict
    default: {}
  upstreams:
    description: >-
      Addresses of servers as nginx logs them (ADDRESS:PORT, unix:/path). Only requests to one of them count; empty for
      all.
    type: list
    elements: str
    default: []
  upstream_names: {description: Names of these servers for messages., type: list, elements: str, default: []}
  timeline: {description: Return counts per second as well., type: bool, default: false}
  optional:
    description: An edge that can't be reached is a warning, and the result has C(unreached); the action sees to it.
    type: bool
    default: false
  bake_seconds: {description: Seconds to watch and evaluate the log; 0 disables this., type: float, default: 0}
  bake_since:
    description: Requests that began earlier aren't evaluated; seconds since the epoch, 0 for the module's start.
    type: float
    default: 0
  max_failed_percent: {description: Maximum percentage of 5xx answers above the earlier one., type: float, default: 1}
  min_failed: {description: A smaller number of failures is never bad., type: int, default: 3}
  max_p99_factor: {description: "Maximum p99 latency, as a multiple of the earlier one.", type: float, default: 3}
  p99_floor_ms: {description: "A p99 latency below this value (milliseconds) is never bad.", type: float, default: 200}
  settle_seconds:
    description: Requests that begin within this number of seconds don't count for the latency; workers are cold.
    type: float
    default: 2
  min_requests:
    description: With fewer requests the site counts as quiet, and its latency isn't evaluated.
    type: int
    default: 20
  checks:
    description: >-
      Requests that the module sends during a bake, by TLS without verification, for sites with few other requests. They
      are evaluated like other requests, but windows don't contain them.
    type: dict
    suboptions:
      address: {description: "Where the edge listens, as ADDRESS:PORT.", type: str, default: "127.0.0.1:443"}
      host: {description: Name of the site., type: str, required: true}
      path: {description: Page to request., type: str, default: /}
      count: {description: "Number of requests, distributed over the bake.", type: int, default: 20}
attributes:
  check_mode: {support: full, details: Windows are read without a bake.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Evaluate the canary for 30 seconds
  baton.web.edge_log_info:
    edge: "{{ inventory_hostname }}"
    log: /var/log/nginx/links-access.log
    upstreams: ["10.0.0.21:8000"]
    upstream_names: [app1]
    windows:
      before: {since: 1764000000.0, until: 1764000060.0}
    bake_seconds: 30
    checks: {host: links.example.org, path: /health}
  register: __bake
  failed_when: __bake is failed or not __bake.verdict.ok

- name: Read what the deploy did to traffic
  baton.web.edge_log_info:
    edge: "{{ inventory_hostname }}"
    log: /var/log/nginx/links-access.log
    timeline: true
    windows:
      before: {since: 1764000000.0, until: 1764000060.0}
      during: {since: 1764000060.0, until: 1764000080.0}
      after: {since: 1764000080.0, until: 1764000090.0}
"""

RETURN = r"""
edge: {description: The edge's name., returned: success, type: str}
windows:
  description:
    - For each window C(since), C(until), C(complete) (whether the logs reach back to its beginning), C(requests),
      C(failures) (answered 5xx), C(rescued) (a server failed and another one answered), C(client_closed) (the client
      disconnected, 499), C(websockets), C(by_edge) (answered by nginx itself), C(surplus) (rejected with 503 because
      the servers were at their limit; these aren't failures of theirs), C(checks) (the module's own), C(statuses),
      C(failing) (the statuses and paths that failed most), C(p50_ms), C(p99_ms), C(max_ms) (null without any) and
      C(histogram) (latency in ms to count, in bins of 5 %).
  returned: success
  type: dict
timeline:
  description: C(step) in seconds, and C(points) by second, with C(requests), C(failures), C(max_ms), C(histogram).
  returned: with timeline
  type: dict
skipped_lines: {description: Lines that nginx didn't write., returned: success, type: int}
verdict:
  description: C(ok), C(quiet), C(message), C(requests), C(failed), C(checks), C(checks_unanswered), C(seconds).
  returned: with bake_seconds
  type: dict
msg: {description: The verdict's message., returned: with bake_seconds, type: str}
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import access_log, bake


def evaluated(options: Mapping[str, Any], windows: Mapping[str, access_log.Window], now: float) -> dict[str, Any]:
    """Run a bake and return its verdict."""
    limits = bake.Limits(**{field: options[field] for field in bake.Limits.__dataclass_fields__})
    named = bake.Named(options["edge"], options["upstream_names"] or options["upstreams"])
    before = None
    if "before" in windows:
        before = bake.baseline(options["log"], windows["before"], options["upstreams"], limits)
    since = options["bake_since"] or now
    evaluation = bake.Evaluation(named, since, before, limits, options["upstreams"])
    checks = bake.Checks(**options["checks"]) if options["checks"] else None
    with access_log.Log(options["log"], since) as log:
        verdict: dict[str, Any] = bake.watch(log, evaluation, options["bake_seconds"], checks)
    return verdict


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "edge": {"type": "str", "required": True},
            "log": {"type": "path", "required": True},
            "windows": {"type": "dict", "default": {}},
            "upstreams": {"type": "list", "elements": "str", "default": []},
            "upstream_names": {"type": "list", "elements": "str", "default": []},
            "timeline": {"type": "bool", "default": False},
            "optional": {"type": "bool", "default": False},
            "bake_seconds": {"type": "float", "default": 0},
            "bake_since": {"type": "float", "default": 0},
            "max_failed_percent": {"type": "float", "default": 1},
            "min_failed": {"type": "int", "default": 3},
            "max_p99_factor": {"type": "float", "default": 3},
            "p99_floor_ms": {"type": "float", "default": 200},
            "settle_seconds": {"type": "float", "default": 2},
            "min_requests": {"type": "int", "default": 20},
            "checks": {
                "type": "dict",
                "options": {
                    "address": {"type": "str", "default": "127.0.0.1:443"},
                    "host": {"type": "str", "required": True},
                    "path": {"type": "str", "default": "/"},
                    "count": {"type": "int", "default": 20},
                },
            },
        },
        supports_check_mode=True,
    )
    options = module.params
    now = time.time()
    try:
        windows = {
            name: access_log.Window(float(window["since"]), float(window["until"]))
            for name, window in options["windows"].items()
        }
    except (KeyError, TypeError, ValueError):
        module.fail_json(msg="Each of `windows` needs `since` and `until`, in seconds since the epoch.")
    result: dict[str, Any] = {"changed": False, "edge": options["edge"]}
    try:
        if options["bake_seconds"] > 0 and not module.check_mode:
            result["verdict"] = evaluated(options, windows, now)
            result["msg"] = result["verdict"]["message"]
        result |= access_log.summarize(options["log"], windows, options["upstreams"], options["timeline"])
    except OSError as error:
        module.fail_json(
            msg=f"{options['edge']}: the access log {options['log']} can't be read ({error.strerror}). "
            "Is the site served from this host? site.yml sets it up."
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
