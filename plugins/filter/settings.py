"""Ansible filters that find unknown and invalid settings."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from ansible.module_utils.common.yaml import yaml_load
from ansible.parsing.dataloader import DataLoader
from ansible.utils.vars import load_extra_vars
from ansible_collections.baton.web.plugins.module_utils.app import floors
from ansible_collections.baton.web.plugins.module_utils.artifact import old_packages, source
from ansible_collections.baton.web.plugins.module_utils.controller import (
    command_settings,
    groups,
    process_settings,
    role_checks,
    schedule_settings,
    settings,
    templates,
)

PROJECT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def argument_specs() -> Mapping[str, Any]:
    """Return the roles' argument specs by role. Cached, because one expression calls this several times."""
    return {
        path.parents[1].name: yaml_load(path.read_text(encoding="utf-8"))
        for path in sorted(PROJECT.glob("roles/*/meta/argument_specs.yml"))
    }


@functools.cache
def playbook_specs() -> Mapping[str, Any]:
    """Return the argument specs of the playbooks' settings."""
    specs: Mapping[str, Any] = yaml_load((PROJECT / "playbooks/meta/argument_specs.yml").read_text(encoding="utf-8"))
    return specs


@functools.cache
def _of_roles() -> Mapping[str, Any]:
    """Return the options of all roles by name."""
    options: Mapping[str, Any] = settings.options_of(*argument_specs().values())
    return options


@functools.cache
def _of_playbooks() -> Mapping[str, Any]:
    """Return the playbooks' settings by name."""
    options: Mapping[str, Any] = settings.playbook_settings(playbook_specs())
    return options


@functools.cache
def _defined_later() -> frozenset[str]:
    """Return the variables that an inventory's templates may use, but only the playbooks and roles define."""
    files = [*PROJECT.glob("playbooks/vars/*.yml"), *PROJECT.glob("roles/*/vars/main.yml")]
    of_files = [yaml_load(path.read_text(encoding="utf-8")) or {} for path in files]
    return frozenset().union(settings.options_of(playbook_specs()), _of_roles(), *of_files)


def _names(hostvars: Mapping[str, Mapping[str, Any]]) -> settings.Names:
    return settings.Names(
        {host: list(hostvars[host]) for host in hostvars},
        {role: settings.options_of(spec) for role, spec in argument_specs().items()},
        _of_playbooks(),
        wired=yaml_load((PROJECT / "playbooks/vars/wiring.yml").read_text(encoding="utf-8")),
    )


def unknown_settings(hostvars: Any, playbook: str = "") -> list[str]:
    """Return sentences about the hosts' variables that are misspelt settings or set by the playbooks.

    Only checks their names. `playbook`: of which misspelt options are reported, too.
    """
    names = _names(hostvars)
    found = [
        f"{sentence} Correct it in the inventory or in `-e`."
        for sentence in (*settings.problems(names), *settings.overruled(names))
    ]
    if not playbook:
        return found
    options = playbook_specs()["argument_specs"][playbook]["options"]
    misspelt = settings.misspelt_options(names, load_extra_vars(DataLoader()), options)
    return found + [
        f"{name} is not an option of {playbook}.yml. Did you mean {near}? Correct it in `-e`."
        for name, near in misspelt.items()
        if not _is_in_templates(name, hostvars)
    ]


def _is_in_templates(name: str, hostvars: Any) -> bool:
    """Whether the inventory's templates use a variable."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for host in hostvars for text in templates.written(hostvars.raw_get(host)))


def doubtful_settings(hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts' variables that have a prefix of Baton's settings, but may be an operator's own."""
    found: list[str] = settings.doubtful(_names(hostvars))
    return found


