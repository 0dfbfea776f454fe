"""nginx's main configuration, by version."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

DEBIAN_12 = (
    "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15 3 Sep 2024 (running with OpenSSL 3.0.19 27 Jan 2026)\n"
)
DEBIAN_13 = "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.0 8 Apr 2025 (running with OpenSSL 3.5.7 1 Jun 2026)\n"
UBUNTU_24 = "nginx version: nginx/1.24.0 (Ubuntu)\nbuilt with OpenSSL 3.0.13 30 Jan 2024\n"


@pytest.fixture
def main(load_role: Callable[[str], Any]) -> Callable[..., str]:
    def render(version: str = DEBIAN_12, **given: Any) -> str:
        text: str = load_role("nginx_server").render(
            "etc/nginx/nginx.conf.j2", __nginx_server_about={"stderr": version}, **given
        )
        return text

    return render


@pytest.mark.parametrize(
    ("version", "groups", "directive"),
    [
        (DEBIAN_12, "X25519:prime256v1:secp384r1", False),
        (UBUNTU_24, "X25519:prime256v1:secp384r1", False),
        (DEBIAN_13, "X25519MLKEM768:X25519:prime256v1:secp384r1", True),
    ],
    ids=["Debian 12", "Ubuntu 24.04", "Debian 13"],
)
def test_tls_groups_and_http2_depend_on_the_version(
    main: Callable[..., str], version: str, groups: str, directive: bool
) -> None:
    text = main(version)
    assert f"ssl_ecdh_curve {groups};" in text
    assert ("http2 on;" in text) is directive
    assert ("listen 443 ssl http2 default_server" in text) is not directive


def test_unknown_server_names_get_no_answer(main: Callable[..., str]) -> None:
    text = main()
    assert "ssl_reject_handshake on;" in text
    assert "return 444;" in text


@pytest.mark.parametrize(("site", "listens"), [("", False), ("/etc/nginx/sites-enabled/shop.conf", True)])
def test_a_host_without_a_site_need_not_listen_for_any(main: Callable[..., str], site: str, listens: bool) -> None:
    text = main(nginx_server_catch_all=False, __nginx_server_sites={"stdout": site})
    assert ("listen " in text) is listens
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("ipv6", [True, False])
def test_ipv6_can_be_disabled(main: Callable[..., str], ipv6: bool) -> None:
    assert ("[::]:443" in main(nginx_server_ipv6=ipv6)) is ipv6


def test_log_line_has_no_query_and_escapes_as_json(main: Callable[..., str]) -> None:
    text = main()
    match = re.search(r"log_format baton_json (.*?);", text, re.DOTALL)
    assert match is not None
    line = match.group(1)
    assert line.startswith("escape=json")
    for variable in ("$request_uri", "$request ", "$args", "$query_string", "$http_referer", "$http_cookie", "$status"):
        assert variable not in line
    readme = (pathlib.Path(__file__).parents[3] / "roles/nginx_server/README.md").read_text(encoding="utf-8")
    listed = readme.split("## Access log")[1].split("The distribution's")[0].partition("per line:")[2]
    fields = re.findall(r"`([a-z_]+)`", listed)
    assert re.findall(r'"(\w+)":', line) == fields


HANDSHAKE = {
    "$request_method": "GET",
    "$server_protocol": "HTTP/1.1",
    "$http_upgrade": "websocket",
    "$http_connection": "Upgrade",
    "$http_sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    "$http_sec_websocket_version": "13",
}


def _upgrade(text: str, request: dict[str, str]) -> str:
    """The value that nginx's map yields for a request with these variables."""
    known = dict(request)
    for name in ("$baton_asks_upgrade", "$baton_upgrade"):
        found = re.search(
            rf'map "?([^"]*?)"? {re.escape(name)} \{{\s+default "";\s+"(~\*?)([^"]*)" (\w+);\s+\}}', text, re.MULTILINE
        )
        assert found is not None
        source = " ".join(known[variable] for variable in found[1].split(" "))
        flags = re.IGNORECASE if found[2] == "~*" else re.NOFLAG
        known[name] = found[4] if re.search(found[3], source, flags) else ""
    return known["$baton_upgrade"]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"$http_upgrade": "WebSocket"},
        {"$http_connection": "keep-alive, Upgrade"},
        {"$http_connection": "upgrade,keep-alive"},
        {"$http_connection": "keep-alive,upgrade, te"},
        {"$http_sec_websocket_key": "AAAAAAAAAAAAAAAAAAAA+g=="},
    ],
    ids=str,
)
def test_valid_handshake_may_upgrade(main: Callable[..., str], other: dict[str, str]) -> None:
    assert _upgrade(main(), {**HANDSHAKE, **other}) == "websocket"


