"""The identity of a site's clients: trusted proxies, client certificates, and headers that only those may set."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.filter import edge as filters

from tests.support.certificate import issue

from .test_nginx_site import SITE
from .test_nginx_site import refusals as refusals
from .test_nginx_site import site as site

FILES = pathlib.Path(__file__).resolve().parents[3] / "roles/nginx_site/files"
PRESETS = yaml.safe_load((FILES / "proxy_presets.yml").read_text())
IDENTITY = [name for names in yaml.safe_load((FILES / "identity_headers.yml").read_text()).values() for name in names]


def _certificate(*, authority: bool, days: int = 30) -> str:
    return issue(common_name="Clients", start=-60, end=days, authority=authority).certificate


def _headers(text: str) -> dict[str, str]:
    """The value of each request header that the site sets for the application, by lower-case name."""
    found = re.findall(r"^    proxy_set_header (\S+) (.*);$", text, re.MULTILINE)
    assert len({name.lower() for name, _ in found}) == len(found)
    return {name.lower(): value for name, value in found}


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_headers_are_removed_by_default(site: Callable[..., str], name: str) -> None:
    for given in ({}, {"nginx_site_trusted_proxies": ["192.0.2.0/24"]}):
        assert _headers(site(**given))[name.lower()] == '""'


def test_additional_headers_can_be_removed(site: Callable[..., str]) -> None:
    assert _headers(site(nginx_site_removed_headers=["X-Tenant", "remote-user"]))["x-tenant"] == '""'


def test_identity_headers_are_accepted_only_from_the_proxys_address(site: Callable[..., str]) -> None:
    text = site(nginx_site_trusted_proxies=["192.0.2.0/24"], nginx_site_trusted_identity_headers=["x-forwarded-user"])
    # the connection's address, because the proxy itself determines the client's address
    assert 'geo $realip_remote_addr $baton_short_links_proxy {\n    default "";\n    192.0.2.0/24 own;\n}' in text
    variable = _headers(text)["x-forwarded-user"]
    assert f'map $baton_short_links_proxy {variable} {{\n    default "";\n    own $http_x_forwarded_user;\n}}' in text
    assert _headers(text)["remote-user"] == '""'


def test_cdn_may_only_set_the_headers_that_it_always_sets(site: Callable[..., str]) -> None:
    # it passes on other headers from any client
    text = site(
        nginx_site_trusted_proxies=["cloudflare", "192.0.2.1"], nginx_site_trusted_identity_headers=["Remote-User"]
    )
    assert "\n    103.21.244.0/22 preset;\n" in text
    assert "\n    192.0.2.1 own;\n" in text
    assert re.findall(r"^    (own|preset) (\$http_\w+);", text, re.MULTILINE) == [
        ("preset", "$http_cf_connecting_ip"),
        ("own", "$http_remote_user"),
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_sets_networks_and_header(site: Callable[..., str], preset: str) -> None:
    text = site(nginx_site_trusted_proxies=[preset, "2001:db8::1"], nginx_site_trusted_proxies_header="X-Client")
    networks = [*PRESETS[preset]["networks"], "2001:db8::1"]
    # of both server blocks
    assert re.findall(r"^    set_real_ip_from (.*);", text, re.MULTILINE) == networks * 2
    assert "    real_ip_header X-Client;" in text
    assert f"    real_ip_header {PRESETS[preset]['header']};" in site(nginx_site_trusted_proxies=[preset])


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_data_is_valid(preset: str) -> None:
    data = PRESETS[preset]
    assert datetime.date.fromisoformat(data["date"])
    assert data["source"].startswith("https://")
    assert filters.wrong_networks(data["networks"], allow_wide=False) == []
    assert all(ipaddress.ip_network(network).is_global for network in data["networks"])


def test_list_older_than_a_year_is_reported() -> None:
    presets = {"cdn": {"date": "2026-01-31"}, "other": {"date": "2027-01-01"}}
    used = ["cdn", "10.0.0.1", "other", "cdn"]
    assert filters.old_presets(used, presets, "2027-02-01") == []
    assert filters.old_presets(used, presets, "2027-02-02") == ["The list of cdn's networks is of 2026-01-31."]
    assert filters.old_presets(["10.0.0.1"], presets, "2099-01-01") == []


def test_preflight_warns_of_an_old_list(load_role: Callable[[str], Any]) -> None:
    role = load_role("nginx_site")
    (task,) = (task for task in role.load("tasks/preflight_identity.yml") if "ansible.builtin.debug" in task)
    presets = {"cdn": {"date": "2001-01-01"}}
    templar = role.templar(**SITE, nginx_site_trusted_proxies=["cdn"], __nginx_site_proxy_presets=presets)
    assert templar.evaluate_conditional(task["when"])
    message = templar.template(task["ansible.builtin.debug"]["msg"])
    assert "edge1: The list of cdn's networks is of 2001-01-01." in message
    assert not role.templar(**SITE).evaluate_conditional(task["when"])


def test_all_but_local_listeners_use_the_proxy_protocol(site: Callable[..., str]) -> None:
    text = site("1.26.3", nginx_site_proxy_protocol=True, nginx_site_trusted_proxies=["192.0.2.1"])
    assert re.findall(r"^    listen (.*443.*);", text, re.MULTILINE) == [
        "443 ssl proxy_protocol",
        "[::]:443 ssl proxy_protocol",
        "127.0.0.1:443 ssl",
        "[::1]:443 ssl",
    ]
    assert "    real_ip_header proxy_protocol;" in text


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({}, "max-age=63072000"),
        ({"nginx_site_hsts_include_subdomains": True}, "max-age=63072000; includeSubDomains"),
        (
            {"nginx_site_hsts_include_subdomains": True, "nginx_site_hsts_preload": True},
            "max-age=63072000; includeSubDomains; preload",
        ),
    ],
    ids=str,
)
def test_hsts_value_follows_the_settings(site: Callable[..., str], given: dict[str, Any], value: str) -> None:
    assert f'"" "{value}";' in site(**given)


def _refuses(text: str, uri: str, raw: str, verify: str, remote: str = "192.0.2.7", own: str = "192.0.2.7") -> bool:
    """Whether nginx refuses a request without a valid certificate, according to the site's maps."""
    values = {"$uri": uri, "$request_uri": raw, "$ssl_client_verify": verify}
    values |= {"$realip_remote_addr": own, "$remote_addr": remote}
    for source, name, body in re.findall(r'^map "?([^"\n{]*?)"? (\$\S+) \{([^}]*)\}', text, re.MULTILINE):
        if "upstream_http" in source or "http_accept" in source:
            continue
        subject = source
        for variable in sorted(values, key=len, reverse=True):
            subject = subject.replace(variable, values[variable])
        chosen = ""
        for pattern, value in re.findall(r'^    "?(.*?)"? (\S+);$', body, re.MULTILINE):
            if pattern == "default":
                chosen = value
            elif pattern.startswith("~"):
                flags = re.IGNORECASE if pattern.startswith("~*") else re.NOFLAG
                # Python's \Z is PCRE's \z
                if re.search(pattern.lstrip("~*").replace(r"\z", r"\Z"), subject, flags):
                    chosen = value
                    break
            # nginx compares keys without regard to case
            elif pattern.lower() == subject.lower():
                chosen = value
                break
        values[name] = chosen
    return values["$baton_short_links_without_certificate"] == "1"


