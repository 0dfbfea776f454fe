"""A misspelt setting is reported, with the name that was probably meant."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.controller import settings

PROJECT = pathlib.Path(__file__).parents[5]
OPTIONS = {
    path.parents[1].name: settings.options_of(yaml.safe_load(path.read_text()))
    for path in PROJECT.glob("roles/*/meta/argument_specs.yml")
}
PLAYBOOKS = settings.playbook_settings(yaml.safe_load((PROJECT / "playbooks/meta/argument_specs.yml").read_text()))
WIRED = yaml.safe_load((PROJECT / "playbooks/vars/wiring.yml").read_text())
INVENTORIES = sorted(
    path for folder in ("inventories", "molecule", "tests") for path in PROJECT.glob(f"{folder}/**/group_vars/**/*.yml")
)


def names(**variables: list[str]) -> settings.Names:
    return settings.Names(variables, OPTIONS, PLAYBOOKS, WIRED)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("app_service_helth_path", "of the role app_service. Did you mean app_service_health_path?"),
        ("nginx_site_colour", "of the role nginx_site. roles/nginx_site/README.md lists its settings"),
        ("app_verison", "app_verison is not a setting. Did you mean app_version?"),
        ("app_soruce", "Did you mean app_source?"),
        # a role's setting without the role's prefix
        ("app_proceses", "Did you mean app_processes?"),
        ("private_adress", "Did you mean private_address?"),
        ("rolback_to", "Did you mean rollback_to?"),
        ("upgrade_rebot", "Did you mean upgrade_reboot?"),
        # the misspelt word is the role's
        ("app_sevice_workers", "app_sevice_workers is not a setting. Did you mean app_service_workers?"),
        ("nginx_server_names", "of the role nginx_server. Did you mean nginx_site_server_names?"),
        # the inventory can't set nginx_site_upstreams
        ("nginx_site_upstream", "roles/nginx_site/README.md lists its settings"),
        (
            "app_processes_worker",
            "is not a setting. Write app_processes: {worker: ...}; give your own variables another",
        ),
        ("app_schedules_daily", "Write app_schedules: {daily: ...}"),
    ],
)
def test_misspelt_setting_is_reported_with_a_suggestion(name: str, words: str) -> None:
    (sentence,) = settings.problems(names(web1=["app_name", name]))
    assert words in sentence
    assert settings.doubtful(names(web1=["app_name", name])) == []


def test_misspelt_option_of_a_playbook_is_reported_unless_another_check_reports_it() -> None:
    options = {"since", "lines", "exec_timeout"}
    given = ["sinse", "liness", "exec_timeuot", "app_verison", "lines", "ticket", "app_version"]
    others = names(web1=["app_name", "linse", *given])
    assert settings.misspelt_options(others, given, options) == {"sinse": "since", "liness": "lines"}
    assert len(settings.problems(others)) == 2


def test_playbooks_that_have_options_without_a_prefix_check_for_misspelt_ones() -> None:
    specs = yaml.safe_load((PROJECT / "playbooks/meta/argument_specs.yml").read_text())["argument_specs"]
    without = {name for name, spec in specs.items() if any("_" not in option for option in spec["options"])}
    checking = {name for name in specs if f"baton_playbook: {name}}}" in _text(name)}
    assert without == checking == {"exec", "logs", "maintenance", "schedule"}


def _text(playbook: str) -> str:
    path = PROJECT / f"playbooks/{playbook}.yml"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", ["database_password", "team_app_version", "ansible_user", "host", "private_key"])
def test_operators_own_variables_are_ignored(name: str) -> None:
    assert settings.problems(names(web1=[name])) + settings.doubtful(names(web1=[name])) == []


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("app_ports", " (similar: app_port)"),
        ("app_environment", " (similar: app_config_environment)"),
        ("redis_password", " (similar: redis_server_password)"),
        ("app_x", ""),
    ],
)
def test_variables_that_begin_like_settings_are_doubtful(name: str, similar: str) -> None:
    assert settings.problems(names(web1=[name])) == []
    assert settings.doubtful(names(web1=[name])) == [f"{name}{similar}"]


def test_every_prefix_of_the_settings_belongs_to_baton() -> None:
    """Nobody has to add the prefix of a new role by hand."""
    doubted = {settings.doubtful(names(web1=[f"{role.partition('_')[0]}_zzz"]))[0] for role in OPTIONS}
    assert doubted == {f"{role.partition('_')[0]}_zzz" for role in OPTIONS}
    assert settings.doubtful(names(web1=["deploy_zzz"])) == ["deploy_zzz"]


def test_hosts_are_named_if_not_all_have_the_setting() -> None:
    (sentence,) = settings.problems(names(web1=["app_prot"], web2=[]))
    assert sentence.startswith("app_prot (web1) is not a setting.")
    assert settings.doubtful(names(web1=["app_x"], web2=[])) == ["app_x (web1)"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "app_migrations",
            "Blocking",
            'app_migrations is "Blocking". Set it to `expand` or `blocking`, in the inventory',
        ),
        ("deploy_batches", "[1, 2]", 'deploy_batches is "[1, 2]". Give a list'),
        ("deploy_batches", [0, "100%"], 'deploy_batches is [0, "100%"]. Give a list'),
        ("deploy_batches", {"1": 1}, "Give a list"),
        ("backing_services_tls", True, "Set it to `disabled` or `offered` or `required`"),
        ("backing_services_tls_names", "db.internal", "Give a list of texts, such as backing_services_tls_names: ["),
        ("deploy_bake_seconds", "ten", "deploy_bake_seconds is ten and must be a number from 0 to 604800"),
        ("deploy_lock_wait", -1, "deploy_lock_wait is -1 and must be a whole number from 0 to 604800"),
        ("deploy_lock_seconds", 0, "deploy_lock_seconds is 0 and must be a whole number from 60 to"),
        ("app_releases_keep", 2.5, "app_releases_keep is 2.5 and must be a whole number"),
        ("app_port", "http", "app_port is http and must be a whole number from 1 to 65535."),
        ("app_port", 65536, "app_port is 65536 and must be a whole number from 1 to 65535."),
        ("app_servers_tls_port", 0, "app_servers_tls_port is 0 and must be a whole number from 1 to 65535."),
        ("deploy_drain", "yess", 'deploy_drain is "yess". Set it to true or false'),
        ("deploy_bake_seconds", -1, "must be a number from 0 to 604800"),
        (
            "edge_client_connections",
            5,
            "edge_client_connections is 5 and must be a whole number from 6 to 999999, or 0 for",
        ),
        ("edge_client_connections", 1, "from 6 to 999999, or 0 for no limit. Correct it in the inventory"),
        ("edge_client_connections", False, "edge_client_connections is False and must be a whole number from 6 to"),
        (
            "edge_client_connection_rate",
            4,
            "edge_client_connection_rate is 4 and must be a whole number from 5 to 999999,",
        ),
        ("edge_client_connection_rate", -1, "from 5 to 999999, or 0 for no limit. Correct it in the inventory"),
        ("deploy_bake_max_p99_factor", 0.5, "must be a number from 1 to"),
        ("deploy_bake_max_failed_percent", 101, "must be a number from 0 to 100"),
        ("reboot_timeout", 0, "must be a whole number from 1 to"),
        ("deploy_bake_max_p99_factor", "nan", "must be a number"),
        ("deploy_bake_max_p99_factor", "inf", "must be a number"),
        ("deploy_lock_wait", True, "must be a whole number"),
        ("deploy_drain", None, "deploy_drain is null. Set it to true or false"),
        ("exec_timeout", 0, "exec_timeout is 0 and must be a whole number from 1 to 604800"),
        ("rollback_force", "", 'rollback_force is "". Set it to true or false'),
    ],
)
def test_invalid_value_is_reported_with_its_fix(name: str, value: object, words: str) -> None:
    (sentence,) = settings.invalid({name: value}, PLAYBOOKS)
    assert words in sentence


def test_values_of_an_inventory_or_a_command_line_are_valid() -> None:
    given = {"deploy_batches": [1, "2", "25%"], "deploy_bake_seconds": "0", "deploy_bake_max_failed_percent": 0.5}
    given |= {"edge_client_connections": 6, "edge_client_connection_rate": "0"}
    assert settings.invalid({**given, "app_migrations": "blocking", "app_releases_keep": 3}, PLAYBOOKS) == []
    assert settings.invalid({"deploy_drain": True, "rollback_force": "no", "upgrade_reboot": "FALSE"}, PLAYBOOKS) == []
    assert settings.invalid({"deploy_batches": []}, PLAYBOOKS) == []  # the default
    assert settings.invalid({"app_port": 65535, "app_servers_tls_port": 1}, PLAYBOOKS) == []
    assert settings.invalid({"backing_services_tls_names": ["db.internal", "1.10"]}, PLAYBOOKS) == []


def test_settings_that_the_playbooks_set_are_refused() -> None:
    messages = settings.overruled(names(web1=["host_firewall_rules", "app_name"], web2=["nginx_site_down"]))
    assert messages == [
        "host_firewall_rules (web1) is set by the playbooks (playbooks/vars/wiring.yml). "
        "Set host_firewall_extra_rules instead.",
        "nginx_site_down (web2) is set by the playbooks (playbooks/vars/wiring.yml). Remove it from the inventory.",
    ]


def test_suggested_replacements_are_settings_that_the_playbooks_leave_alone() -> None:
    known = set(PLAYBOOKS).union(*OPTIONS.values())
    assert set(settings.REPLACEMENTS) <= set(WIRED) & known
    assert set(settings.REPLACEMENTS.values()) <= known - set(WIRED)


def test_option_is_named_with_the_setting_that_the_operator_sets() -> None:
    option = "tls_certificate_names"
    assert settings.named(option, {}) == option
    assert settings.named(option, {"baton_set_by": {}}) == "tls_certificate_names (set by nginx_site_server_names)"
    assert settings.named(option, {"baton_set_by": {option: "x"}}) == "tls_certificate_names (set by x)"
    assert settings.named("nginx_site_gzip", {"baton_set_by": {}}) == "nginx_site_gzip"


OF_ROLES = set().union(*OPTIONS.values())
SOURCES = [
    *PROJECT.glob("roles/*/tasks/*.yml"),
    *(path for path in PROJECT.glob("plugins/**/*.py") if path.name != "settings.py"),
]


def test_messages_name_options_that_the_playbooks_set_with_their_settings() -> None:
    """An operator can't set these options: the playbooks would refuse them."""
    wired = OF_ROLES.intersection(WIRED)
    pattern = re.compile(rf"\b({'|'.join(sorted(wired, key=len, reverse=True))})\b")
    bare, named = [], set()
    for path in SOURCES:
        text = path.read_text()
        for message in messages(yaml.safe_load(text)) if path.suffix == ".yml" else re.findall(r'"[^"\n]*"', text):
            named.update(re.findall(r"'(\w+)' \| baton\.web\.setting", message))
            words = re.sub(r"\{\{.*?\}\}(?!')", "", message, flags=re.DOTALL)
            bare += [f"{path.relative_to(PROJECT)}: {name}" for name in pattern.findall(words)]
    assert bare == []
    assert named <= settings.REPLACEMENTS.keys()