@pytest.mark.parametrize(
    "other",
    [
        *({variable: ""} for variable in HANDSHAKE),
        {"$request_method": "POST"},
        {"$request_method": "GETX"},
        {"$server_protocol": "HTTP/1.0"},
        {"$server_protocol": "HTTP/2.0"},
        {"$http_upgrade": "h2c"},
        {"$http_upgrade": "websocket, h2c"},
        {"$http_upgrade": "websocket 13 dGhlIHNhbXBsZSBub25jZQ== upgrade,", "$http_sec_websocket_key": ""},
        {"$http_connection": "close"},
        {"$http_connection": "no-upgrade"},
        {"$http_connection": "upgraded"},
        {"$http_connection": "keep-alive upgrade"},
        {"$http_sec_websocket_version": "8"},
        {"$http_sec_websocket_version": "13, 8"},
        {"$http_sec_websocket_key": "a"},
        {"$http_sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ="},
        {"$http_sec_websocket_key": "dGhlIHNhbXBsZSBub25jZR=="},
        {"$http_sec_websocket_key": "dGhlIHNhbXBsZSBub25jZ!=="},
        {"$http_sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="},
    ],
    ids=str,
)
def test_invalid_handshake_is_proxied_without_upgrade(main: Callable[..., str], other: dict[str, str]) -> None:
    assert _upgrade(main(), {**HANDSHAKE, **other}) == ""


def test_limits_come_from_the_settings(main: Callable[..., str]) -> None:
    text = main(nginx_server_worker_connections=9000, nginx_server_worker_shutdown_timeout=7)
    assert "worker_connections 9000;" in text
    assert "worker_rlimit_nofile 19024;" in text
    assert "worker_shutdown_timeout 7s;" in text


def test_stop_waits_for_running_requests(load_role: Callable[[str], Any]) -> None:
    text = load_role("nginx_server").render(
        "etc/systemd/system/nginx.service.d/baton.conf.j2", nginx_server_stop_timeout=12
    )
    assert "--retry QUIT/12 " in text
    assert "TimeoutStopSec=17s" in text
    # nginx -t before the reload, and the mark after both
    reload = re.findall(r"^ExecReload=(\S*)", text, re.MULTILINE)
    assert reload == ["", "/usr/bin/touch", "/usr/sbin/nginx", "+/usr/local/sbin/nginx-reload", "/usr/bin/mv"]


def test_sandbox_is_optional_and_operator_directives_come_last(load_role: Callable[[str], Any]) -> None:
    def lines(**given: Any) -> list[str]:
        text: str = load_role("nginx_server").render("etc/systemd/system/nginx.service.d/baton.conf.j2", **given)
        return text.partition("[Service]")[2].splitlines()

    given = {"ReadWritePaths": ["/srv/a", "/srv/b"], "MemoryDenyWriteExecute": False}
    assert "ProtectSystem=strict" in lines()
    expected = ["MemoryDenyWriteExecute=false", "ReadWritePaths=/srv/a", "ReadWritePaths=/srv/b"]
    assert lines(nginx_server_directives=given)[-3:] == expected
    bare = lines(nginx_server_sandbox=False)
    assert not [line for line in bare if line.startswith(("Protect", "ReadWrite", "SystemCall", "Capability"))]
    # directives that aren't part of the sandbox stay
    assert "Restart=on-failure" in bare


