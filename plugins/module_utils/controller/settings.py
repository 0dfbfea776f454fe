"""Settings that nothing reads: a name with a slip in it would otherwise be passed over in silence."""

from __future__ import annotations

import datetime
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

# what the playbooks read beside the roles' own options
PLAYBOOKS = {
    "app_name",
    "app_source",
    "app_version",
    "app_source_subdir",
    "app_module",
    "app_migrations",
    "app_port",
    "app_releases_keep",
    "deploy_bake_max_failed_percent",
    "deploy_bake_max_p99_factor",
    "deploy_bake_p99_floor_ms",
    "deploy_bake_seconds",
    "deploy_batches",
    "deploy_drain",
    "deploy_drain_timeout",
    "deploy_lock_seconds",
    "deploy_lock_wait",
    "deploy_receipts",
    "exec_hosts",
    "exec_timeout",
    "history_lines",
    "private_address",
    "reboot_confirm",
    "reboot_only_if_required",
    "reboot_ready_timeout",
    "reboot_timeout",
    "rollback_force",
    "rollback_to",
    "unlock_force",
    "upgrade_confirm",
    "upgrade_reboot",
    "upgrade_removals",
}
# of these, what is true or false
BOOLEANS = (
    "deploy_drain",
    "reboot_confirm",
    "reboot_only_if_required",
    "rollback_force",
    "unlock_force",
    "upgrade_confirm",
    "upgrade_reboot",
    "upgrade_removals",
)
# of these, what must be a number, and a whole one of at least so much
NUMBERS = (
    "deploy_bake_seconds",
    "deploy_bake_max_failed_percent",
    "deploy_bake_max_p99_factor",
    "deploy_bake_p99_floor_ms",
)
WHOLE = {
    "app_port": 1,
    "app_releases_keep": 0,
    "deploy_drain_timeout": 0,
    "deploy_lock_seconds": 60,  # what expires before a step of a change has ended would lock nothing
    "deploy_lock_wait": 0,
}
CLOSE = 0.85
_AT_START = re.compile(
    "TZ|LANG|LANGUAGE|LC_.*|LD_.*|MALLOC_.*|_RJEM_MALLOC_CONF|MIMALLOC_.*|GLIBC_TUNABLES|PYTHON.*|OPENSSL_CONF"
)
# settings of the playbooks that are texts, and roles' settings of texts for which a number says the same
TEXTS = ("app_name", "app_source", "app_version", "app_source_subdir", "app_module", "deploy_receipts", "rollback_to")
NUMBERS_OR_TEXTS = (
    "app_service_memory_max",
    "nginx_server_worker_processes",
    "nginx_site_client_max_body_size",
    "nginx_site_response_header_size",
)
# what to say in the inventory for a role's option that the playbooks set
INSTEAD = {
    "app_config_group": "app_account_user",
    "app_config_user": "app_account_user",
    "app_release_import_user": "app_account_user",
    "app_release_python": "python_runtime_version",
    "app_release_python_version": "python_runtime_version",
    "app_service_credentials": "app_config_secrets",
    "app_service_listen": "app_port",
    "app_service_process_environment": "app_config_environment",
    "app_service_migration_credentials": "app_config_migration_secrets",
    "app_service_user": "app_account_user",
    "host_firewall_rules": "host_firewall_extra_rules",
    "nginx_site_backend_keepalive": "app_service_keepalive",
    "tls_certificate_acme_port": "nginx_site_http_port",
    "tls_certificate_names": "nginx_site_server_names",
}


def options_of(specs: Mapping[str, Any]) -> set[str]:
    """The names in a role's argument specs, of all entry points."""
    return {name for entry in specs["argument_specs"].values() for name in entry.get("options") or {}}