def messages(part: object) -> Iterator[str]:
    """The texts of messages in tasks."""
    for item in part if isinstance(part, list) else []:
        yield from messages(item)
    for key, value in part.items() if isinstance(part, dict) else []:
        if key in ("msg", "fail_msg", "message") and isinstance(value, str):
            yield value
        yield from messages(value)


@pytest.mark.parametrize("file", INVENTORIES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_settings_of_the_inventories_are_known(file: pathlib.Path) -> None:
    text = file.read_text()
    # also the settings in comments
    commented = re.findall(r"^# ([a-z_]+):", text, re.MULTILINE)
    given = names(web1=[*(yaml.safe_load(text) or {}), *commented])
    assert settings.problems(given) + settings.overruled(given) + settings.doubtful(given) == []


def test_names_of_exec_and_logs_variables_are_not_reserved() -> None:
    assert {"lines", "level", "command", "since"} & PLAYBOOKS.keys() == set()


def test_defaults_of_the_playbooks_match_their_argument_specs() -> None:
    """The documentation of a setting must state its real default."""
    pattern = re.compile(r"\b([a-z]+_[a-z0-9_]+) \| default\(([^()]*)\)")
    used = {
        (name, yaml.safe_load(value.removesuffix(", true")))
        for file in PROJECT.glob("playbooks/**/*.yml")
        if file.parent.name != "meta"
        for name, value in pattern.findall(file.read_text())
        if name in PLAYBOOKS
        and "{{" not in str(PLAYBOOKS[name].get("default"))
        and not re.search("[a-z]_|\\[|ansible", value)
    }
    assert len(used) > 20
    assert {(name, value) for name, value in used if value != PLAYBOOKS[name].get("default", "")} == set()


def test_variables_that_the_playbooks_read_are_known() -> None:
    pattern = re.compile(
        r"(?<!groups\.)\b((?:app|deploy|exec|history|reboot|rollback|unlock|upgrade)_[a-z0-9_]+) \| default\("
    )
    used = {name for file in PROJECT.glob("playbooks/**/*.yml") for name in pattern.findall(file.read_text())}
    assert used - set().union(*OPTIONS.values()) - set(PLAYBOOKS) == set()


ROLES = settings.options_of(
    *(yaml.safe_load(path.read_text()) for path in PROJECT.glob("roles/*/meta/argument_specs.yml"))
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("app_version: 1.10", "app_version"),
        ("app_version: 0123456", "app_version"),
        ("app_version: 2026-11-28", "app_version"),
        ("rollback_to: 12:30", "rollback_to"),
        ("app_source_subdir: no", "app_source_subdir"),
        ("app_module:", "app_module"),
        ("python_runtime_version: 3.10", "python_runtime_version"),
        ("host_baseline_security_updates_excluded: [libpq5, on]", "host_baseline_security_updates_excluded[1]"),
    ],
)
def test_text_that_yaml_parsed_as_something_else_names_the_quotes(text: str, name: str) -> None:
    (sentence,) = settings.wrong(yaml.safe_load(text), ROLES, PLAYBOOKS)
    assert sentence.startswith(f"{name} is ")
    assert f'{name}: "..."' in sentence