@pytest.mark.parametrize(
    "wrong",
    [
        {"nginx_server_worker_connections": 10},
        {"nginx_server_client_header_timeout": 0},
        {"nginx_server_worker_processes": "many"},
        {"nginx_server_worker_processes": "99999"},
        {"nginx_server_large_client_header_buffers": "16k"},
        {"nginx_server_large_client_header_buffers": "1 1"},
        {"nginx_server_large_client_header_buffers": "4 64m"},
        {"nginx_server_large_client_header_buffers": "100 16k"},
        {"nginx_server_tls_profile": "paranoid"},
        {"nginx_server_tls_protocols": ["TLSv1.1"]},
        {"nginx_server_tls_ciphers": ["A:B; x"]},
        {"nginx_server_tls_groups": ["X25519:P-256"]},
        {"nginx_server_session_ticket_hours": 5},
        {"nginx_server_session_ticket_secret": "short"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_preflight_refuses_settings_that_nginx_would_refuse(
    load_role: Callable[[str], Any], wrong: dict[str, Any]
) -> None:
    messages = load_role("nginx_server").refusals(**wrong)
    assert len(messages) == 1
    (name,) = wrong
    assert name in messages[0]
    value = wrong[name]
    # a secret appears in no message
    assert (str(value[0] if isinstance(value, list) else value) in messages[0]) is not name.endswith("_secret")


@pytest.mark.parametrize(
    ("setting", "names", "unknown"),
    [
        (
            "nginx_server_tls_ciphers",
            ["ECDHE-RSA-AES128-GCM-SHA256", "!aNULL", "@STRENGTH", "NONSENSE", "TLS_AES_128_GCM_SHA256"],
            ["NONSENSE", "TLS_AES_128_GCM_SHA256"],
        ),
        ("nginx_server_tls_groups", ["X25519", "prime256v1", "P-257"], ["P-257"]),
    ],
)
def test_names_that_openssl_does_not_know_are_refused(
    load_role: Callable[[str], Any], setting: str, names: list[str], unknown: list[str]
) -> None:
    """nginx would ignore such a cipher, and refuse its configuration because of such a group."""
    role = load_role("nginx_server")
    (task,) = (task for task in role.load("tasks/preflight.yml") if task.get("register") == "__nginx_server_unknown")
    templar = role.templar(**{setting: names})
    environment = {**os.environ, **templar.template(task["environment"])}
    done = subprocess.run(
        ["sh", "-c", task["ansible.builtin.shell"]["cmd"]], env=environment, capture_output=True, text=True, check=True
    )
    found = {"stdout_lines": done.stdout.splitlines()}
    (message,) = role.refusals(__nginx_server_unknown=found, **{setting: names})
    assert f"edge1: {setting} has {', '.join(unknown)}, which the host's OpenSSL doesn't know" in message


@pytest.mark.parametrize(
    ("version", "spared"), [("1.26.3", False), ("1.27.3", False), ("1.27.4", True), ("1.30.0", True)]
)
def test_reload_keeps_idle_connections_where_nginx_can(main: Callable[..., str], version: str, spared: bool) -> None:
    text = main(
        f"nginx version: nginx/{version}\nbuilt with OpenSSL 3.5.0 8 Apr 2025\n", nginx_server_keepalive_timeout=70
    )
    assert ("keepalive_min_timeout 70s;" in text) is spared


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, ["ssl_protocols TLSv1.2 TLSv1.3;", "ssl_session_tickets off;"]),
        ({"nginx_server_tls_profile": "modern"}, ["ssl_protocols TLSv1.3;"]),
        (
            {"nginx_server_tls_protocols": ["TLSv1.2"], "nginx_server_tls_ciphers": ["ECDHE-RSA-AES128-GCM-SHA256"]},
            ["ssl_protocols TLSv1.2;", "ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256;"],
        ),
        ({"nginx_server_tls_groups": ["P-384"]}, ["ssl_ecdh_curve P-384;"]),
        (
            {"nginx_server_session_tickets": True},
            [
                "ssl_session_tickets on;",
                "ssl_session_ticket_key /var/lib/nginx-session-tickets/current.key;",
                "ssl_session_ticket_key /var/lib/nginx-session-tickets/previous.key;",
                "ssl_session_ticket_key /var/lib/nginx-session-tickets/next.key;",
            ],
        ),
    ],
    ids=str,
)
def test_tls_follows_the_profile_and_the_settings(
    main: Callable[..., str], given: dict[str, Any], lines: list[str]
) -> None:
    text = main(DEBIAN_13, **given)
    found = [line.strip() for line in text.splitlines()]
    start = found.index(lines[0])
    assert [line for line in found[start:] if line in lines] == lines
    if given.get("nginx_server_tls_profile") == "modern":
        # the profile has none for TLS 1.2
        assert "ssl_ciphers" not in text
    for name in ("ssl_protocols", "ssl_ecdh_curve", "ssl_session_tickets"):
        assert len(re.findall(rf"^ +{name} ", text, re.MULTILINE)) == 1


def test_local_listeners_do_not_use_the_proxy_protocol(main: Callable[..., str]) -> None:
    text = main(DEBIAN_13, nginx_server_proxy_protocol=True)
    assert re.findall(r"listen (.*443.*);", text) == [
        "443 ssl default_server proxy_protocol backlog=4096",
        "[::]:443 ssl default_server proxy_protocol backlog=4096",
        "127.0.0.1:443 ssl default_server",
        "[::1]:443 ssl default_server",
    ]
    assert "proxy_protocol" not in main(DEBIAN_13)


def test_ticket_timer_matches_the_key_periods(load_role: Callable[[str], Any]) -> None:
    text = load_role("nginx_server").render(
        "etc/systemd/system/nginx-session-tickets.timer.j2", nginx_server_session_ticket_hours=8
    )
    assert "OnCalendar=*-*-* 0,8,16:00:00 UTC" in text