def misspelt_groups(hosts: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the inventory's groups that seem to be misspelt ones of Baton, with these. `hosts`: of each group."""
    services = yaml_load((PROJECT / "playbooks/vars/topology.yml").read_text(encoding="utf-8"))
    known = ["app_servers", "load_balancers", *(row["group"] for row in services["baton_host_service_table"])]
    found: dict[str, str] = groups.misspelt(hosts, known)
    return found


@jinja2.pass_context
def setting(context: Any, name: str) -> str:
    """Return a role's option for a message: if the playbooks set it, with the setting of the inventory."""
    found: str = settings.named(name, context)
    return found


@jinja2.pass_context
def number_problems(context: Any, role: str) -> list[str]:
    """Return a sentence for each number of a role beyond its limits."""
    beyond = settings.numbers_beyond(context, settings.options_of(argument_specs()[role]))
    return [f"{settings.named(name, context)} {words}" for name, words in beyond.items()]


def wrong_settings(hostvars: Any, hosts: list[str], of_roles_too: bool = False) -> list[str]:
    """Return sentences about invalid values, with the hosts unless all of them have the value.

    Checks the playbooks' settings on `hosts`, with their templates; the types of all settings on every host, without
    templates, which may need variables that a filter doesn't have. The templates themselves are parsed: those of the
    playbooks' settings, with `of_roles_too` also those of the roles'.
    """
    of_playbooks, of_roles = _of_playbooks(), _of_roles()
    raw = {host: hostvars.raw_get(host) for host in hostvars}
    checked = {*of_playbooks, "app_processes", "app_schedules", *(of_roles if of_roles_too else ())}
    found = {
        host: templates.problems(values, checked, _defined_later()) + settings.wrong(values, of_roles, of_playbooks)
        for host, values in raw.items()
    }
    return _grouped({host: settings.invalid(hostvars[host], of_playbooks) for host in hosts}) + _grouped(found)


def _grouped(problems: Mapping[str, list[str]]) -> list[str]:
    """Return each sentence once. `problems`: the sentences of each host."""
    found: dict[str, list[str]] = {}
    for host, sentences in problems.items():
        for sentence in dict.fromkeys(sentences):
            found.setdefault(sentence, []).append(host)
    return [
        sentence if len(hosts) == len(problems) else f"{', '.join(hosts)}: {sentence}"
        for sentence, hosts in found.items()
    ]


# variables of the playbooks that become those of roles
WIRED = ("topology", "wiring")
# in which hosts differ although their settings are alike: no check of a role looks at these
OF_EACH_HOST = {"ansible_host", "ansible_port", "private_address"}
MOST_CHECKED = 3  # of a role's hosts with different settings: one takes up to a second


def role_problems(hostvars: Any, roles: Mapping[str, list[str]], run: list[str]) -> list[str]:
    """Return what the roles' preflights refuse for the settings alone, with the hosts.

    `roles`: the hosts of each role. `run`: the hosts of the run. Of hosts whose settings don't differ, one is checked;
    in a fleet with many different ones only MOST_CHECKED, as the preflights on the hosts check all.
    """
    names = {*_of_roles(), *_of_playbooks()}
    raw = {host: hostvars.raw_get(host) for host in run}
    inputs = {}
    for host, values in raw.items():
        used = templates.used(values, names)
        inputs[host] = {name: used[name] for name in used.keys() - OF_EACH_HOST} | {"groups": values["group_names"]}
    alike = _alike(inputs)
    checks = role_checks.Checks(PROJECT / "roles", [PROJECT / f"playbooks/vars/{name}.yml" for name in WIRED])
    found: dict[str, set[str]] = {}
    for role, hosts in roles.items():
        of_role = ([host for host in same if host in hosts] for same in alike)
        for same in list(filter(None, of_role))[:MOST_CHECKED]:
            for message in checks.failing(role, raw[same[0]], hostvars):
                found.setdefault(message.removeprefix(f"{same[0]}: "), set()).update(same)
    return [f"{', '.join(sorted(hosts))}: {message}" for message, hosts in found.items()]


def _alike(inputs: Mapping[str, Any]) -> list[list[str]]:
    """Return the hosts in lists of those with the same input."""
    found: list[list[str]] = []
    for host, values in inputs.items():
        same = next((hosts for hosts in found if inputs[hosts[0]] == values), None)
        if same is None:
            found.append([host])
        else:
            same.append(host)
    return found


# the settings that define the source
SOURCE = (
    *("app_source", "app_version", "app_source_subdir", "app_release_files", "app_release_lock"),
    *("app_release_working_directory", "app_release_import_paths", "app_release_build_command"),
    floors.SETTING,
)


def wrong_source(values: Mapping[str, Any], bases: list[str]) -> list[str]:
    """Return sentences about the application's source, as far as the controller can check it quickly.

    `bases`: the folders for relative paths, unless the inventory sets them.
    """
    bases = values.get("app_release_base_dirs") or bases
    given = {name: values[name] for name in SOURCE if name in values}
    # the check of all settings reports these
    if "app_source" not in given or any(isinstance(value, jinja2.Undefined) for value in given.values()):
        return []
    if settings.wrong(given, _of_roles(), _of_playbooks()):
        return []
    found: list[str] = source.problems(given, bases) or old_packages.problems(given, bases)
    return found


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "directive_problems": command_settings.directive_problems,
            "doubtful_settings": doubtful_settings,
            "has_before_web": process_settings.has_before_web,
            "is_memory": command_settings.is_memory,
            "longest_wait": process_settings.longest_wait,
            "misspelt_groups": misspelt_groups,
            "number_problems": number_problems,
            "process_plan": process_settings.for_activation,
            "process_problems": process_settings.problems,
            "process_types": process_settings.on_host,
            "process_variables": settings.process_variables,
            "role_problems": role_problems,
            "reserved_variables": settings.reserved_variables,
            "schedule_calendars": schedule_settings.for_preflight,
            "schedule_plan": schedule_settings.for_activation,
            "schedule_problems": schedule_settings.problems,
            "schedules": schedule_settings.on_host,
            "setting": setting,
            "unknown_settings": unknown_settings,
            "unprintable_values": settings.unprintable_values,
            "wrong_settings": wrong_settings,
            "wrong_source": wrong_source,
        }
