"""The rules of nftables, and that no rule locks the operator out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def rules(load_role: Callable[[str], Any]) -> Callable[..., list[str]]:
    def render(*listed: dict[str, Any], name: str = "links") -> list[str]:
        text = load_role("host_firewall").render(
            "etc/nftables.d/rules.nft.j2", host_firewall_rules=list(listed), host_firewall_rules_name=name
        )
        return [line.strip() for line in text.splitlines() if "accept" in line]

    return render


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        ({"port": 80}, ['tcp dport { 80 } accept comment "links"']),
        ({"ports": [80, 443], "comment": "web"}, ['tcp dport { 80, 443 } accept comment "web"']),
        ({"port": 53, "protocol": "udp"}, ['udp dport { 53 } accept comment "links"']),
        ({"port": 80, "sources": []}, ['tcp dport { 80 } accept comment "links"']),
        (
            {"port": 8000, "sources": ["10.0.0.11", "fd00::/8"], "comment": "edge"},
            [
                'ip saddr 10.0.0.11 tcp dport { 8000 } accept comment "edge"',
                'ip6 saddr fd00::/8 tcp dport { 8000 } accept comment "edge"',
            ],
        ),
        ({"port": 80, "ports": [81, 80]}, ['tcp dport { 80, 81 } accept comment "links"']),
    ],
    ids=str,
)
def test_rule_has_a_line_for_each_source(
    rules: Callable[..., list[str]], rule: dict[str, Any], lines: list[str]
) -> None:
    assert rules(rule) == lines


def test_rule_may_limit_the_connections_of_an_address(load_role: Callable[[str], Any]) -> None:
    limits = {
        "connection_rate": 50,
        "connections": 90,
        "unlimited_sources": ["192.0.2.0/24", "fd00::/8", "198.51.100.7"],
    }
    text = load_role("host_firewall").render(
        "etc/nftables.d/rules.nft.j2",
        host_firewall_rules=[{"port": 22, "unlimited_sources": ["192.0.2.1"]}, {"ports": [80, 443], **limits}],
        host_firewall_rules_name="my-shop",
    )
    rate, most = "limit rate over 50/second burst 100 packets } counter drop", "ct count over 90 } counter drop"
    lines = []
    for family, prefix in (("ip", ""), ("ip6", " & ffff:ffff:ffff:ffff::")):
        match = f"tcp dport {{ 80, 443 }} {family} saddr != @unlimited_tcp80_{family}"
        lines += [
            f"{match} update @new_my-shop_tcp80_{family} {{ {family} saddr{prefix} {rate}",
            f"{match} add @open_my-shop_tcp80_{family} {{ {family} saddr{prefix} {most}",
        ]
    assert [line.strip() for line in text.splitlines() if "dport" in line] == [
        *lines,
        'tcp dport { 22 } accept comment "my-shop"',
        'tcp dport { 80, 443 } accept comment "my-shop"',
    ]
    assert [line.strip() for line in text.splitlines() if "elements" in line] == [
        "elements = { 192.0.2.0/24, 198.51.100.7 }",
        "elements = { fd00::/8 }",
    ]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("    set ")] == [
        f"{kind}_tcp80_{family}" for family in ("ip", "ip6") for kind in ("unlimited", "new_my-shop", "open_my-shop")
    ]


def test_rules_file_is_valid_on_its_own(load_role: Callable[[str], Any]) -> None:
    # so that nft can check it before it is installed
    text = load_role("host_firewall").render("etc/nftables.d/rules.nft.j2", host_firewall_rules=[{"port": 80}])
    assert "table inet baton {\n    chain limits {\n    }\n\n    chain input {\n" in text
    assert text.count("{") == text.count("}")


def test_rule_for_local_users_rejects_other_local_users(
    load_role: Callable[[str], Any],
) -> None:
    rule = {"port": 8000, "local_users": ["root", "www-data"], "comment": "nginx"}
    text = load_role("host_firewall").render("etc/nftables.d/rules.nft.j2", host_firewall_rules=[rule])
    assert " accept" not in text.replace("policy accept", "")
    assert 'oif lo tcp dport { 8000 } meta skuid != { root, www-data } reject comment "nginx"' in text
    assert text.count("{") == text.count("}")
    refused = load_role("host_firewall").refusals(
        "tasks/preflight_rules.yml", host_firewall_rules=[{**rule, "local_users": ["a b"]}]
    )
    assert "local_users as names" in refused[0]


def test_only_batons_table_is_replaced(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_firewall")
    text = role.render("etc/nftables.conf.j2")
    assert "policy drop;" in text
    assert "table inet baton\ndelete table inet baton\n" in text
    unit = role.render("etc/systemd/system/nftables.service.d/baton.conf.j2")
    assert "flush ruleset" not in text + unit
    assert "ExecStop=\nExecStop=-/usr/sbin/nft delete table inet baton" in unit


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, ['tcp dport 22 accept comment "SSH"']),
        ({"host_firewall_ssh_port": 2222}, ['tcp dport 2222 accept comment "SSH"']),
        (
            {"host_firewall_ssh_sources": ["10.0.0.0/24", "fd00::7"]},
            [
                'ip saddr 10.0.0.0/24 tcp dport 22 accept comment "SSH"',
                'ip6 saddr fd00::7 tcp dport 22 accept comment "SSH"',
            ],
        ),
    ],
    ids=str,
)
def test_ssh_stays_open(load_role: Callable[[str], Any], settings: dict[str, Any], lines: list[str]) -> None:
    text = load_role("host_firewall").render("etc/nftables.conf.j2", **settings)
    assert [line.strip() for line in text.splitlines() if '"SSH"' in line] == lines


@pytest.mark.parametrize(
    ("connection", "settings", "refused"),
    [
        ("10.0.0.1 40000 10.0.0.5 22", {}, False),
        ("10.0.0.1 40000 10.0.0.5 2222", {}, True),
        ("10.0.0.1 40000 10.0.0.5 2222", {"host_firewall_ssh_port": 2222}, False),
        ("10.0.0.1 40000 10.0.0.5 22", {"host_firewall_ssh_sources": ["10.0.0.0/24"]}, False),
        ("10.0.0.1 40000 10.0.0.5 22", {"host_firewall_ssh_sources": ["192.168.0.0/16", "10.0.0.1"]}, False),
        ("10.0.0.1 40000 10.0.0.5 22", {"host_firewall_ssh_sources": ["192.168.0.0/16"]}, True),
        ("fd00::1 40000 fd00::5 22", {"host_firewall_ssh_sources": ["fd00::/8"]}, False),
        ("10.0.0.1 40000 10.0.0.5 22", {"host_firewall_ssh_sources": ["fd00::/8"]}, True),
        ("fe80::1%eth0 40000 fe80::5%eth0 22", {"host_firewall_ssh_sources": ["fe80::/10"]}, False),
        ("10.0.0.1 40000 10.0.0.5 2222", {"host_firewall_enabled": False}, False),
        # not over SSH: nothing to block
        ("", {}, False),
    ],
    ids=str,
)
def test_preflight_refuses_to_block_its_own_connection(
    load_role: Callable[[str], Any], connection: str, settings: dict[str, Any], refused: bool
) -> None:
    messages = load_role("host_firewall").refusals(__host_firewall_ssh={"stdout": connection}, **settings)
    assert bool(messages) is refused
    if refused:
        assert next(iter(settings), "host_firewall_ssh_port") in messages[0]
        assert "10.0.0.1" in messages[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"host_firewall_rules_name": "../x"},
        {"host_firewall_rules": [{"comment": "no port"}]},
        {"host_firewall_rules": [{"port": 0}]},
        {"host_firewall_rules": [{"port": 70000}]},
        {"host_firewall_rules": [{"port": 80, "sources": ["edge1"]}]},
        {"host_firewall_rules": [{"port": 80, "sources": ["10.0.0.0/33"]}]},
        {"host_firewall_rules": [{"port": 80, "unlimited_sources": ["edge1"]}]},
        {"host_firewall_rules": [{"port": 80, "connection_rate": -1}]},
        {"host_firewall_rules": [{"port": 80, "connection_rate": 1000000}]},
        {"host_firewall_rules": [{"port": 80, "connections": -1}]},
        {"host_firewall_rules": [{"port": 80, "comment": 'say "hi"'}]},
        {"host_firewall_rules": [{"port": 80, "comment": "a\x1b"}]},
        {"host_firewall_rules": [{"port": "80\n"}]},
        {"host_firewall_rules_name": "links\n"},
        {"host_firewall_ssh_sources": ["home.example.org"]},
        {"host_firewall_ssh_sources": ["10.0.0.300"]},
        {"host_firewall_ssh_sources": ["10.0.0.1/24"]},
        {"host_firewall_ssh_sources": ["fd00::/129"]},
        {"host_firewall_ssh_sources": ["fe80::1%eth0"]},
        {"host_firewall_ssh_port": 0},
        {"host_firewall_undo_seconds": 4},
        {"host_firewall_undo_seconds": "3600"},
    ],
    ids=str,
)
def test_preflight_refuses_rules_that_nftables_would_refuse(
    load_role: Callable[[str], Any], wrong: dict[str, Any]
) -> None:
    role = load_role("host_firewall")
    assert role.refusals("tasks/preflight_rules.yml", host_firewall_rules=[{"port": 80}]) == []
    (message,) = role.refusals("tasks/preflight_rules.yml", **wrong)
    assert next(iter(wrong)) in message
    assert role.refusals("tasks/preflight_rules.yml", host_firewall_enabled=False) == []


def test_each_wrong_setting_is_reported_by_itself(load_role: Callable[[str], Any]) -> None:
    wrong = {"host_firewall_ssh_port": 0, "host_firewall_undo_seconds": 601, "host_firewall_ssh_sources": ["home"]}
    messages = load_role("host_firewall").refusals("tasks/preflight_rules.yml", **wrong)
    assert [message.split()[1] for message in messages] == list(wrong)
    connection = {"stdout": "10.0.0.1 40000 10.0.0.5 2222"}
    closed = load_role("host_firewall").refusals(
        __host_firewall_ssh=connection, host_firewall_ssh_sources=["192.168.0.0/16"]
    )
    assert [message.rpartition("2222. ")[2].split()[0] for message in closed] == [
        "host_firewall_ssh_port",
        "host_firewall_ssh_sources",
    ]


def test_change_is_undone_within_a_minute_by_default(load_role: Callable[[str], Any]) -> None:
    """With the time that the undo itself takes."""
    for role, name in (("host_firewall", "host_firewall_undo_seconds"), ("host_sshd", "host_sshd_undo_seconds")):
        assert load_role(role).defaults[name] <= 45


def test_network_with_host_bits_is_refused_with_the_corrected_one(load_role: Callable[[str], Any]) -> None:
    refusals = load_role("host_firewall").refusals(
        "tasks/preflight_rules.yml", host_firewall_ssh_sources=["10.0.0.1/24", "2001:db8::/32"]
    )
    assert refusals[0].startswith("edge1: ")
    assert "10.0.0.1/24 has bits set beyond its prefix: write 10.0.0.0/24" in refusals[0]


def test_rule_changes_revert_themselves(load_role: Callable[[str], Any]) -> None:
    (task,) = load_role("host_firewall").load("tasks/configure.yml")
    change = task["baton.web.guarded_files"]
    assert change["name"] == "firewall"
    assert {"in_force", "before", "apply", "undo", "seconds", "advice"} < set(change)


def test_rules_of_one_application_change_no_other_file(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_firewall")
    *_, configure = role.load("tasks/rules.yml")
    assert configure["ansible.builtin.import_tasks"] == "configure.yml"
    given = {"host_firewall_rules_name": "shop", "host_firewall_rules": [{"port": 80}]}
    paths = "__host_firewall_files | map(attribute='path') | list"
    assert role.value(paths, **given, **configure["vars"]) == ["/etc/nftables.d/shop.nft"]
    assert {"/etc/nftables.d/shop.nft", "/etc/nftables.conf"} < set(role.value(paths, **given))


def test_loopback_passes_and_invalid_packets_are_dropped_before_any_port(
    load_role: Callable[[str], Any],
) -> None:
    text = load_role("host_firewall").render("etc/nftables.conf.j2")
    chain = text.partition("chain input {")[2].partition("}\n\n")[0]
    rules = [line.strip() for line in text.partition("chain input {")[2].splitlines() if line.strip()]
    assert rules[0] == "type filter hook input priority filter; policy drop;"
    assert rules[1] == "iif lo accept"
    assert rules[2] == "ct state vmap { established : accept, related : accept, invalid : drop }"
    assert "dport" not in chain.partition("invalid : drop")[0]