def wrong(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting of the playbooks whose value can't be; roles check their own options.

    `values` are a host's variables.
    """
    sentences = []
    migrations = values.get("app_migrations", "expand")
    if migrations not in ("expand", "blocking"):
        sentences.append(
            f'app_migrations is "{migrations}". Say `expand` (the release before can live with the new schema) '
            "or `blocking` (it can't)."
        )
    batches = values.get("deploy_batches") or [1]
    if not isinstance(batches, Sequence) or isinstance(batches, str) or not all(map(_is_batch, batches)):
        sentences.append(
            f"deploy_batches is {json.dumps(batches, default=str)}. Give a list of numbers of hosts or shares of them, "
            'such as deploy_batches: [1, "25%", "100%"]; on the command line -e \'{"deploy_batches": [1, "100%"]}\'.'
        )
    numbers = [name for name in NUMBERS if name in values and not _is_number(values[name])]
    if numbers:
        told = ", ".join(numbers)
        sentences.append(f"{told} must be a number, 0 or more. Correct it in the inventory or on the command line.")
    sentences += [
        f'{name} is "{values[name]}". Say true or false, in the inventory or on the command line.'
        for name in BOOLEANS
        if name in values and not _is_boolean(values[name])
    ]
    for name, least in WHOLE.items():
        if name in values and not (re.fullmatch("[0-9]+", str(values[name])) and int(values[name]) >= least):
            sentences.append(
                f"{name} is {values[name]}, and must be a whole number, {least} or more. "
                "Correct it in the inventory or on the command line."
            )
    return sentences


def process_variables(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a process, its interpreter or its C library reads when it starts, and never again."""
    return {name: value for name, value in environment.items() if _AT_START.fullmatch(name)}


def texts(specs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """The settings that are texts or lists of such, of the playbooks and of roles' argument specs: their two types."""
    options = {
        name: (str(option["type"]), str(option.get("elements", "")))
        for spec in specs
        for entry in spec["argument_specs"].values()
        for name, option in (entry.get("options") or {}).items()
    }
    wanted = dict.fromkeys(TEXTS, ("str", "")) | options
    return {name: types for name, types in wanted.items() if types[0] in ("str", "path") or types[1] == "str"}


def not_texts(values: Mapping[str, Any], specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each setting that is to be a text and that YAML has made something else of, without quotes.

    A version 1.10 is then 1.1, a commit 0123456 an octal number, and what Ansible makes a text of it again is another.
    """
    wanted = texts(specs)
    sentences = []
    for name in sorted(wanted.keys() & values.keys()):
        kind, elements = wanted[name]
        value = values[name]
        listed = value if elements == "str" and isinstance(value, list) else [value] if kind in ("str", "path") else []
        for item in listed:
            natural = isinstance(item, int) and not isinstance(item, bool) and name in NUMBERS_OR_TEXTS
            # anything else is for the roles' own checks, or not to be told here
            if isinstance(item, bool | int | float | datetime.date | None) and not natural:
                sentences.append(
                    f"{name} is {json.dumps(item, default=str)}, which YAML has made of a text without quotes. "
                    f'Write it in quotes: {name}: "...".'
                )
    return sentences


def overruled(
    variables: Mapping[str, Iterable[str]], wired: Iterable[str], options: Mapping[str, set[str]]
) -> list[str]:
    """A sentence for each variable of the hosts that would be passed over, as the playbooks set this option of a role.

    `wired` are the names that the playbooks set.
    """
    sentences = []
    for name in sorted(set(wired).intersection(set().union(*options.values()), set().union(*variables.values()))):
        hosts = [host for host, names in variables.items() if name in set(names)]
        where = _where(hosts, variables)
        instead = f"Set {INSTEAD[name]} in its place." if name in INSTEAD else "Take it out of the inventory."
        sentences.append(f"{name}{where} is set by the playbooks (playbooks/vars/wiring.yml). {instead}")
    return sentences


def _where(hosts: Sequence[str], variables: Mapping[str, Iterable[str]]) -> str:
    """The hosts that have it, unless all do."""
    return "" if len(hosts) == len(variables) else f" ({', '.join(hosts)})"


def _is_batch(value: Any) -> bool:
    return re.fullmatch(r"[1-9][0-9]*%?", str(value)) is not None


def _is_boolean(value: Any) -> bool:
    try:
        boolean(value)
    except TypeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"[0-9]+([.][0-9]+)?", str(value)) is not None


def problems(variables: Mapping[str, Iterable[str]], options: Mapping[str, set[str]]) -> list[str]:
    """A sentence for each variable of the hosts that looks like a setting and is none.

    `variables` are the names that each host has. A name with a role's prefix belongs to that role; another one is
    only told when it is a slip away from a setting.
    """
    every = PLAYBOOKS.union(*options.values())
    hosts: dict[str, list[str]] = {}
    for host, names in variables.items():
        for name in names:
            if name not in every:
                hosts.setdefault(name, []).append(host)
    sentences = []
    for name in sorted(hosts):
        role = next((role for role in options if name.startswith(f"{role}_")), None)
        near = difflib.get_close_matches(name, sorted(options[role] if role else PLAYBOOKS), 1, CLOSE)
        if not near and not role:
            continue
        if not role and name == f"{near[0]}s":
            continue
        where = _where(hosts[name], variables)
        said = f"{name}{where} is no setting"
        said += f" of the role {role}" if role else ""
        fix = (
            f"Did you mean {near[0]}?"
            if near
            else f"roles/{role}/README.md lists them; call a variable of your own otherwise."
        )
        sentences.append(f"{said}. {fix}")
    return sentences
