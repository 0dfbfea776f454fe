"""A port that accepts TLS from known clients: its configuration, and input that preflight refuses."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

PORT: dict[str, Any] = {
    "nginx_tls_port_name": "short-links",
    "nginx_tls_port_listen": "10.0.0.21:8443",
    "nginx_tls_port_upstream": "10.0.0.21:8000",
    "nginx_tls_port_certificate": "/etc/ssl/links/fullchain.pem",
    "nginx_tls_port_certificate_key": "/etc/ssl/links/privkey.pem",
    "nginx_tls_port_ca_source": "/nonexistent/ca.pem",
    "nginx_tls_port_client": "edges.links.example.org",
}


@pytest.fixture
def port(load_role: Callable[[str], Any]) -> Callable[..., str]:
    def render(**given: Any) -> str:
        text: str = load_role("nginx_tls_port").render(
            "etc/nginx/streams-enabled/tls-port.conf.j2", **{**PORT, **given}
        )
        assert text.count("{") == text.count("}")
        return text

    return render


def test_only_clients_with_the_name_reach_the_server(port: Callable[..., str]) -> None:
    text = port()
    assert "ssl_verify_client on;" in text
    assert "ssl_client_certificate /etc/nginx/tls-port-ca/short-links.pem;" in text
    (known,) = re.findall(
        r"map \$ssl_client_s_dn (\S+) \{\s+default \"\";\s+\"CN=edges.links.example.org\" 10.0.0.21:8000;\s+\}", text
    )
    # the map has no server for other clients
    assert re.findall(r"proxy_pass (.*);", text) == [known]


def test_timeout_exceeds_those_of_requests(port: Callable[..., str]) -> None:
    assert re.findall(r"proxy_timeout (.*);", port()) == ["20d"]
    assert "so_keepalive=" in port()


def test_authority_may_be_missing_on_a_new_fleet(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    authority = tmp_path / "ca.pem"

    def written() -> str:
        files = load_role("nginx_tls_port").value(
            "__nginx_tls_port_files", **{**PORT, "nginx_tls_port_ca_source": str(authority)}
        )
        (content,) = [file["content"] for file in files if file["path"] == "/etc/nginx/tls-port-ca/short-links.pem"]
        return str(content)

    assert written() == ""
    authority.write_text("a certificate\n")
    assert written() == "a certificate\n"


@pytest.mark.parametrize(
    "given",
    [
        {"nginx_tls_port_listen": "10.0.0.21:8000"},
        {"nginx_tls_port_listen": "8443"},
        {"nginx_tls_port_listen": "10.0.0.21:70000"},
        {"nginx_tls_port_upstream": "/run/links/web.sock"},
        {"nginx_tls_port_client": "a; b"},
        {"nginx_tls_port_certificate": "relative.pem"},
        {"nginx_tls_port_connect_timeout": 0},
    ],
    ids=str,
)
def test_invalid_input_is_refused(load_role: Callable[[str], Any], given: dict[str, Any]) -> None:
    role = load_role("nginx_tls_port")
    assert role.refusals(**PORT, __nginx_tls_port_others={"stdout": ""}) == []
    (message,) = role.refusals(**{**PORT, **given}, __nginx_tls_port_others={"stdout": ""})
    assert str(next(iter(given.values()))) in message
    # a port to remove isn't validated
    assert role.refusals(**{**PORT, **given}, nginx_tls_port_state="absent", __nginx_tls_port_others={}) == []


def test_each_wrong_setting_is_reported_by_itself(load_role: Callable[[str], Any]) -> None:
    wrong = {"nginx_tls_port_client": "a; b", "nginx_tls_port_certificate": "a.pem", "nginx_tls_port_listen": "8443"}
    messages = load_role("nginx_tls_port").refusals(**{**PORT, **wrong}, __nginx_tls_port_others={"stdout": ""})
    assert {message.split()[1] for message in messages} == wrong.keys()


def test_port_of_another_application_is_refused(load_role: Callable[[str], Any]) -> None:
    other = "/etc/nginx/streams-enabled/shop.conf"
    (message,) = load_role("nginx_tls_port").refusals(**PORT, __nginx_tls_port_others={"stdout": other})
    assert f"10.0.0.21:8443, on which short-links would accept TLS, is used by {other} already" in message