@pytest.mark.parametrize(
    "text",
    [
        'app_version: "1.10"',
        "app_version: v1.4.2",
        "nginx_site_client_max_body_size: 0",
        "app_service_workers: 4",
        "host_baseline_security_updates_excluded: [libpq5]",
        "deploy_batches: [1, 25%]",
        "something_else: 1.10",
    ],
)
def test_valid_texts_and_numbers_are_accepted(text: str) -> None:
    assert settings.wrong(yaml.safe_load(text), ROLES, PLAYBOOKS) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"app_service_metrics": "false"},
            'app_service_metrics is "false". Give true or false without quotes, such as',
        ),
        ({"app_service_metrics": "no"}, "; on the command line as JSON: -e '{\"app_service_metrics\": true}'."),
        ({"app_service_metrics": 0}, "app_service_metrics is 0. Give true or false"),
        ({"nginx_site_gzip": None}, "nginx_site_gzip is null. Give true or false"),
        (
            {"nginx_server_worker_connections": "1024"},
            'is "1024". Give a whole number from 64 to 500000, without quotes, such as 64;',
        ),
        ({"nginx_server_keepalive_timeout": -1}, "nginx_server_keepalive_timeout is -1. Give a whole number from 0 to"),
        ({"nginx_site_read_timeout": 2**31}, "nginx_site_read_timeout is 2147483648. Give a whole number from 1 to"),
        ({"app_service_boot_timeout": 0}, "app_service_boot_timeout is 0. Give a whole number from 1 to"),
        ({"nginx_site_https_port": 65536}, "nginx_site_https_port is 65536. Give a whole number from 1 to 65535,"),
        ({"app_service_workers": True}, "app_service_workers is true. Give a whole number"),
        ({"app_service_workers": 2.0}, "app_service_workers is 2.0. Give a whole number"),
        ({"app_service_websocket_spread": float("inf")}, "app_service_websocket_spread is Infinity. Give a number"),
        ({"nginx_site_server_names": "localhost"}, 'is "localhost". Give a list, such as ["a"]; on the command line'),
        ({"nginx_site_server_names": [["a"]]}, 'nginx_site_server_names[0] is ["a"]. Give a text.'),
        ({"app_config_environment": "A=b"}, 'is "A=b". Give a mapping of names to values, such as {"a": "b"};'),
        ({"app_config_environment": {1: "a"}}, "app_config_environment has the name 1, which isn't a text."),
        ({"app_name": ["links"]}, 'app_name is ["links"]. Give a text.'),
        ({"host_firewall_extra_rules": [{"port": 80}, "ssh"]}, 'host_firewall_extra_rules[1] is "ssh". Give a mapping'),
        (
            {"tls_certificate_method": "acmee"},
            'tls_certificate_method is "acmee". Set it to `self_signed` or `provided`',
        ),
        ({"nginx_server_session_ticket_hours": 5}, "nginx_server_session_ticket_hours is 5. Set it to `1` or `2` or"),
        ({"host_firewall_extra_rules": [{"port": 80, "protocol": "x"}]}, '[0].protocol is "x". Set it to `tcp` or'),
        (
            {"app_config_state_files": [{"path": "a", "mode": 640}]},
            "app_config_state_files[0].mode is 640, because YAML doesn't parse it as text without quotes.",
        ),
        (
            {"postgresql_server_databases": [{"name": "a", "users": [{"name": "b", "password": 12345678}]}]},
            "postgresql_server_databases[0].users[0].password is a secret value, because YAML",
        ),
    ],
    ids=str,
)
def test_setting_of_another_type_is_reported_with_its_fix(given: dict[str, object], words: str) -> None:
    (sentence,) = settings.wrong(given, ROLES, PLAYBOOKS)
    assert words in sentence