@pytest.mark.parametrize(
    ("uri", "raw", "refused"),
    [
        ("/", "/", False),
        ("/public", "/public?next=/admin/../x", False),
        ("/admin/a", "/admin/a", True),
        ("/admin", "/%61dmin", True),
        # the application normalises the path differently from nginx
        ("/public", "/admin/../public", True),
        ("/public", "/%61dmin/%2e%2E/public", True),
        ("/public", "/%61dmin/..%2Fpublic", True),
        ("/public", "/%61dmin%2f..", True),
        ("/a..b/c.", "/a..b/c.", False),
    ],
)
def test_certificate_is_required_for_listed_paths(site: Callable[..., str], uri: str, raw: str, refused: bool) -> None:
    text = site(nginx_site_client_certificates="optional", nginx_site_client_certificate_paths=["/admin"])
    assert _refuses(text, uri, raw, "NONE") is refused
    assert _refuses(text, uri, raw, "FAILED:expired") is refused
    assert _refuses(text, uri, raw, "SUCCESS") is False


def test_certificate_is_required_for_the_site_except_local_health_checks(site: Callable[..., str]) -> None:
    text = site(nginx_site_client_certificates="required", nginx_site_health_path="/readyz?full=1")
    assert _refuses(text, "/x", "/x", "NONE") is True
    assert _refuses(text, "/readyz", "/readyz", "NONE") is True
    assert _refuses(text, "/readyz", "/readyz?full=1", "NONE", "127.0.0.1", "127.0.0.1") is False
    for other in ("/x", "/READYZ", "/readyz/x"):
        assert _refuses(text, other, other, "NONE", "127.0.0.1", "127.0.0.1") is True
    # a client to which a proxy gives the host's address
    assert _refuses(text, "/readyz", "/readyz", "NONE", "127.0.0.1", "192.0.2.7") is True
    # a client behind a proxy on the host
    assert _refuses(text, "/readyz", "/readyz", "NONE", "192.0.2.7", "127.0.0.1") is True


