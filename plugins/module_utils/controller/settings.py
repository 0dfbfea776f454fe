"""Find unknown and invalid settings: Ansible would silently ignore a misspelled variable."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

HIGHEST = 2**31 - 1  # which systemd, nginx and the kernel accept
WEEK = 7 * 24 * 3600
# The least and the highest value of numbers, which argument specs can't express; those of others follow from
# `_SUFFIXES`, or are 0 and HIGHEST. Beyond them a server doesn't start, or a time limit ends everything or nothing.
LIMITS = {
    "app_service_backlog": (1, 65535),
    "app_service_keepalive": (1, WEEK),
    "app_service_limit_request_fields": (32, 32768),  # browsers send half of it; Gunicorn counts no further
    "app_service_memory_percent": (1, 100),
    "app_service_nofile": (64, 2**20),  # the kernel's fs.nr_open: above it the unit doesn't start
    "app_service_websocket_spread": (0, WEEK),
    "app_service_worker_memory_mb": (1, HIGHEST),
    "app_service_workers": (0, 1024),
    "deploy_bake_max_failed_percent": (0, 100),
    "deploy_bake_max_p99_factor": (1, HIGHEST),  # below 1, every change would be reverted
    "deploy_drain_timeout": (0, WEEK),
    "deploy_lock_seconds": (60, WEEK),  # a lock that expires before a step has ended would be useless
    "deploy_lock_wait": (0, WEEK),
    "edge_client_connection_rate": (5, 999_999),  # twice as many at once
    "edge_client_connections": (6, 999_999),  # one browser opens 6
    "history_lines": (1, HIGHEST),
    "host_baseline_backlog": (1, 65535),
    "host_firewall_undo_seconds": (5, 600),
    "host_sshd_undo_seconds": (5, 600),
    "nginx_server_keepalive_timeout": (0, WEEK),  # 0 closes connections after each response
    "nginx_server_worker_connections": (64, 500_000),  # each takes memory at the start, and two open files
    "nginx_site_client_connections": (0, 65535),  # nginx's own limit
    "nginx_site_maintenance_retry_after": (1, WEEK),
    "nginx_site_upstream_keepalive": (0, 65535),
    "nginx_site_worker_requests": (0, 65535),
    "postgresql_server_effective_cache_size_mb": (1, 2**24 - 1),
    "postgresql_server_max_connections": (4, 10_000),  # of which 3 are reserved for superusers
    "postgresql_server_shared_buffers_mb": (1, HIGHEST),
    "postgresql_server_work_mem_mb": (1, 2**21 - 1),
    "redis_server_maxmemory_mb": (16, HIGHEST),
    "redis_server_port": (1024, 65535),  # Redis isn't started as root
    "redis_server_tls_port": (1024, 65535),
}
# for which 0 means no limit, although it is below the least value
_OR_NONE = ("edge_client_connection_rate", "edge_client_connections")
_SUFFIXES = {
    "_port": (1, 65535),
    ".port": (1, 65535),
    "_seconds": (0, WEEK),
    # at 0, nginx would end each request at once, and systemd never stop waiting
    "_timeout": (1, WEEK),
}
# texts that may have more than one line
MULTILINE = (
    "app_config_state_files.content",
    "app_release_files.content",
    "app_service_migration_command",
    "nginx_site_extra_configuration",
    "nginx_site_extra_http_configuration",
    "tls_certificate_certificate_content",
    "tls_certificate_private_key_content",
)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
LONGEST_SHOWN = 300  # characters of a value in a message
SIMILARITY = 0.85  # of difflib, above which a name is taken for a misspelled setting
DISTANT = 0.7  # above which a setting is named beside an unknown one
_AT_START = re.compile(
    "TZ|LANG|LANGUAGE|LC_.*|LD_.*|MALLOC_.*|_RJEM_MALLOC_CONF|MIMALLOC_.*|GLIBC_TUNABLES|PYTHON.*|OPENSSL_CONF"
)
_RESERVED = re.compile(
    "PATH|PYTHONPATH|PYTHONHOME|PYTHONEXECUTABLE|VIRTUAL_ENV|RELEASE_ID|GUNICORN_CMD_ARGS|GUNICORN_HANDOVER_.*|"
    "LISTEN_(PID|FDS|FDNAMES)|NOTIFY_SOCKET|MAINPID|CREDENTIALS_DIRECTORY|RUNTIME_DIRECTORY|STATE_DIRECTORY|"
    "INVOCATION_ID|JOURNAL_STREAM|PROCESS_INSTANCE"
)
# settings of type str for which a number is valid too
NUMBERS_OR_TEXTS = (
    "app_service_memory_max",
    "nginx_server_worker_processes",
    "nginx_site_client_max_body_size",
    "nginx_site_client_rate",
    "nginx_site_response_header_size",
)
# what to set in the inventory instead of a role's option that the playbooks set
REPLACEMENTS = {
    "app_config_group": "app_account_user",
    "app_config_services_ca_source": "backing_services_tls",
    "app_config_user": "app_account_user",
    "app_release_check_import": "app_service_rehearsal",
    "app_release_import_user": "app_account_user",
    "app_release_python": "python_runtime_version",
    "app_release_python_version": "python_runtime_version",
    "app_service_credentials": "app_config_secrets",
    "app_service_credentials_encryption": "app_config_secrets_encryption",
    "app_service_first_host": "app_first_host",
    "app_service_forwarded_allow_ips": "private_address",
    "app_service_listen": "app_port",
    "app_service_migration_credentials": "app_config_migration_secrets",
    "app_service_process_environment": "app_config_environment",
    "app_service_user": "app_account_user",
    "host_baseline_backlog": "app_service_backlog",
    "host_firewall_rules": "host_firewall_extra_rules",
    "host_firewall_rules_name": "app_name",
    "nginx_site_acme_peers": "private_address",
    "nginx_site_acme_state_directory": "tls_certificate_method",
    "nginx_site_backend_keepalive": "app_service_keepalive",
    "nginx_site_certificate": "tls_certificate_method",
    "nginx_site_certificate_key": "tls_certificate_method",
    "nginx_site_health_path": "app_service_health_path",
    "nginx_site_name": "app_name",
    "nginx_site_proxy_protocol": "nginx_server_proxy_protocol",
    "nginx_site_upstream_ca_source": "app_servers_tls",
    "nginx_site_upstream_certificate": "app_servers_tls",
    "nginx_site_upstream_certificate_key": "app_servers_tls",
    "nginx_site_upstream_tls_name": "app_servers_tls",
    "nginx_site_upstreams": "private_address",
    "nginx_site_workers": "app_service_workers",
    "nginx_tls_port_ca_source": "app_servers_tls",
    "nginx_tls_port_certificate": "app_servers_tls",
    "nginx_tls_port_certificate_key": "app_servers_tls",
    "nginx_tls_port_client": "app_servers_tls",
    "nginx_tls_port_connect_timeout": "nginx_site_connect_timeout",
    "nginx_tls_port_listen": "app_servers_tls_port",
    "nginx_tls_port_name": "app_name",
    "nginx_tls_port_state": "app_servers_tls",
    "nginx_tls_port_upstream": "app_port",
    "postgresql_server_allowed_addresses": "private_address",
    "postgresql_server_certificate": "backing_services_tls",
    "postgresql_server_listen_addresses": "private_address",
    "postgresql_server_name": "app_name",
    "postgresql_server_tls": "backing_services_tls",
    "redis_server_certificate": "backing_services_tls",
    "redis_server_listen_addresses": "private_address",
    "redis_server_name": "app_name",
    "redis_server_tls": "backing_services_tls",
    "tls_certificate_acme_hosts": "private_address",
    "tls_certificate_acme_own_address": "private_address",
    "tls_certificate_acme_port": "nginx_site_http_port",
    "tls_certificate_name": "app_name",
    "tls_certificate_names": "nginx_site_server_names",
}


def options_of(*specs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the options in argument specs, of all entry points, by name."""
    return {
        name: option
        for spec in specs
        for entry in spec["argument_specs"].values()
        for name, option in (entry.get("options") or {}).items()
    }


