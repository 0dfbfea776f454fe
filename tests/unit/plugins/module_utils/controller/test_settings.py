"""A setting with a slip in its name is told, with the one that is meant."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.controller import settings

PROJECT = pathlib.Path(__file__).parents[5]
OPTIONS = {
    path.parents[1].name: settings.options_of(yaml.safe_load(path.read_text()))
    for path in PROJECT.glob("roles/*/meta/argument_specs.yml")
}
PLAYBOOKS = settings.playbook_settings(yaml.safe_load((PROJECT / "playbooks/meta/argument_specs.yml").read_text()))
INVENTORIES = sorted(
    path for place in ("inventories", "molecule", "tests") for path in PROJECT.glob(f"{place}/**/group_vars/**/*.yml")
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("app_service_helth_path", "of the role app_service. Did you mean app_service_health_path?"),
        ("nginx_site_colour", "of the role nginx_site. roles/nginx_site/README.md lists its settings"),
        ("app_verison", "app_verison is not a setting. Did you mean app_version?"),
        ("app_soruce", "Did you mean app_source?"),
        # a role's, without its prefix
        ("app_proceses", "Did you mean app_processes?"),
        ("private_adress", "Did you mean private_address?"),
        ("rolback_to", "Did you mean rollback_to?"),
        ("upgrade_rebot", "Did you mean upgrade_reboot?"),
    ],
)
def test_a_slip_is_told_with_what_is_meant(name: str, words: str) -> None:
    (sentence,) = settings.problems({"web1": ["app_name", name]}, OPTIONS, PLAYBOOKS)
    assert words in sentence


@pytest.mark.parametrize("name", ["database_password", "app_database", "app_ports", "team_app_version", "ansible_user"])
def test_variables_of_an_operator_s_own_are_left_alone(name: str) -> None:
    assert settings.problems({"web1": [name]}, OPTIONS, PLAYBOOKS) == []


def test_hosts_are_named_when_not_all_have_it() -> None:
    (sentence,) = settings.problems({"web1": ["app_prot"], "web2": []}, OPTIONS, PLAYBOOKS)
    assert sentence.startswith("app_prot (web1) is not a setting.")


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
        ("deploy_bake_seconds", "ten", "deploy_bake_seconds is ten and must be a number of at least 0"),
        ("deploy_lock_wait", -1, "deploy_lock_wait is -1 and must be a whole number of at least 0"),
        ("deploy_lock_seconds", 0, "deploy_lock_seconds is 0 and must be a whole number of at least 60"),
        ("app_releases_keep", 2.5, "app_releases_keep is 2.5 and must be a whole number"),
        ("app_port", "http", "app_port is http and must be a whole number"),
        ("deploy_drain", "yess", 'deploy_drain is "yess". Set it to true or false'),
        ("deploy_bake_seconds", -1, "must be a number of at least 0"),
        ("deploy_bake_max_p99_factor", "nan", "must be a number"),
        ("deploy_bake_max_p99_factor", "inf", "must be a number"),
        ("deploy_lock_wait", True, "must be a whole number"),
        ("deploy_drain", None, "deploy_drain is null. Set it to true or false"),
        ("exec_timeout", 0, "exec_timeout is 0 and must be a whole number of at least 1"),
        ("rollback_force", "", 'rollback_force is "". Set it to true or false'),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_fix(name: str, value: object, words: str) -> None:
    (sentence,) = settings.invalid({name: value}, PLAYBOOKS)
    assert words in sentence


def test_values_as_an_inventory_or_a_command_line_gives_them_are_right() -> None:
    given = {"deploy_batches": [1, "2", "25%"], "deploy_bake_seconds": "0", "deploy_bake_max_failed_percent": 0.5}
    assert settings.invalid({**given, "app_migrations": "blocking", "app_releases_keep": 3}, PLAYBOOKS) == []
    assert settings.invalid({"deploy_drain": True, "rollback_force": "no", "upgrade_reboot": "FALSE"}, PLAYBOOKS) == []
    assert settings.invalid({"deploy_batches": []}, PLAYBOOKS) == []  # the default
    assert settings.invalid({"backing_services_tls_names": ["db.internal", "1.10"]}, PLAYBOOKS) == []


WIRED = yaml.safe_load((PROJECT / "playbooks/vars/wiring.yml").read_text())


def test_what_the_playbooks_set_themselves_is_refused_with_what_to_set_instead() -> None:
    told = settings.overruled(
        {"web1": ["host_firewall_rules", "app_name"], "web2": ["nginx_site_name"]}, WIRED, OPTIONS
    )
    assert told == [
        "host_firewall_rules (web1) is set by the playbooks (playbooks/vars/wiring.yml). "
        "Set host_firewall_extra_rules instead.",
        "nginx_site_name (web2) is set by the playbooks (playbooks/vars/wiring.yml). Remove it from the inventory.",
    ]


def test_what_to_set_instead_is_a_setting_that_the_playbooks_leave_alone() -> None:
    known = set(PLAYBOOKS).union(*OPTIONS.values())
    assert set(settings.REPLACEMENTS) <= set(WIRED) & known
    assert set(settings.REPLACEMENTS.values()) <= known - set(WIRED)


@pytest.mark.parametrize("file", INVENTORIES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_setting_of_the_inventories_is_known(file: pathlib.Path) -> None:
    text = file.read_text()
    # what is commented out is offered, too
    offered = re.findall(r"^# ([a-z_]+):", text, re.MULTILINE)
    variables = {"web1": [*(yaml.safe_load(text) or {}), *offered]}
    assert settings.problems(variables, OPTIONS, PLAYBOOKS) + settings.overruled(variables, WIRED, OPTIONS) == []


def test_a_variable_of_another_playbook_s_name_is_an_operator_s_own() -> None:
    assert {"lines", "level", "command", "since"} & PLAYBOOKS.keys() == set()


def test_a_default_of_the_playbooks_is_the_one_in_their_argument_specs() -> None:
    """Whoever reads the documentation of a setting reads what happens without it."""
    pattern = re.compile(r"\b([a-z]+_[a-z0-9_]+) \| default\(([^()]*)\)")
    read = {
        (name, yaml.safe_load(value.removesuffix(", true")))
        for file in PROJECT.glob("playbooks/**/*.yml")
        if file.parent.name != "meta"
        for name, value in pattern.findall(file.read_text())
        if name in PLAYBOOKS
        and "{{" not in str(PLAYBOOKS[name].get("default"))
        and not re.search("[a-z]_|\\[|ansible", value)
    }
    assert len(read) > 20
    assert {(name, value) for name, value in read if value != PLAYBOOKS[name].get("default", "")} == set()


def test_what_the_playbooks_read_is_known() -> None:
    pattern = re.compile(
        r"(?<!groups\.)\b((?:app|deploy|exec|history|reboot|rollback|unlock|upgrade)_[a-z0-9_]+) \| default\("
    )
    read = {name for file in PROJECT.glob("playbooks/**/*.yml") for name in pattern.findall(file.read_text())}
    assert read - set().union(*OPTIONS.values()) - set(PLAYBOOKS) == set()


SETTINGS = {"argument_specs": {"main": {"options": PLAYBOOKS}}}
SPECS = [
    {
        "argument_specs": {
            "main": {
                "options": {
                    "python_runtime_version": {"type": "str"},
                    "python_runtime_packages": {"type": "list", "elements": "str"},
                    "nginx_site_client_max_body_size": {"type": "str"},
                    "app_service_workers": {"type": "int"},
                }
            }
        }
    }
]


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
        ("python_runtime_packages: [libpq5, on]", "python_runtime_packages"),
    ],
)
def test_a_text_that_yaml_made_something_else_of_names_the_quotes(text: str, name: str) -> None:
    (sentence,) = settings.unquoted(yaml.safe_load(text), [SETTINGS, *SPECS])
    assert sentence.startswith(f"{name} is ")
    assert f'{name}: "..."' in sentence


@pytest.mark.parametrize(
    "text",
    [
        'app_version: "1.10"',
        "app_version: v1.4.2",
        "nginx_site_client_max_body_size: 0",
        "app_service_workers: 4",
        "python_runtime_packages: [libpq5]",
        "deploy_batches: [1, 25%]",
        "something_else: 1.10",
    ],
)
def test_texts_and_numbers_that_are_to_be_some_are_left_alone(text: str) -> None:
    assert settings.unquoted(yaml.safe_load(text), [SETTINGS, *SPECS]) == []


def test_what_the_units_set_for_each_release_is_reserved() -> None:
    given = ["PATH", "LANG", "GUNICORN_HANDOVER_STATUS", "PATHS", "STATE_DIRECTORY", "PATH"]
    assert settings.reserved_variables(given) == ["PATH", "GUNICORN_HANDOVER_STATUS", "STATE_DIRECTORY"]
