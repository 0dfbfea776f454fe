#!/usr/bin/python
"""Ansible module: report what runs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_info
short_description: Report the status of an application on a host, and its problems
version_added: 0.2.0
description:
  - Reads the release, the workers, the health page, the deploy lock, the last change, the differences from the last
    handover, the certificate and units. Changes nothing.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes, baton.web.application, baton.web.health, baton.web.health.listen]
options:
  host: {description: Name of the host for messages., type: str, required: true}
  app_server: {description: Whether the host runs the application., type: bool, default: false}
  certificates:
    description: Certificates whose ends to check.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Path of the PEM file., type: str, required: true}
      purpose: {description: "What it is for, as in C(the certificate of the site).", type: str, required: true}
      method: {description: Who renews it., type: str, choices: [self_signed, provided, acme], default: self_signed}
      renew_days:
        description: For C(self_signed), remaining days below which site.yml renews it; 0 if before its last quarter.
        type: int
        default: 0
  served_certificates:
    description: Certificates that servers on this host must serve, those of the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Path of the file., type: str, required: true}
      address: {description: Address where the server listens., type: str, default: 127.0.0.1}
      port: {description: Port where the server listens., type: int, required: true}
      name: {description: TLS server name; empty for none., type: str, default: ""}
      starttls:
        description: Protocol in which a client asks for TLS on a new connection; empty if it begins with TLS.
        type: str
        choices: ["", postgresql]
        default: ""
      server: {description: Name of the server for messages., type: str, default: nginx}
      unit: {description: "Its unit, of I(units).", type: str, default: nginx.service}
  site: {description: Name of the site on an edge; empty for none., type: str, default: ""}
  units: {description: Further units that must be active., type: list, elements: str, default: []}
  timed_services:
    description: Names of services that a timer of the same name runs, without suffix.
    type: list
    elements: str
    default: []
  daemons:
    description: Further units, or patterns of units, whose processes must match their unit files and packages.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Read the status
  baton.web.status_info:
    host: "{{ inventory_hostname }}"
    name: links
    app_server: true
"""

RETURN = r"""
application:
  description: >-
    Release, workers, versions, health, background processes and scheduled commands, on an app server; C(lock) (the
    lock's holder), C(last_change) (an entry of M(baton.web.history_info)), C(drift) (files that changed since the last
    handover) and C(behind) (as below, for its own units).
  returned: app_server
  type: dict
certificates:
  description: >-
    The given ones, each with C(begins) and C(expires), in seconds since the epoch, which are null if it can't be read.
  returned: always
  type: list
  elements: dict
unserved:
  description: >-
    Entries of I(served_certificates) that aren't served, each with C(path), C(server), C(unit) and the cause (C(why)).
  returned: always
  type: list
  elements: dict
acme: {description: Result of the last renewal by ACME., returned: with site, type: dict}
maintenance: {description: Whether clients get the maintenance page., returned: with site, type: bool}
drained: {description: Servers of the site that get no request., returned: with site, type: list, elements: str}
units: {description: State of the further units., returned: always, type: dict}
timed_services:
  description: State of the C(timer), and C(result) of the service's last run, by name.
  returned: always
  type: dict
behind:
  description: >-
    Running daemons that don't match their unit files or the installed packages, each with C(unit), C(unread) (systemd
    hasn't read the files), C(unconfined) (it runs without the unit's sandbox), C(newer) (drop-ins that were written
    after its start) and C(replaced) (programs and libraries that it still executes although an upgrade replaced them).
  returned: always
  type: list
  elements: dict
notices:
  description: Information that isn't a problem, a sentence each.
  returned: always
  type: list
  elements: str
problems: {description: "Problems, a sentence each.", returned: always, type: list, elements: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout
from ansible_collections.baton.web.plugins.module_utils.change import status, status_report
from ansible_collections.baton.web.plugins.module_utils.host import certificates, daemons, systemd

CERTIFICATE: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "purpose": {"type": "str", "required": True},
    "method": {"type": "str", "choices": ["self_signed", "provided", "acme"], "default": "self_signed"},
    "renew_days": {"type": "int", "default": 0},
}


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "app_server": {"type": "bool", "default": False},
            **health_check.LISTEN_OPTIONS,
            "certificates": {"type": "list", "elements": "dict", "default": [], "options": CERTIFICATE},
            "served_certificates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "address": {"type": "str", "default": "127.0.0.1"},
                    "port": {"type": "int", "required": True},
                    "name": {"type": "str", "default": ""},
                    "starttls": {"type": "str", "choices": ["", "postgresql"], "default": ""},
                    "server": {"type": "str", "default": "nginx"},
                    "unit": {"type": "str", "default": "nginx.service"},
                },
            },
            "site": {"type": "str", "default": ""},
            "units": {"type": "list", "elements": "str", "default": []},
            "timed_services": {"type": "list", "elements": "str", "default": []},
            "daemons": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    options = module.params
    states = {unit: systemd.property_of(unit, "ActiveState") or "unknown" for unit in options["units"]}
    found: dict[str, Any] = {
        "units": states,
        "timed_services": {name: status.timed_service(name) for name in options["timed_services"]},
        "behind": daemons.behind(options["daemons"]),
        "certificates": [one | certificates.validity(one["path"]) for one in options["certificates"]],
    }
    if options["app_server"]:
        health = health_check.Health.of(options)
        found["application"] = status.serving(layout.Application(options["name"]), health)
    found["unserved"] = status.unserved(options["served_certificates"])
    if options["site"]:
        found |= status.edge(options["site"])
    messages = {"problems": status_report.problems(options["host"], found), "notices": status_report.notices(found)}
    module.exit_json(changed=False, **messages, **found)


if __name__ == "__main__":
    main()