def playbook_settings(specs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings in the playbooks' argument specs.

    Without names that a playbook takes with -e and that have no prefix, such as `lines`: in an inventory these are the
    operator's own variables.
    """
    return {name: option for name, option in options_of(specs).items() if "_" in name}


def invalid(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each invalid setting of the playbooks; roles check their own options.

    `values`: a host's variables. `options`: the result of `playbook_settings`. Strings are checked by `wrong`,
    because a template may need variables that aren't known yet.
    """
    sentences = []
    for name, option in options.items():
        if name in values and (option["type"] != "str" or "choices" in option):
            value = values[name]
            if isinstance(value, jinja2.Undefined):
                continue  # `templates` finds why
            if not (_is_right_list(value, option) if option["type"] == "list" else _is_right(name, value, option)):
                sentences.append(_instruction(name, value, option))
    return sentences


def _is_right(name: str, value: Any, option: Mapping[str, Any]) -> bool:
    spec = {key: option[key] for key in ("type", "choices") if key in option}
    result = ArgumentSpecValidator({name: spec}).validate({name: value})
    if value is None or result.error_messages:
        return False
    checked = result.validated_parameters[name]
    if option["type"] not in ("int", "float"):
        return True
    # Python accepts true as 1, and "inf" as a number
    return not isinstance(value, bool) and _is_number(checked, name)


def _is_right_list(value: Any, option: Mapping[str, Any]) -> bool:
    # `wrong` checks the items of lists of strings
    is_item = (lambda _: True) if option["elements"] == "str" else _is_batch
    # an empty list means the default
    return not value or (isinstance(value, Sequence) and not isinstance(value, str) and all(map(is_item, value)))


def _instruction(name: str, value: Any, option: Mapping[str, Any]) -> str:
    given = shown(value)
    where = "in the inventory or on the command line"
    if option["type"] == "list" and option["elements"] == "str":
        return f"{name} is {given}. Give a list of texts, such as {name}: [one, another], {where}."
    if option["type"] == "list":
        return (
            f"{name} is {given}. Give a list of numbers or percentages of hosts, "
            f'such as {name}: [1, "25%", "100%"]; on the command line -e \'{{"{name}": [1, "100%"]}}\'.'
        )
    if option["type"] in ("int", "float"):
        whole = "whole " if option["type"] == "int" else ""
        return f"{name} is {value} and must be a {whole}number {_range(name)}. Correct it {where}."
    choices = [f"`{choice}`" for choice in option.get("choices", ())] or ["true", "false"]
    return f"{name} is {given}. Set it to {' or '.join(choices)}, {where}."


def numbers_beyond(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a sentence without its subject for each number of a role beyond its limits, by the setting's name.

    For values that `wrong` doesn't check: those of templates, and those of a role that is used without the playbooks.
    """
    found = {}
    for name, option in options.items():
        if option["type"] not in ("int", "float") or "choices" in option or name not in values:
            continue
        if not _is_right(name, values[name], option):
            found[name] = f"is {_shown(values[name], option)}. Give a number {_range(name)}."
    return found


def process_variables(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that a process, its interpreter or its C library reads only when it starts."""
    return {name: value for name, value in environment.items() if _AT_START.fullmatch(name)}


def reserved_variables(names: Iterable[str]) -> list[str]:
    """Return the names of variables that the units or the server set themselves, without duplicates."""
    return [name for name in dict.fromkeys(names) if _RESERVED.fullmatch(str(name))]


def wrong(
    values: Mapping[str, Any],
    roles: Mapping[str, Mapping[str, Any]],
    playbooks: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return a sentence for each invalid setting of a role, and each invalid text of the playbooks, also if nested.

    Ansible accepts a text that it can convert, but gives roles the text: for them, "false" would be true, and a text a
    list of its characters. YAML parses a version 1.10 without quotes as 1.1, a commit 0123456 as an octal number, and
    Ansible converts these to another string. In a unit or in nginx's configuration, the second line of a text would be
    a directive. Templates in `values` aren't checked.
    """
    sentences: list[str] = []
    # `invalid` checks choices of the playbooks
    texts = {name: option for name, option in playbooks.items() if "choices" not in option}
    for part in _parts(values, {**texts, **roles}):
        if part.option["type"] not in _TYPES:
            sentences += _wrong_text(part)
        # `invalid` checks the types of the playbooks' settings, after evaluating their templates
        elif part.setting in roles:
            sentences += _mistyped(part)
    return sentences


def is_printable(text: str) -> bool:
    """Whether a text has one line and no control characters except tabs."""
    return not _CONTROL.search(text)


def unprintable_values(given: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Return which texts of a mapping (their names) or of a list have a line break or another control character.

    For settings whose names the inventory chooses, which argument specs don't describe.
    """
    pairs = given.items() if isinstance(given, Mapping) else ((value, value) for value in given)
    return [str(name) for name, value in pairs if isinstance(value, str) and not is_printable(value)]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A setting, or a part of it that has an option of its own, such as users[0].password."""

    name: str
    value: Any
    option: Mapping[str, Any]

    @property
    def setting(self) -> str:
        """The name of the whole setting."""
        return re.split(r"[.[]", self.name)[0]


def _parts(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> Iterator[_Part]:
    for name in sorted(options.keys() & values.keys()):
        yield from _parts_of(_Part(name, values[name], options[name]))


def _parts_of(part: _Part) -> Iterator[_Part]:
    value, option = part.value, part.option
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return
    yield part
    if option["type"] == "list" and isinstance(value, list | tuple):
        element = {**option, "type": option.get("elements", "raw")}
        for number, item in enumerate(value):
            yield from _parts_of(_Part(f"{part.name}[{number}]", item, element))
    elif option["type"] == "dict" and isinstance(value, Mapping):
        for key, inner in (option.get("options") or {}).items():
            if key in value:
                inherited = {"no_log": option.get("no_log"), **inner}
                yield from _parts_of(_Part(f"{part.name}.{key}", value[key], inherited))


def _wrong_text(part: _Part) -> Iterator[str]:
    name, value, kind = part.name, part.value, part.option["type"]
    if kind == "raw":
        return
    shown = _shown(value, part.option)
    if isinstance(value, Mapping | list | tuple):
        yield f"{name} is {shown}. Give a text."
    elif isinstance(value, str):
        if kind == "str" and not is_printable(value) and re.sub(r"\[[0-9]+\]", "", name) not in MULTILINE:
            yield (
                f"{name} is {shown}, which has a line break or another control character. Give a text of one line; in "
                "YAML without `|` or `>`."
            )
        yield from _wrong_choice(part)
    elif not (isinstance(value, int) and not isinstance(value, bool) and name in NUMBERS_OR_TEXTS):
        yield (
            f"{name} is {shown}, because YAML doesn't parse it as text without quotes. Write it in quotes: "
            f'{name.rpartition(".")[2]}: "...".'
        )


def _wrong_choice(part: _Part) -> Iterator[str]:
    choices = part.option.get("choices")
    if choices and part.value not in choices:
        allowed = " or ".join(f"`{choice}`" for choice in choices)
        yield f"{part.name} is {_shown(part.value, part.option)}. Set it to {allowed}."


def _mistyped(part: _Part) -> Iterator[str]:
    name, value, option = part.name, part.value, part.option
    kind = option["type"]
    example, words, is_right = _TYPES[kind]
    if kind in ("int", "float"):
        least, most = _limits(name)
        words += f" {_range(name)}, without quotes"
        example = str(min(max(float(example) if kind == "float" else int(example), least), most))
    if not is_right(value, name):
        # on the command line, key=value is always a text
        given = shlex.quote(f'{{"{name}": {example}}}')
        json_form = f"; on the command line as JSON: -e {given}" if name == part.setting else ""
        yield f"{name} is {_shown(value, option)}. Give {words}, such as {example}{json_form}."
    elif kind == "dict":
        for key in value:
            if not isinstance(key, str):
                yield f"{name} has the name {_shown(key, option)}, which isn't a text. Write it in quotes."
    elif kind != "list":
        yield from _wrong_choice(part)


def _limits(name: str) -> tuple[int, int]:
    """Return the least and the highest value of a number."""
    by_suffix = (limits for suffix, limits in _SUFFIXES.items() if name.endswith(suffix))
    return LIMITS.get(name) or next(by_suffix, (0, HIGHEST))


def _range(name: str) -> str:
    least, most = _limits(name)
    return f"from {least} to {most}{', or 0 for no limit' if name in _OR_NONE else ''}"


def _is_number(value: Any, name: str) -> bool:
    least, most = _limits(name)
    is_none = value == 0 and name in _OR_NONE
    return isinstance(value, int | float) and not isinstance(value, bool) and (is_none or least <= value <= most)


# by type: an example, what to give, and whether a value is right
_TYPES: Mapping[str, tuple[str, str, Callable[[Any, str], bool]]] = {
    "bool": ("true", "true or false without quotes", lambda value, _: isinstance(value, bool)),
    "int": ("4", "a whole number", lambda value, name: isinstance(value, int) and _is_number(value, name)),
    "float": ("2.5", "a number", _is_number),
    "list": ('["a"]', "a list", lambda value, _: isinstance(value, list | tuple)),
    "dict": ('{"a": "b"}', "a mapping of names to values", lambda value, _: isinstance(value, Mapping)),
}


def shown(value: Any) -> str:
    """Return a value as JSON for a message; the beginning of a long one."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"


def _shown(value: Any, option: Mapping[str, Any]) -> str:
    return "a secret value" if option.get("no_log") else shown(value)


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of the hosts' variables, and of what an inventory may set."""

    variables: Mapping[str, Iterable[str]]  # of each host
    roles: Mapping[str, Mapping[str, Mapping[str, Any]]]  # options of each role
    playbooks: Mapping[str, Mapping[str, Any]]  # options of the playbooks
    wired: Iterable[str] = ()  # options of roles that the playbooks set

    @functools.cached_property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """All options by name."""
        return dict(collections.ChainMap(dict(self.playbooks), *map(dict, self.roles.values())))

    @functools.cached_property
    def prefixes(self) -> set[str]:
        """First words of the names of roles, and those that several settings of the playbooks have in common."""
        words = collections.Counter(name.partition("_")[0] for name in self.playbooks)
        return {role.partition("_")[0] for role in self.roles} | {word for word, count in words.items() if count > 1}

    @functools.cached_property
    def unknown(self) -> list[str]:
        """Variables that aren't settings."""
        return sorted(set().union(*self.variables.values()) - self.settings.keys())

    def near(self, name: str, number: int, similarity: float) -> list[str]:
        """Return settings with similar names, of those that an inventory can set."""
        return difflib.get_close_matches(name, sorted(self.settings.keys() - set(self.wired)), number, similarity)

    def shown(self, name: str) -> str:
        """Return a name with the hosts that have it, in parentheses unless all have it."""
        hosts = [host for host, names in self.variables.items() if name in set(names)]
        return name if len(hosts) == len(self.variables) else f"{name} ({', '.join(hosts)})"


def named(name: str, variables: Mapping[str, Any]) -> str:
    """Return a role's option for a message, with the setting that an operator of the playbooks sets instead."""
    set_by = {**REPLACEMENTS, **variables["baton_set_by"]} if "baton_set_by" in variables else {}
    return f"{name} (set by {set_by[name]})" if name in set_by else name


def overruled(names: Names) -> list[str]:
    """Return a sentence for each variable without effect, because the playbooks set this role option."""
    sentences = []
    of_roles = set().union(*names.roles.values())
    for name in sorted(of_roles.intersection(names.wired, set().union(*names.variables.values()))):
        instead = f"Set {REPLACEMENTS[name]} instead." if name in REPLACEMENTS else "Remove it from the inventory."
        sentences.append(f"{names.shown(name)} is set by the playbooks (playbooks/vars/wiring.yml). {instead}")
    return sentences


def _is_batch(value: Any) -> bool:
    return re.fullmatch(r"[1-9][0-9]*|([1-9][0-9]?|100)%", str(value)) is not None


def problems(names: Names) -> list[str]:
    """Return a sentence for each variable of the hosts that must be a misspelt setting."""
    reasons = ((name, _reason(name, names)) for name in names.unknown)
    return [f"{names.shown(name)} is not a setting{reason}" for name, reason in reasons if reason]


def misspelt_options(names: Names, given: Collection[str], options: Collection[str]) -> dict[str, str]:
    """Return the variables of the command line that resemble an option of the playbook, with that option.

    `given`: the variables. `options`: those of the playbook. Without variables that `problems` reports.
    """
    others = [name for name in names.unknown if name in given and name not in options and not _reason(name, names)]
    near = {name: difflib.get_close_matches(name, sorted(options), 1, DISTANT) for name in others}
    return {name: found[0] for name, found in near.items() if found}


def doubtful(names: Names) -> list[str]:
    """Return the variables that begin like settings but may be an operator's own, with similar settings."""
    found = []
    for name in names.unknown:
        word, separator, _ = name.partition("_")
        if separator and word in names.prefixes and not _reason(name, names):
            near = names.near(name, 2, DISTANT)
            similar = f" (similar: {', '.join(near)})" if near else ""
            found.append(f"{names.shown(name)}{similar}")
    return found


def _reason(name: str, names: Names) -> str:
    """Return why a name can't be an operator's own variable, and the fix; empty if it can.

    It has a role's prefix, resembles a setting, or looks like a part of a mapping, as in app_processes_worker.
    """
    role = next((role for role in names.roles if name.startswith(f"{role}_")), "")
    near = names.near(name, 1, SIMILARITY)
    if near and (role or name != f"{near[0]}s"):
        return f"{f' of the role {role}' if role else ''}. Did you mean {near[0]}?"
    if role:
        return (
            f" of the role {role}. roles/{role}/README.md lists its settings; give your own variables another prefix."
        )
    # `raw`: app_processes, whose own check gives better messages
    mappings = (setting for setting, option in names.settings.items() if option["type"] in ("dict", "raw"))
    if mapping := next((setting for setting in mappings if name.startswith(f"{setting}_")), ""):
        part = name.removeprefix(f"{mapping}_")
        return f". Write {mapping}: {{{part}: ...}}; give your own variables another prefix."
    return ""
