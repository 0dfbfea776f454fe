"""Who can connect to PostgreSQL, and how much memory it uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

REPORTS = {"name": "reports", "password": "staple battery", "access": "read"}
DATABASES: list[dict[str, Any]] = [
    {"name": "links", "owner": "links", "password": "correct horse", "extensions": ["vector"], "users": [REPORTS]},
    {"name": "shop", "owner": "shop-app", "password": "battery staple"},
]


@pytest.fixture
def pg_hba(load_role: Callable[[str], Any]) -> list[list[str]]:
    text = load_role("postgresql_server").render("etc/postgresql/administrator.conf.j2")
    text += load_role("postgresql_server").render(
        "etc/postgresql/application.conf.j2",
        postgresql_server_databases=DATABASES,
        postgresql_server_allowed_addresses=["10.0.0.21", "10.1.0.0/16", "fd00::5"],
    )
    assert "correct horse" not in text
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def test_users_reach_only_their_own_database(pg_hba: list[list[str]]) -> None:
    remote = [line for line in pg_hba if line[0] == "host"]
    assert {(line[1], line[2]) for line in remote} == {
        ('"links"', '"links"'),
        ('"links"', '"reports"'),
        ('"shop"', '"shop-app"'),
    }
    assert {line[4] for line in remote} == {"scram-sha-256"}


def test_only_the_allowed_addresses_can_connect(pg_hba: list[list[str]]) -> None:
    addresses = {line[3] for line in pg_hba if line[0] == "host"}
    assert addresses == {"127.0.0.1/32", "::1/128", "10.0.0.21/32", "10.1.0.0/16", "fd00::5/128"}


def test_users_are_created_once_and_passwords_are_hidden(load_role: Callable[[str], Any]) -> None:
    role = load_role("postgresql_server")
    users = role.value(
        "__postgresql_server_users", postgresql_server_databases=[*DATABASES, {**DATABASES[1], "name": "x"}]
    )
    assert [user["name"] for user in users] == ["links", "reports", "shop-app"]
    shown = role.value("__postgresql_server_public", postgresql_server_databases=DATABASES)
    assert [(one["name"], one["extensions"]) for one in shown] == [("links", ["vector"]), ("shop", [])]
    assert "correct horse" not in str(shown)


def test_additional_users_read_or_write_the_owners_tables(load_role: Callable[[str], Any]) -> None:
    databases = [{**DATABASES[0], "users": [REPORTS, {"name": "web", "password": "x" * 8, "access": "write"}]}]
    grants = load_role("postgresql_server").value("__postgresql_server_grants", postgresql_server_databases=databases)
    assert [(one["user"], one["owner"], one["privileges"]["table"]) for one in grants] == [
        ("reports", "links", "SELECT"),
        ("web", "links", "SELECT,INSERT,UPDATE,DELETE"),
    ]


def test_every_connection_is_authenticated(pg_hba: list[list[str]]) -> None:
    assert {line[-1] for line in pg_hba} == {"peer", "scram-sha-256"}
    assert [line for line in pg_hba if line[-1] == "peer"] == [["local", "all", "postgres", "peer"]]


@pytest.mark.parametrize(("memory", "buffers", "cache"), [(512, 128, 256), (8192, 1024, 4096), (262144, 4096, 131072)])
def test_memory_follows_the_host(load_role: Callable[[str], Any], memory: int, buffers: int, cache: int) -> None:
    text = load_role("postgresql_server").render(
        "etc/postgresql/conf.d/baton.conf.j2", ansible_facts={"memtotal_mb": memory}
    )
    assert f"shared_buffers = {buffers}MB" in text
    assert f"effective_cache_size = {cache}MB" in text


def test_listen_addresses_are_rendered(load_role: Callable[[str], Any]) -> None:
    text = load_role("postgresql_server").render(
        "etc/postgresql/conf.d/baton.conf.j2", postgresql_server_listen_addresses=["localhost", "10.0.0.31"]
    )
    assert "listen_addresses = 'localhost,10.0.0.31'" in text


@pytest.mark.parametrize(
    ("distribution", "major", "version"), [("Debian", "12", "15"), ("Debian", "13", "17"), ("Ubuntu", "24", "16")]
)
def test_version_is_the_distributions(
    load_role: Callable[[str], Any], distribution: str, major: str, version: str
) -> None:
    facts = {"distribution": distribution, "distribution_major_version": major}
    unit = load_role("postgresql_server").value("__postgresql_server_unit", ansible_facts=facts)
    assert unit == f"postgresql@{version}-main"


@pytest.mark.parametrize(
    "changed",
    [
        {"postgresql_server_databases": [{**DATABASES[0], "name": "Links"}]},
        {"postgresql_server_databases": [{**DATABASES[0], "owner": "postgres"}]},
        {"postgresql_server_databases": [{**DATABASES[0], "password": "short"}]},
        {"postgresql_server_databases": [DATABASES[0], DATABASES[0]]},
        {"postgresql_server_allowed_addresses": ["app1"]},
        {"postgresql_server_tls": "offered"},
        {"postgresql_server_tls": "required", "postgresql_server_certificate": "certificates"},
        {"postgresql_server_max_connections": 0},
        {"postgresql_server_shared_buffers_mb": 0},
        {"postgresql_server_shared_buffers_mb": 8192},
        {"postgresql_server_work_mem_mb": 8192},
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], changed: dict[str, Any]) -> None:
    role = load_role("postgresql_server")
    assert role.refusals(postgresql_server_databases=DATABASES) == []
    messages = role.refusals(**changed)
    assert len(messages) == 1
    assert "correct horse" not in messages[0]
    assert "short" not in messages[0]


def test_preflight_refuses_an_unknown_distribution(load_role: Callable[[str], Any]) -> None:
    version = {"distribution": "Debian", "distribution_major_version": "11", "distribution_version": "11.9"}
    facts = {**version, "memtotal_mb": 8192}
    messages = load_role("postgresql_server").refusals(ansible_facts=facts)
    assert len(messages) == 1
    assert "Debian 11.9" in messages[0]


def test_sandbox_is_optional_and_operator_directives_come_last(load_role: Callable[[str], Any]) -> None:
    def service(**given: Any) -> list[str]:
        template = "etc/systemd/system/postgresql@.service.d/baton.conf.j2"
        text: str = load_role("postgresql_server").render(template, **given)
        return text.partition("[Service]")[2].splitlines()

    given = {"ReadWritePaths": ["/etc/a", "/etc/b"], "PrivateDevices": False}
    expected = ["PrivateDevices=false", "ReadWritePaths=/etc/a", "ReadWritePaths=/etc/b"]
    assert "ProtectSystem=full" in service()
    # PostgreSQL's JIT compiler writes machine code
    assert not [line for line in service() if line.startswith("MemoryDenyWriteExecute")]
    assert service(postgresql_server_directives=given)[-3:] == expected
    assert service(postgresql_server_sandbox=False) == []
    assert service(postgresql_server_sandbox=False, postgresql_server_directives=given) == ["", *expected]


@pytest.mark.parametrize(("tls", "remote"), [("disabled", "host"), ("offered", "host"), ("required", "hostssl")])
def test_remote_clients_need_tls_if_required(load_role: Callable[[str], Any], tls: str, remote: str) -> None:
    text = load_role("postgresql_server").render(
        "etc/postgresql/application.conf.j2",
        postgresql_server_databases=DATABASES,
        postgresql_server_allowed_addresses=["10.0.0.21", "fd00::5"],
        postgresql_server_tls=tls,
    )
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert {(line[0], line[3]) for line in lines} == {
        *(("host", "127.0.0.1/32"), ("host", "::1/128")),
        *((remote, "10.0.0.21/32"), (remote, "fd00::5/128")),
    }


def test_clients_without_tls_are_not_cut_off(load_role: Callable[[str], Any]) -> None:
    given = {"postgresql_server_databases": DATABASES, "postgresql_server_tls": "required"}
    given["postgresql_server_certificate"] = "/etc/ssl/postgresql"
    role = load_role("postgresql_server")
    assert role.refusals(**given, __postgresql_server_plain={"stdout_lines": []}) == []
    (message,) = role.refusals(**given, __postgresql_server_plain={"stdout_lines": ["10.0.0.21"]})
    assert "10.0.0.21 still connects to links, shop without it" in message
    assert "`offered`" in message


def test_state_query_notices_changed_certificates(load_role: Callable[[str], Any]) -> None:
    role = load_role("postgresql_server")
    query, text = (
        role.value("__postgresql_server_state_query"),
        role.render("etc/postgresql/conf.d/baton-tls.conf.j2"),
    )
    files = re.findall("ssl_(?:cert|key)_file = '(.+)'", text)
    assert len(files) == 2
    for path in (*files, "/etc/postgresql/15/main/conf.d/baton-tls.conf"):
        assert f"pg_stat_file('{path}', true)" in query
    assert "ssl_min_protocol_version = 'TLSv1.2'" in text