NUMBERS = {name: option for name, option in {**PLAYBOOKS, **ROLES}.items() if option["type"] in ("int", "float")}
# where 0 has a meaning: no reuse of connections, no wait
ZERO_TIMEOUTS = {"nginx_server_keepalive_timeout", "deploy_drain_timeout"}


def refused(name: str, value: object) -> bool:
    return bool(settings.wrong({name: value}, ROLES, PLAYBOOKS) + settings.invalid({name: value}, PLAYBOOKS))


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith("_timeout")])
def test_timeout_ends_neither_everything_nor_nothing(name: str) -> None:
    assert refused(name, 0) is (name not in ZERO_TIMEOUTS)
    assert refused(name, -1)
    # more than Python's poll() accepts in milliseconds
    assert refused(name, 2**31 // 1000)
    assert not refused(name, 1)
    assert not refused(name, 86400)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_limits_that_allow_the_default(name: str) -> None:
    default = NUMBERS[name].get("default")
    assert refused(name, -1)
    assert refused(name, 2**31)
    assert not isinstance(default, int | float) or not refused(name, default)


def test_limits_belong_to_settings() -> None:
    assert settings.LIMITS.keys() <= NUMBERS.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # the unit doesn't start above fs.nr_open
        ("app_service_nofile", 2**20 + 1),
        ("app_service_workers", 100_000),
        ("nginx_server_worker_connections", 10_000_000),
        # nginx refuses it
        ("nginx_site_client_connections", 65536),
        ("postgresql_server_max_connections", 0),
        ("postgresql_server_max_connections", 300_000),
        ("postgresql_server_shared_buffers_mb", 0),
        ("postgresql_server_work_mem_mb", 0),
        ("redis_server_maxmemory_mb", 1),
        ("nginx_site_maintenance_retry_after", 0),
    ],
)
def test_number_with_which_a_server_does_not_start_is_refused(name: str, value: int) -> None:
    assert refused(name, value)


