"""Detection of how requests reach an application, from files rendered by the roles."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import transport
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application

from tests.unit.roles.conftest import Role


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[[str, str], None]:
    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def transport_of(root: pathlib.Path) -> dict[str, Any]:
    return transport.of_host(Application("links", str(root)))


def test_bare_host_has_no_transport(tmp_path: pathlib.Path) -> None:
    assert transport_of(tmp_path) == {"sends": "", "takes_tls": False, "takes_plain": False, "trusted": []}


@pytest.mark.parametrize(("name", "sends"), [("", "plain"), ("links.app-servers.baton.internal", "tls")])
def test_site_determines_how_requests_are_sent(
    tmp_path: pathlib.Path, write: Callable[[str, str], None], name: str, sends: str
) -> None:
    text = Role("nginx_site").render(
        "etc/nginx/sites-enabled/site.conf.j2",
        nginx_site_name="links",
        nginx_site_server_names=["links.example.org"],
        nginx_site_upstreams=["10.0.0.21:8000"],
        nginx_site_certificate="/a.pem",
        nginx_site_certificate_key="/b.pem",
        nginx_site_upstream_tls_name=name,
        __nginx_site_about={"rc": 0, "stderr": "nginx version: nginx/1.22.1"},
    )
    write("etc/nginx/sites-enabled/links.conf", text)
    assert transport_of(tmp_path)["sends"] == sends


@pytest.mark.parametrize("plain", [True, False])
def test_firewall_determines_whether_plain_requests_are_accepted(
    tmp_path: pathlib.Path, write: Callable[[str, str], None], plain: bool
) -> None:
    rules = [
        {"port": 8000, "sources": ["10.0.0.11"], "comment": "application, from the edge"},
        {"port": 8443, "sources": ["10.0.0.11"], "comment": "application by TLS, from the edge"},
    ]
    text = Role("host_firewall").render(
        "etc/nftables.d/rules.nft.j2", host_firewall_rules=rules if plain else rules[1:]
    )
    write("etc/nftables.d/links.nft", text)
    assert transport_of(tmp_path)["takes_plain"] is plain


def test_active_configuration_determines_the_trusted_addresses(
    tmp_path: pathlib.Path, write: Callable[[str, str], None]
) -> None:
    text = Role("app_service").render(
        "etc/app/gunicorn.conf.py.j2",
        app_name="links",
        app_service_forwarded_allow_ips=["10.0.0.11", "10.0.0.21"],
    )
    # written but not activated
    write("etc/links/gunicorn.conf.py", text)
    assert transport_of(tmp_path)["trusted"] == []
    write("var/lib/baton/links/kept/etc/links/gunicorn.conf.py", text)
    assert transport_of(tmp_path)["trusted"] == ["10.0.0.11", "10.0.0.21"]


def test_tls_port_is_detected(tmp_path: pathlib.Path, write: Callable[[str, str], None]) -> None:
    write("etc/nginx/streams-enabled/links.conf", "server {}\n")
    assert transport_of(tmp_path)["takes_tls"]