def test_verified_identity_is_passed_on(site: Callable[..., str]) -> None:
    headers = _headers(site(nginx_site_client_certificates="optional"))
    assert headers["x-ssl-client-verify"] == "$ssl_client_verify"
    assert headers["x-ssl-client-s-dn"] == "$ssl_client_s_dn"
    assert headers["x-ssl-client-cert"] == '""'


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nginx_site_trusted_proxies": ["cdn.example.org"]}, '"cdn.example.org" is not an address'),
        ({"nginx_site_trusted_proxies": ["akamai"]}, '"akamai" is not an address'),
        ({"nginx_site_trusted_proxies": ["10.1.2.3/8"]}, "write 10.0.0.0/8"),
        ({"nginx_site_trusted_proxies": ["10.0.0.0/33"]}, '"10.0.0.0/33"'),
        ({"nginx_site_trusted_proxies": ["999.1.1.1"]}, '"999.1.1.1"'),
        ({"nginx_site_trusted_proxies": ["0.0.0.0/0"]}, "nginx_site_trusted_proxies_any"),
        ({"nginx_site_trusted_proxies": ["0.0.0.0/1", "128.0.0.0/1"]}, "128.0.0.0/1 contains foreign addresses"),
        ({"nginx_site_trusted_proxies": ["::/0"]}, "::/0 contains foreign addresses"),
        ({"nginx_site_trusted_proxies": ["cloudflare", "10.0.0.0/8"]}, "nginx_site_trusted_proxies_header"),
        ({"nginx_site_trusted_identity_headers": ["Remote-User"]}, "nginx_site_trusted_proxies"),
        (
            {"nginx_site_trusted_proxies": ["cloudflare"], "nginx_site_trusted_identity_headers": ["Remote-User"]},
            "a CDN passes on",
        ),
        (
            {"nginx_site_trusted_proxies": ["10.0.0.1"], "nginx_site_trusted_identity_headers": ["X-Forwarded-For"]},
            "nginx_site_trusted_identity_headers",
        ),
        ({"nginx_site_removed_headers": ["X Tenant"]}, "nginx_site_removed_headers"),
        ({"nginx_site_removed_headers": ["Host"]}, "nginx_site_removed_headers"),
        ({"nginx_site_proxy_protocol": True}, "nginx_site_trusted_proxies"),
        ({"nginx_site_hsts_preload": True}, "nginx_site_hsts_include_subdomains"),
        (
            {
                "nginx_site_hsts_preload": True,
                "nginx_site_hsts_include_subdomains": True,
                "nginx_site_hsts_max_age": 31535999,
            },
            "nginx_site_hsts_max_age",
        ),
        ({"nginx_site_client_certificates": "optional"}, "nginx_site_client_ca_source"),
        (
            {"nginx_site_client_certificates": "required", "nginx_site_client_ca_source": "/nowhere.pem"},
            "/nowhere.pem",
        ),
        ({"nginx_site_client_certificate_paths": ["/admin"]}, "nginx_site_client_certificate_paths"),
        ({"nginx_site_health_path": "readyz"}, "nginx_site_health_path"),
        ({"nginx_site_health_path": "/a\\b"}, "no space, quote, backslash"),
        ({"nginx_site_maintenance_allow": ["10.0.0.0/33"]}, "nginx_site_maintenance_allow"),
    ],
    ids=str,
)
def test_preflight_refuses(refusals: Callable[..., list[str]], given: dict[str, Any], words: str) -> None:
    (message,) = refusals(**given)
    assert message.startswith("edge1: ")
    assert words in message