def test_numbers_of_templates_and_of_roles_alone_are_checked() -> None:
    given = {"nginx_site_read_timeout": 0, "nginx_site_send_timeout": "5", "nginx_site_gzip": True, "own": 0}
    found = settings.numbers_beyond(given, OPTIONS["nginx_site"])
    assert found == {"nginx_site_read_timeout": "is 0. Give a number from 1 to 604800."}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"app_name": "links\n"}, 'app_name is "links\\n", which has a line break or another control character. Give'),
        ({"private_address": "10.0.0.1\nx"}, 'private_address is "10.0.0.1\\nx", which has'),
        ({"nginx_site_server_names": ["a", "b\r"]}, 'nginx_site_server_names[1] is "b\\r", which has'),
        ({"app_config_state_files": [{"path": "a\x1b", "content": "a\n"}]}, "app_config_state_files[0].path is"),
        ({"redis_server_password": "hidden\n"}, "redis_server_password is a secret value, which has a line break"),
    ],
    ids=str,
)
def test_text_of_more_than_one_line_is_reported(given: dict[str, object], words: str) -> None:
    (sentence,) = settings.wrong(given, ROLES, PLAYBOOKS)
    assert words in sentence
    assert "hidden" not in sentence


def test_texts_that_may_have_several_lines_are_options() -> None:
    for name in settings.MULTILINE:
        option, _, inner = name.partition(".")
        assert ROLES[option]["options"][inner] if inner else ROLES[option]
        given = {option: [{inner: "a\nb"}] if inner else "a\nb"}
        assert [one for one in settings.wrong(given, ROLES, {}) if "line break" in one] == []


