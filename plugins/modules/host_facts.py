#!/usr/bin/python
"""Ansible module: gather the facts that the roles use."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Gather the few facts that Baton's roles use
version_added: 0.2.0
description:
  - Returns facts with the names that M(ansible.builtin.setup) and M(ansible.builtin.package_facts) use, so roles can
    read them from C(ansible_facts) regardless of the module that gathered them. It gathers only these facts, and takes
    a tenth of the time on the host.
  - C(packages) is a list of names, while M(ansible.builtin.package_facts) returns a mapping by name. Roles that test
    whether names are a C(subset) of it accept both.
  - Never fails. If a host doesn't answer, its result has C(failure).
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  application: {description: Application whose release to return., type: str, default: ""}
  packages: {description: Whether to list the installed packages., type: bool, default: false}
  calendars:
    description: Times of the application's schedules that systemd must be able to parse.
    type: list
    elements: dict
    default: []
    suboptions:
      setting: {description: The setting that contains it., type: str, required: true}
      calendar: {description: "The time, in the format of systemd.time(7).", type: str, required: true}
  certificates:
    description: Paths of certificates whose validity to return.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Gather the facts that the roles use
  baton.web.host_facts:
    packages: true
"""

RETURN = r"""
ansible_facts:
  description: >-
    C(app_release) (id of the current release of O(application), or empty), C(app_prepared) (whether the host is set up
    for it), C(app_calendar_problems) (a sentence with the fix for each of O(calendars) that systemd doesn't accept),
    C(app_before_web) (whether a release reaches process types before the web processes), C(app_stop_timeouts) (the
    stop_timeout of process types whose old processes must end before new ones start, by name),
    C(app_runs) (the settings of the process types beside web and of the schedules that have not stopped, such as
    C(app_processes.worker)), C(app_starts_at_boot) (those of what starts at boot), C(app_first_host) (the host
    that ran C(hosts: first) at the end of the last successful change, or empty),
    C(app_foreign_units) (units of its name that Baton didn't write), C(app_transport) (how requests reach it: C(sends)
    says how the host's site sends them, C(tls), C(plain) or empty without a site; C(takes_tls) whether the host accepts
    them by TLS; C(takes_plain) whether its firewall lets plain ones in; C(trusted) the addresses that the application
    believes what they say of the client), C(certificates) (validity of the O(certificates) that exist, as C(begins) and
    C(expires), by path; null if it can't be read), C(architecture), C(clock) (seconds since the
    epoch), C(clock_ahead) (seconds that it is ahead of the controller's, negative if it is behind; set by the
    action), C(default_ipv4) and C(default_ipv6) with C(address), C(distribution) with C(_version), C(_major_version)
    and C(_release), C(memtotal_mb), C(nameservers), C(postgresql_max_connections) (if PostgreSQL runs), C(packages)
    (names, sorted) and C(package_lists_age) (seconds since apt's lists were updated, null without lists) if
    requested, C(processor_vcpus), C(python) with C(version), C(service_mgr), C(virtualization_role) and
    C(virtualization_type).
  returned: when the host answers
  type: dict
failure:
  description: Why the host doesn't answer, with its name and the fix.
  returned: when it does not
  type: str
asked:
  description: Whether a program could run on the host, which may lack Python.
  returned: with C(failure)
  type: bool
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.app import layout, ownership, running, transport
from ansible_collections.baton.web.plugins.module_utils.host import certificates, facts, preflight


def _processes(app: layout.Application) -> tuple[layout.ProcessType, ...]:
    """Return the process types that the host has now; none if their settings can't be read."""
    try:
        return app.processes
    except layout.ActivationError:
        return ()  # configure.yml rewrites the file, and an activation reports it


def main() -> None:
    """Gather, exit."""
    calendar = {name: {"type": "str", "required": True} for name in ("setting", "calendar")}
    module = AnsibleModule(
        argument_spec={
            "application": {"type": "str", "default": ""},
            "packages": {"type": "bool", "default": False},
            "calendars": {"type": "list", "elements": "dict", "default": [], "options": calendar},
            "certificates": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    found = facts.gather(packages=module.params["packages"])
    paths = filter(os.path.exists, module.params["certificates"])
    found["certificates"] = {path: certificates.validity(path) for path in paths}
    if module.params["application"]:
        app = layout.Application(module.params["application"])
        processes = _processes(app)
        # a host is set up for the application once site.yml has created the releases' folder
        found |= {
            "app_release": layout.current(app) or "",
            "app_prepared": app.releases.is_dir(),
            "app_foreign_units": ownership.foreign_units(app.name),
            "app_before_web": any(process.part == "before_web" for process in processes),
            "app_stop_timeouts": {one.name: int(one.stop_timeout) for one in processes if one.strategy == "replace"},
            "app_calendar_problems": list(preflight.calendar_problems(module.params["calendars"])),
            "app_runs": running.alive(app),
            "app_starts_at_boot": running.started_at_boot(app),
            "app_first_host": running.recorded_first_host(app),
            "app_transport": transport.of_host(app),
        }
    module.exit_json(changed=False, ansible_facts=found)


if __name__ == "__main__":
    main()