def test_protected_path_that_nginx_would_read_differently_is_refused(refusals: Callable[..., list[str]]) -> None:
    messages = refusals(nginx_site_client_certificates="optional", nginx_site_client_certificate_paths=["/a\\b"])
    assert [message for message in messages if "_client_certificate_paths is [/a\\b]. Give paths" in message]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no "),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "number 1 can't be read"),
        (_certificate(authority=False), "CN=Clients isn't a certificate authority"),
        (_certificate(authority=True, days=-1), "CN=Clients expired on"),
        (_certificate(authority=True) + "-----BEGIN PRIVATE KEY-----\n", "private key"),
        (_certificate(authority=True) + _certificate(authority=False), "isn't a certificate authority"),
    ],
    ids=["empty", "garbage", "no authority", "ended", "key", "second"],
)
def test_file_without_a_valid_authority_is_refused(
    refusals: Callable[..., list[str]], tmp_path: pathlib.Path, text: str, words: str
) -> None:
    source = tmp_path / "clients.pem"
    source.write_text(text)
    (message,) = refusals(nginx_site_client_certificates="required", nginx_site_client_ca_source=str(source))
    assert "nginx_site_client_ca_source" in message
    assert words in message


def test_preflight_accepts(refusals: Callable[..., list[str]], tmp_path: pathlib.Path) -> None:
    source = tmp_path / "clients.pem"
    source.write_text(_certificate(authority=True) + _certificate(authority=True))
    ca = {"nginx_site_client_ca_source": str(source)}
    assert SITE["nginx_site_name"] == "short-links"
    for given in (
        {"nginx_site_trusted_proxies": ["cloudflare"]},
        {"nginx_site_trusted_proxies": ["10.0.0.0/8", "fd00::/8"]},
        {
            "nginx_site_trusted_proxies": ["cloudflare", "10.0.0.0/8", "2001:db8::/32"],
            "nginx_site_trusted_proxies_header": "X-Forwarded-For",
        },
        {"nginx_site_trusted_proxies": ["0.0.0.0/0", "::/0"], "nginx_site_trusted_proxies_any": True},
        {"nginx_site_trusted_proxies": ["10.0.0.1"], "nginx_site_trusted_identity_headers": ["Remote-User"]},
        {"nginx_site_trusted_proxies": ["10.0.0.1"], "nginx_site_proxy_protocol": True},
        {"nginx_site_hsts_preload": True, "nginx_site_hsts_include_subdomains": True},
        {"nginx_site_client_certificates": "optional", "nginx_site_client_certificate_paths": ["/admin"], **ca},
        {"nginx_site_client_certificates": "required", **ca},
    ):
        assert refusals(**given) == [], given