def test_values_of_their_own_types_and_templates_are_accepted() -> None:
    given = {
        "app_service_metrics": "{{ inventory_hostname == 'app1' }}",
        "app_service_workers": 4,
        "app_service_websocket_spread": 3,
        "app_config_environment": {"A": "{{ x }}", "B": 1},
        "nginx_site_server_names": ["a.example.org", "{{ b }}"],
        "app_processes": "not checked here",
        "reboot_confirm": "true",
        "own": {1: 2},
    }
    assert settings.wrong(given, ROLES, PLAYBOOKS) == []


@pytest.mark.parametrize("file", INVENTORIES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_settings_of_the_inventories_have_their_types(file: pathlib.Path) -> None:
    assert settings.wrong(yaml.safe_load(file.read_text()) or {}, ROLES, PLAYBOOKS) == []


def test_secrets_are_not_shown() -> None:
    given = {"redis_server_password": 12345678, "app_config_secrets": ["12345678"]}
    sentences = settings.wrong(given, ROLES, PLAYBOOKS)
    assert {sentence.partition(" ")[0] for sentence in sentences} == given.keys()
    assert "12345678" not in "".join(sentences)


def test_variables_that_the_units_set_are_reserved() -> None:
    given = ["PATH", "LANG", "GUNICORN_HANDOVER_STATUS", "PATHS", "STATE_DIRECTORY", "PROCESS_INSTANCE", "PATH"]
    reserved = ["PATH", "GUNICORN_HANDOVER_STATUS", "STATE_DIRECTORY", "PROCESS_INSTANCE"]
    assert settings.reserved_variables(given) == reserved
