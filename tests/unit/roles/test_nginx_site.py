"""One virtual host of nginx: what it forwards and to which servers, and what preflight refuses."""

from __future__ import annotations

import asyncio
import functools
import io
import re
from collections.abc import Callable
from typing import Any

import django.conf
import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from django.core.handlers.asgi import ASGIRequest
from django.test import override_settings
from stac_fastapi.api.middleware import ProxyHeaderMiddleware
from starlette.requests import Request

SITE: dict[str, Any] = {
    "nginx_site_name": "short-links",
    "nginx_site_server_names": ["links.example.org", "*.links.example.org"],
    "nginx_site_upstreams": ["unix:/run/short-links/web.sock"],
    "nginx_site_certificate": "/etc/ssl/baton/short-links/fullchain.pem",
    "nginx_site_certificate_key": "/etc/ssl/baton/short-links/privkey.pem",
}


@pytest.fixture
def site(load_role: Callable[[str], Any]) -> Callable[..., str]:
    def render(version: str = "1.22.1", **given: Any) -> str:
        about = {"rc": 0, "stderr": f"nginx version: nginx/{version}\n"}
        variables = {**SITE, "__nginx_site_about": about, **given}
        text: str = load_role("nginx_site").render("etc/nginx/sites-enabled/site.conf.j2", **variables)
        assert text.count("{") == text.count("}")
        return text

    return render


@pytest.fixture
def refusals(load_role: Callable[[str], Any]) -> Callable[..., list[str]]:
    def check(**given: Any) -> list[str]:
        role, variables = load_role("nginx_site"), {**SITE, **given}
        messages: list[str] = role.refusals(**variables)
        if given.get("nginx_site_state") != "absent":
            messages += role.refusals("tasks/preflight_identity.yml", **variables)
        return messages

    return check


@pytest.mark.parametrize(
    ("version", "directive"), [("1.22.1", False), ("1.24.0", False), ("1.25.1", True), ("1.26.3", True)]
)
def test_http2_syntax_depends_on_the_version(site: Callable[..., str], version: str, directive: bool) -> None:
    text = site(version)
    assert ("http2 on;" in text) is directive
    assert ("listen 443 ssl http2;" in text) is not directive


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Proto", "$scheme"),
        ("X-Forwarded-Host", "$host"),
        ("X-Forwarded-Port", '""'),
        ("X-Forwarded-Prefix", '""'),
        ("X-Real-IP", "$remote_addr"),
        ("X-Request-ID", "$request_id"),
        ("Forwarded", '""'),
        ("Proxy", '""'),
        ("Host", "$host"),
        ("Upgrade", "$baton_upgrade"),
        ("Connection", "$baton_connection"),
    ],
)
def test_forwarded_headers_are_set_and_never_appended(site: Callable[..., str], header: str, value: str) -> None:
    text = site()
    assert re.findall(rf"proxy_set_header {header} (.*);", text) == [value]
    assert "proxy_add_x_forwarded_for" not in text


def test_no_location_sets_headers(site: Callable[..., str]) -> None:
    # otherwise nginx would drop all headers that the server sets
    text = site(nginx_site_streaming_paths=["/events"], nginx_site_acme_challenge_directory="/var/www/acme")
    for location in re.findall(r"location [^{]*\{([^}]*)\}", text):
        assert "proxy_set_header" not in location
        assert "add_header" not in location


def test_public_port_is_in_redirect_and_host_header(site: Callable[..., str]) -> None:
    text = site(nginx_site_public_port=8443)
    assert "return 308 https://$host:8443$request_uri;" in text
    assert "proxy_set_header Host $host:8443;" in text
    assert "listen 443 ssl" in text


def _forwarded(text: str) -> dict[str, str]:
    """The headers that the application receives for a request to links.example.org."""
    variables = {"$host": "links.example.org", "$scheme": "https", "$remote_addr": "192.0.2.7"}
    headers = {}
    for name, value in re.findall(r"proxy_set_header (Host|X-Forwarded-\S+) (.*);", text):
        for variable, content in variables.items():
            value = value.replace(variable, content)
        if value != '""':
            headers[name.lower()] = value
    return headers


def _scope(headers: dict[str, str]) -> dict[str, Any]:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    given: dict[str, Any] = {"method": "GET", "path": "/a", "raw_path": b"/a", "query_string": b"", "root_path": ""}
    return {"type": "http", "http_version": "1.1", "scheme": "https", "server": None, "headers": listed, **given}


def _read_by_starlette(headers: dict[str, str]) -> str:
    return str(Request(_scope(headers)).url)


def _read_by_stac_fastapi(headers: dict[str, str]) -> str:
    urls = []

    async def application(scope: Any, *_: Any) -> None:
        urls.append(str(Request(scope).url))

    asyncio.run(ProxyHeaderMiddleware(application)(_scope(headers), None, None))  # type: ignore[arg-type]
    return urls[0]


def _read_by_django(headers: dict[str, str], host: bool, port: bool) -> str:
    if not django.conf.settings.configured:
        django.conf.settings.configure(ALLOWED_HOSTS=["*"], SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
    with override_settings(USE_X_FORWARDED_HOST=host, USE_X_FORWARDED_PORT=port):
        return str(ASGIRequest(_scope(headers), io.BytesIO()).build_absolute_uri("/a"))


@pytest.mark.parametrize(("port", "site_address"), [(443, "links.example.org"), (8443, "links.example.org:8443")])
@pytest.mark.parametrize(
    "read",
    [
        _read_by_starlette,
        _read_by_stac_fastapi,
        *(functools.partial(_read_by_django, host=host, port=port) for host in (False, True) for port in (False, True)),
    ],
    ids=["starlette", "stac-fastapi", "django", "django port", "django host", "django host and port"],
)
def test_frameworks_build_the_url_that_the_client_used(
    site: Callable[..., str], read: Callable[[dict[str, str]], str], port: int, site_address: str
) -> None:
    assert read(_forwarded(site(nginx_site_public_port=port))) == f"https://{site_address}/a"


def test_redirect_keeps_host_and_path(site: Callable[..., str]) -> None:
    assert "return 301 https://$host$request_uri;" in site(nginx_site_redirect_status=301)


@pytest.mark.parametrize(("backend", "upstream"), [(3, 1), (10, 2), (75, 15)])
def test_nginx_closes_idle_connections_before_the_backend(
    site: Callable[..., str], backend: int, upstream: int
) -> None:
    assert f"    keepalive_timeout {upstream}s;" in site(nginx_site_backend_keepalive=backend)


def test_upstream_keepalive_can_be_disabled(site: Callable[..., str]) -> None:
    assert "keepalive" not in site(nginx_site_upstream_keepalive=0)


def test_several_upstreams_share_the_load(site: Callable[..., str]) -> None:
    text = site(nginx_site_upstreams=["10.0.0.21:8000", "[fd00::22]:8000"])
    block = text[text.index("upstream short-links {") : text.index("}")]
    assert re.findall(r"server (\S+) max_fails=0;", block) == ["10.0.0.21:8000", "[fd00::22]:8000"]
    # nginx requires the method before keepalive
    assert block.index("least_conn") < block.index("keepalive")


TLS: dict[str, Any] = {
    "nginx_site_upstreams": ["10.0.0.21:8443", "10.0.0.22:8443"],
    "nginx_site_upstream_tls_name": "app.internal",
    "nginx_site_upstream_ca_source": "/nonexistent/ca.pem",
    "nginx_site_upstream_certificate": "/etc/ssl/edge/fullchain.pem",
    "nginx_site_upstream_certificate_key": "/etc/ssl/edge/privkey.pem",
    # every way to the upstreams
    "nginx_site_health_path": "/readyz",
    "nginx_site_unlimited_paths": ["/metrics"],
    "nginx_site_streaming_paths": ["/events"],
    "nginx_site_workers": {"10.0.0.21:8443": 2},
}


def test_every_request_goes_to_upstreams_that_are_verified(site: Callable[..., str]) -> None:
    text = site(**TLS)
    schemes = re.findall(r"proxy_pass (\w+)://", text)
    assert len(schemes) > 3
    assert set(schemes) == {"https"}
    assert re.findall(r"proxy_ssl_(verify|name|certificate) (.*);", text) == [
        ("name", "app.internal"),
        ("verify", "on"),
        ("certificate", "/etc/ssl/edge/fullchain.pem"),
    ]
    assert "proxy_ssl_trusted_certificate /etc/nginx/upstream-ca/short-links.pem;" in text
    plain = site(**{**TLS, "nginx_site_upstream_tls_name": ""})
    assert set(re.findall(r"proxy_pass (\w+)://", plain)) == {"http"}
    assert "proxy_ssl" not in plain


@pytest.mark.parametrize(
    "given",
    [
        {"nginx_site_upstream_tls_name": "app internal"},
        {"nginx_site_upstream_ca_source": ""},
        {"nginx_site_upstream_certificate": "edge.pem"},
        {"nginx_site_upstream_certificate_key": ""},
    ],
    ids=str,
)
def test_tls_to_upstreams_that_could_not_be_verified_is_refused(
    refusals: Callable[..., list[str]], given: dict[str, Any]
) -> None:
    assert refusals(**TLS) == []
    (message,) = refusals(**{**TLS, **given})
    assert "short-links can't connect to its upstreams by TLS" in message


def test_each_wrong_setting_of_upstreams_and_clients_is_reported_by_itself(refusals: Callable[..., list[str]]) -> None:
    wrong = {"nginx_site_upstream_certificate": "a", "nginx_site_upstream_certificate_key": "b"}
    assert [message.partition("TLS: ")[2].split()[0] for message in refusals(**{**TLS, **wrong})] == list(wrong)
    clients = {"nginx_site_client_certificate_paths": ["a"], "nginx_site_client_certificates": "required"}
    messages = refusals(**clients)
    assert [message.split()[2] for message in messages] == [
        "nginx_site_client_ca_source",
        *["nginx_site_client_certificate_paths"] * 2,
    ]
    names = refusals(nginx_site_name="Links", nginx_site_server_names=[])
    assert [message.split()[1] for message in names] == ["nginx_site_name", "nginx_site_server_names"]


def test_verification_can_not_be_switched_off_by_the_way(refusals: Callable[..., list[str]]) -> None:
    (message,) = refusals(nginx_site_directives={"proxy_ssl_verify": "off"})
    assert "proxy_ssl_verify is written by the role (nginx_site_upstream_tls_name)" in message


def test_server_marked_down_gets_no_requests(site: Callable[..., str]) -> None:
    text = site(nginx_site_upstreams=["10.0.0.21:8000", "10.0.0.22:8000"], nginx_site_down=["10.0.0.22:8000"])
    # the same format as marks of a drain
    assert upstream.servers(text, "short-links") == {"10.0.0.21:8000": False, "10.0.0.22:8000": True}


@pytest.mark.parametrize(("retries", "directive"), [(True, "error timeout"), (False, "off")])
def test_retries_can_be_disabled(site: Callable[..., str], retries: bool, directive: str) -> None:
    text = site(nginx_site_retries=retries)
    assert re.findall(r"proxy_next_upstream (.*);", text) == [directive]
    assert "non_idempotent" not in text


def test_retries_are_limited_in_number_and_time(site: Callable[..., str]) -> None:
    text = site()
    bounds = dict(re.findall(r"^ +(proxy_connect_timeout|proxy_next_upstream_\w+) (.*);$", text, re.MULTILINE))
    assert bounds == {
        "proxy_connect_timeout": "5s",
        "proxy_next_upstream_tries": "2",
        "proxy_next_upstream_timeout": "10s",
    }
    assert "proxy_connect_timeout 2s;" in site(nginx_site_connect_timeout=2)


def test_nginx_errors_carry_the_request_id(site: Callable[..., str]) -> None:
    # without `always`, only successes get it; a location with headers of its own would lose it
    (line,) = re.findall(r"^ *add_header X-Request-ID .*$", site(), re.MULTILINE)
    assert line == "    add_header X-Request-ID $request_id always;"


def test_maintenance_page_is_internal(site: Callable[..., str]) -> None:
    locations = re.findall(r"location (?:= )?/\.baton-maintenance/ \{([^}]*)\}", site())
    assert len(locations) == 2
    assert ["internal;" in location.split("\n        ") for location in locations] == [True, True]


def test_streaming_path_is_not_buffered(site: Callable[..., str]) -> None:
    text = site(nginx_site_streaming_paths=["/events", "/feed"], nginx_site_streaming_read_timeout=90)
    for path in ("/events", "/feed"):
        location = re.search(rf"location {path} \{{([^}}]*)\}}", text)
        assert location is not None
        assert "proxy_buffering off;" in location.group(1)
        assert "proxy_read_timeout 90s;" in location.group(1)
        assert "proxy_pass http://short-links;" in location.group(1)


def test_whole_site_may_stream(site: Callable[..., str]) -> None:
    tls = site(nginx_site_streaming_paths=["/"]).split("server {")[2]
    assert tls.count("location / {") == 1


def test_maintenance_is_checked_per_request_and_exempts_listed_clients(site: Callable[..., str]) -> None:
    text = site(nginx_site_maintenance_allow=["192.0.2.0/24", "2001:db8::1"], nginx_site_maintenance_retry_after=90)
    assert "if (!-f /var/lib/nginx-site/short-links/maintenance) {" in text
    (closed,) = re.findall(r"geo \$baton_short_links_closed \{([^}]*)\}", text)
    # the host itself is exempt, so that a deploy can be checked during maintenance
    passing = ["127.0.0.1 0;", "::1 0;", "192.0.2.0/24 0;", "2001:db8::1 0;\n"]
    assert [line for line in closed.split("\n    ")[1:] if not line.startswith("#")] == ["default 1;", *passing]
    assert "set $baton_retry_after 90;" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"nginx_site_maintenance_allow": ["office.example.org"]},
            'nginx_site_maintenance_allow can\'t be used: "office.example.org" is not an address',
        ),
        ({"nginx_site_maintenance_retry_after": 0}, "nginx_site_maintenance_retry_after is 0"),
        ({"nginx_site_maintenance_page": "/nowhere.html"}, 'nginx_site_maintenance_page is "/nowhere.html"'),
    ],
)
def test_invalid_maintenance_settings_are_refused(
    refusals: Callable[..., list[str]], given: dict[str, Any], words: str
) -> None:
    (message,) = refusals(**given)
    assert words in message


@pytest.mark.parametrize(("age", "sent"), [(63072000, True), (0, False)])
def test_hsts_is_sent_unless_it_is_zero(site: Callable[..., str], age: int, sent: bool) -> None:
    text = site(nginx_site_hsts_max_age=age)
    assert ("add_header Strict-Transport-Security" in text) is sent
    assert (f'"max-age={age}"' in text) is sent


def test_application_header_overrides_the_sites(site: Callable[..., str]) -> None:
    text = site(nginx_site_response_headers={"X-Frame-Options": "DENY"}, nginx_site_hsts_max_age=0)
    assert re.search(
        r'map \$upstream_http_x_frame_options \$baton_short_links_header_1 \{\s+default "";\s+"" "DENY";\s+\}', text
    )
    assert "add_header X-Frame-Options $baton_short_links_header_1 always;" in text


def _tls(text: str) -> str:
    return text.split("server {")[2]


def test_response_header_size_can_be_raised(site: Callable[..., str]) -> None:
    text = _tls(site(nginx_site_response_header_size="64k"))
    sizes = dict(re.findall(r"    (proxy_\w*buffer\w*) (.*);", text))
    assert sizes == {
        "proxy_request_buffering": "on",
        "proxy_buffer_size": "64k",
        "proxy_buffers": "8 64k",
        "proxy_busy_buffers_size": "128k",
    }


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({"proxy_buffer_size": "32k"}, ["proxy_buffer_size 32k;"]),
        ({"gzip_min_length": 256}, ["gzip_min_length 256;"]),
        ({"gzip_proxied": None}, []),
        ({"limit_req": ["zone=a burst=5", "zone=b"]}, ["limit_req zone=a burst=5;", "limit_req zone=b;"]),
        ({"send_timeout": "10s"}, ["send_timeout 10s;"]),
    ],
    ids=str,
)
def test_directive_can_be_replaced_added_or_removed(
    site: Callable[..., str], given: dict[str, Any], lines: list[str]
) -> None:
    (name,) = given
    text = _tls(site(nginx_site_directives=given))
    assert [line.strip() for line in text.splitlines() if re.match(rf"    {name} ", line)] == lines


def test_no_directive_is_repeated(site: Callable[..., str]) -> None:
    own = re.findall(r"^    (\w+) ", _tls(site()), re.MULTILINE)
    repeated = {"listen", "add_header", "proxy_set_header", "set", "if", "location", "limit_req"}
    assert sorted(set(own) - repeated) == sorted(name for name in own if name not in repeated)


def test_every_directive_of_the_role_can_be_changed(site: Callable[..., str], load_role: Callable[[str], Any]) -> None:
    reserved = load_role("nginx_site").load("vars/main.yml")["__nginx_site_reserved_directives"]
    specs = load_role("nginx_site").entry_points["main"]["options"]
    assert {setting for setting in reserved.values() if setting} <= set(specs)
    for name in set(re.findall(r"^    (proxy_\w+|gzip\w*|client_\w+) ", _tls(site()), re.MULTILINE)) - set(reserved):
        assert f"    {name} changed;" in _tls(site(nginx_site_directives={name: "changed"}))


def test_zones_are_declared_before_the_servers(site: Callable[..., str]) -> None:
    zone = "limit_req_zone $binary_remote_addr zone=a:1m rate=5r/s;"
    text = site(nginx_site_extra_http_configuration=f"{zone}\n")
    assert text.index(zone) < text.index("server {")


def test_trusted_proxy_determines_the_client_address(site: Callable[..., str]) -> None:
    text = _tls(site(nginx_site_trusted_proxies=["192.0.2.0/24", "2001:db8::/32"]))
    for line in ("set_real_ip_from 192.0.2.0/24;", "set_real_ip_from 2001:db8::/32;", "real_ip_recursive on;"):
        assert f"    {line}" in text
    assert "    real_ip_header X-Forwarded-For;" in text
    assert "real_ip" not in site()


def test_acme_challenges_are_served_before_the_redirect(site: Callable[..., str]) -> None:
    plain = site(nginx_site_acme_challenge_directory="/var/www/acme").split("server {")[1]
    assert "location ^~ /.well-known/acme-challenge/ {" in plain
    assert "root /var/www/acme;" in plain
    assert "limit_conn short-links.connections.acme 100;" in plain
    assert "acme-challenge/ {" not in site()


def test_edges_answer_each_others_challenges(site: Callable[..., str]) -> None:
    state = "/var/lib/acme-certificate/links"
    alone = site(nginx_site_acme_state_directory=state)
    assert f"root {state}/challenges;" in alone
    assert "acme_peers" not in alone
    assert "acme-certificate {" not in alone
    text = site(nginx_site_acme_state_directory=state, nginx_site_acme_peers=["10.0.0.2", "10.0.0.3"])
    assert "server 10.0.0.2:80 max_fails=0;" in text
    plain = text.split("server {")[1]
    # a request from another edge isn't forwarded again
    peers = plain.split("location @acme_peers {")[1].split("location ")[0]
    assert "if ($http_x_baton_acme)" in peers
    assert "proxy_set_header X-Baton-Acme 1;" in peers
    # only these edges may read the encrypted key
    bundle = plain.split("location = /.well-known/acme-certificate {")[1].split("alias")[0]
    assert "_is_acme_client) {\n            return 403;" in bundle
    assert f"alias {state}/bundle;" in plain


def test_extra_configuration_is_part_of_the_tls_server(site: Callable[..., str]) -> None:
    tls = site(nginx_site_extra_configuration="location = /x {\n    return 204;\n}\n").split("server {")[2]
    assert "    location = /x {\n        return 204;\n    }\n" in tls


HOSTS = ("links.example.org", "LINKS.example.org.", "a_b.example.org:8443", "a:", "a:65535", "")
NO_PORTS = ("links.example.org:text", "a:443@b", "a:443:443", "a:-1", "a:999999", "a:4 4")
# nginx matches the first ones with *.example.org
NO_NAMES = ("evil.example#.example.org", "evil?.example.org", "a@b.example.org", "[::1]", "\xe4")


@pytest.mark.parametrize(
    ("host", "accepted"), [*((host, True) for host in HOSTS), *((host, False) for host in NO_PORTS + NO_NAMES)]
)
def test_only_a_name_with_a_port_is_a_host(site: Callable[..., str], host: str, accepted: bool) -> None:
    servers = site().split("\nserver {")[1:]
    assert len(servers) == 2
    for server in servers:
        pattern, action = re.findall(r'if \(\$http_host !~ "(.*)"\) \{\n +(.*)\n', server)[0]
        assert action == "return 400;"
        assert (re.search(pattern, host) is not None) is accepted


def test_two_sites_share_no_name(site: Callable[..., str]) -> None:
    def names(text: str) -> set[str]:
        return set(re.findall(r"^(?:upstream| +zone|map \S+) (\S+)", text, re.MULTILINE)) | set(
            re.findall(r"/var/log/\S+", text)
        )

    assert not names(site()) & names(site(nginx_site_name="other"))


def test_captures_have_valid_names_whatever_the_sites_name(site: Callable[..., str]) -> None:
    captures = re.findall(r"\(\?<(\w+)>", site(nginx_site_name="a" * 31))
    assert captures
    assert max(map(len, captures)) <= 32  # PCRE's limit


@pytest.mark.parametrize(
    "changed",
    [
        {"nginx_site_name": "Links"},
        {"nginx_site_server_names": []},
        {"nginx_site_server_names": ["10.0.0.1"]},
        {"nginx_site_server_names": ["fd00::1"]},
        {"nginx_site_server_names": ["links.example.org; return 200"]},
        {"nginx_site_server_names": ["~^(.*)$"]},
        {"nginx_site_upstreams": []},
        {"nginx_site_upstreams": ["10.0.0.21"]},
        {"nginx_site_upstreams": ["unix:run/web.sock"]},
        {"nginx_site_client_max_body_size": "10 MB"},
        {"nginx_site_backend_keepalive": 2},
        {"nginx_site_streaming_paths": ["events"]},
        {"nginx_site_certificate": "fullchain.pem"},
        {"nginx_site_response_headers": {"X-A": 'say "hi"'}},
        {"nginx_site_response_headers": {"X-A": "$host"}},
        {"nginx_site_response_headers": {"X A": "b"}},
        {"nginx_site_response_headers": {"X-A": "b\n"}},
        {"nginx_site_response_headers": {"X-A": "b\r"}},
        {"nginx_site_response_headers": {"X-A\n": "b"}},
        {"nginx_site_certificate": "/fullchain.pem\n"},
        {"nginx_site_response_header_size": "16 kB"},
        {"nginx_site_response_header_size": "16"},
        {"nginx_site_response_header_size": "64m"},
        {"nginx_site_client_max_body_size": "10"},
        {"nginx_site_client_max_body_size": "9999999999g"},
        *({f"nginx_site_{kind}_timeout": 0} for kind in ("connect", "read", "send", "client_body", "client_send")),
        {"nginx_site_streaming_read_timeout": "{{ 0 }}"},
        {"nginx_site_client_burst": -1},
        {"nginx_site_maintenance_retry_after": 0},
        {"nginx_site_gzip_types": ["text/plain; gzip off"]},
        {"nginx_site_trusted_proxies": ["cdn.example.org"]},
        {"nginx_site_trusted_proxies_header": "X Forwarded"},
        {"nginx_site_directives": {"listen": 444}},
        {"nginx_site_directives": {"proxy_buffering": False}},
        {"nginx_site_directives": {"send_timeout": {"seconds": 3}}},
        {"nginx_site_directives": {"send_timeout": "3s; return 200"}},
        {"nginx_site_directives": {"Send-Timeout": "3s"}},
        {"nginx_site_directives": {"send_timeout": "3s\x1b"}},
        {"nginx_site_directives": {"send_timeout\n": "3s"}},
        {"nginx_site_directives": {"error_log": ['"/a"', '"/b']}},
        {"nginx_site_directives": {"error_log": "/a\\"}},
        {"nginx_site_extra_configuration": "location /x {\n    return 204;\n"},
        {"nginx_site_extra_http_configuration": "geo $x { default 1; }\nmap_hash_max_size 4096"},
        {"nginx_site_http_port": 443},
    ],
    ids=str,
)
def test_preflight_refuses(refusals: Callable[..., list[str]], changed: dict[str, Any]) -> None:
    messages = refusals(**changed)
    assert len(messages) == 1
    assert messages[0].startswith("edge1: ")
    assert next(iter(changed)) in messages[0]


def test_message_names_only_the_wrong_settings(refusals: Callable[..., list[str]]) -> None:
    assert refusals(nginx_site_gzip_types=["text/x", "a b"], nginx_site_response_headers={"A": 1, "B": "$x"}) == [
        "edge1: short-links: nginx_site_gzip_types has a b. Give types such as application/json.",
        'edge1: short-links: nginx_site_response_headers has B. Give names of letters, digits and "-", and values '
        'without quotes, "$", backslashes and control characters.',
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"nginx_site_server_names": ["localhost"]},
        {"nginx_site_upstreams": ["10.0.0.21:8000", "app2.internal:8000", "[fd00::22]:8000"]},
        {"nginx_site_upstream_keepalive": 0, "nginx_site_backend_keepalive": 2},
        {"nginx_site_response_headers": {"Content-Security-Policy": "default-src 'self'; img-src *"}},
        {"nginx_site_state": "absent", "nginx_site_upstreams": []},
        {"nginx_site_client_max_body_size": "0", "nginx_site_client_rate": "30r/m"},
        {"nginx_site_response_header_size": "64k", "nginx_site_trusted_proxies": ["192.0.2.0/24", "2001:db8::1"]},
        {"nginx_site_directives": {"proxy_buffering": "off", "gzip_vary": None, "limit_req": ["zone=a", "zone=b"]}},
    ],
    ids=str,
)
def test_preflight_accepts(refusals: Callable[..., list[str]], given: dict[str, Any]) -> None:
    assert refusals(**given) == []


WORKERS = {"nginx_site_workers": {"unix:/run/short-links/web.sock": 3}, "nginx_site_worker_requests": 20}


def test_servers_get_at_most_as_many_requests_as_their_workers_take(site: Callable[..., str]) -> None:
    text = site(**WORKERS, nginx_site_health_path="/readyz?full=1", nginx_site_streaming_paths=["/events"])
    upstreams = dict(re.findall(r"^upstream (\S+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    assert list(upstreams) == ["short-links", "short-links.uncounted", "short-links.health"]
    for limited in ("short-links", "short-links.health"):
        assert "server unix:/run/short-links/web.sock max_fails=0 max_conns=60;" in upstreams[limited]
    assert "max_conns" not in upstreams["short-links.uncounted"]
    passed = dict(re.findall(r"location ([^{]+) \{\s+proxy_pass http://(\S+);", text))
    # health checks have a limit of their own, and long-lived connections aren't limited
    assert passed == {
        "= /readyz": "$baton_short_links_upstream_health",
        "/events": "short-links.uncounted",
        "/": "$baton_short_links_upstream",
    }
    assert re.search(
        r'map \$baton_upgrade \$baton_short_links_upstream \{\s+default short-links.uncounted;\s+"" short-links;', text
    )
    assert re.search(
        r'map \$baton_upgrade \$\w+_upstream_health \{\s+default short-links.uncounted;\s+"" short-links.health;', text
    )
    # excess requests of each upstream get a 503
    (surplus,) = re.findall(r"map \$upstream_addr \$baton_short_links_surplus \{(.*?)\}", text, re.DOTALL)
    assert re.findall(r'"(\S+)" surplus;', surplus) == ["short-links", "short-links.health"]


@pytest.mark.parametrize("off", [{"nginx_site_worker_requests": 0}, {"nginx_site_workers": {}}], ids=str)
def test_unlimited_site_has_one_upstream(site: Callable[..., str], off: dict[str, Any]) -> None:
    text = site(**{**WORKERS, **off}, nginx_site_health_path="/readyz")
    assert "max_conns" not in text
    assert "uncounted" not in text
    assert "proxy_pass http://short-links;" in text


@pytest.mark.parametrize("limits", [WORKERS, {}], ids=["limited", "unlimited"])
def test_health_checks_use_new_connections(site: Callable[..., str], limits: dict[str, Any]) -> None:
    """On a keep-alive connection, an old worker answers that it is draining although its successors serve."""
    text = site(**limits, nginx_site_health_path="/readyz")
    blocks = dict(re.findall(r"^upstream (\S+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    assert [name for name, block in blocks.items() if "keepalive" not in block] == ["short-links.health"]
    assert "    location = /readyz {\n        proxy_pass http://$baton_short_links_upstream_health;\n" in text
    assert re.search(r'map \$baton_upgrade \$\w+_upstream_health \{\s+default \S+;\s+"" short-links.health;', text)
    assert ".health" not in site(**limits)


def test_draining_applies_to_every_upstream(site: Callable[..., str]) -> None:
    text = site(
        nginx_site_health_path="/readyz",
        nginx_site_upstreams=["10.0.0.21:8000", "10.0.0.22:8000"],
        nginx_site_down=["10.0.0.22:8000"],
        nginx_site_workers={"10.0.0.21:8000": 3},
        nginx_site_worker_requests=20,
    )
    for name in ("short-links", "short-links.uncounted", "short-links.health"):
        assert upstream.servers(text, name) == {"10.0.0.21:8000": False, "10.0.0.22:8000": True}
    assert "10.0.0.22:8000 max_fails=0 max_conns=60 down;" in text  # the lowest limit of the other servers


def test_limits_count_by_client_address(site: Callable[..., str]) -> None:
    text = site(
        nginx_site_trusted_proxies=["192.0.2.0/24"],
        nginx_site_unlimited_clients=["198.51.100.7"],
        nginx_site_unlimited_paths=["/healthz"],
        nginx_site_health_path="/readyz",
        nginx_site_path_limits={"/log.in": {"rate": "10r/m", "burst": 5, "connections": 3}},
    )
    tls = _tls(text)
    for line in (
        "limit_req zone=short-links.rate burst=1000 nodelay;",
        "limit_req zone=short-links.rate.1 burst=5 nodelay;",
        "limit_conn short-links.connections 200;",
        "limit_conn short-links.connections.1 3;",
        "limit_req_status 429;",
        "limit_conn_status 429;",
    ):
        assert tls.count(f"    {line}\n") == 1
    unlimited = re.search(r"geo \$baton_short_links_is_limited \{(.*?)\}", text, re.DOTALL)
    assert unlimited is not None
    assert re.findall(r"(\S+) 0;", unlimited[1]) == ["127.0.0.1", "::1", "192.0.2.0/24", "198.51.100.7"]
    for path in ("/readyz", "/healthz"):
        assert text.count(rf'    "~^1{path}\z" "";') == 2
    assert r'"~^1/log\.in" $baton_short_links_network;' in text
    assert r'"~^/log\.in" 6;' in text
    assert '"~REJECTED" $baton_short_links_wait;' in text


def _map(text: str, name: str) -> tuple[str, dict[str, str]]:
    """The source variables of a map in nginx's configuration, and its entries."""
    found = re.search(rf"map (\S+) \${name} \{{(.*?)\n\}}", text, re.DOTALL)
    assert found is not None
    return found[1], dict(re.findall(r"^ +(\S+) (\S+);", found[2], re.MULTILINE))


def test_handshakes_and_health_checks_have_limits_of_their_own(site: Callable[..., str]) -> None:
    text = site(
        nginx_site_health_path="/readyz",
        nginx_site_unlimited_paths=["/feed"],
        nginx_site_health_rate="60r/m",
        nginx_site_websocket_rate="6r/m",
        **WORKERS,
    )
    source, entries = _map(text, "baton_short_links_client")
    assert source == "$baton_short_links_is_limited$baton_upgrade$uri"
    # a handshake for the health page counts as one of the client's handshakes
    assert [key for key, value in entries.items() if value == '""'] == [
        '"~^0"',
        r'"~^1/readyz\z"',
        r'"~^1/feed\z"',
        r'"~^1websocket/feed\z"',
    ]
    assert _map(text, "baton_short_links_client_websocket") == (
        "$baton_upgrade",
        {"default": "$baton_short_links_client", '""': '""'},
    )
    assert _map(text, "baton_short_links_client_health") == (
        "$baton_short_links_is_limited$uri",
        {"default": '""', r'"~^1/readyz\z"': "$baton_short_links_network"},
    )
    for zone in (
        "websocket zone=short-links.rate.websockets:10m rate=6r/m",
        "health zone=short-links.rate.health:10m rate=60r/m",
    ):
        assert text.count(f"limit_req_zone $baton_short_links_client_{zone};") == 1
    # a zone can be used only once
    names = re.findall(r"(?:^ +zone |zone=)([^ :;]+)(?= \d+k;|:10m)", text, re.MULTILINE)
    assert len(names) == len(set(names)) == 7
    tls = _tls(text)
    assert "    limit_req zone=short-links.rate.websockets burst=45 nodelay;\n" in tls
    assert "    limit_req zone=short-links.rate.health burst=1000 nodelay;\n" in tls
    # Retry-After matches the exceeded limit
    _, waits = _map(text, "baton_short_links_wait")
    assert waits == {'"~^websocket"': "10", r'"~^/readyz\z"': "1", '"~^/"': "1"}


def test_site_without_a_health_page_has_no_health_limits(site: Callable[..., str]) -> None:
    text = site(**WORKERS)
    assert "health" not in text


def test_client_limits_can_be_disabled(site: Callable[..., str]) -> None:
    text = site(nginx_site_client_rate="0", nginx_site_client_connections=0)
    assert not re.search(r"^ *(limit_req|limit_conn|limit_req_zone|limit_conn_zone) ", text, re.MULTILINE)


def test_body_size_depends_on_the_path(site: Callable[..., str]) -> None:
    text = _tls(site(nginx_site_path_limits={"/upload": {"body": "1g"}}))
    assert re.search(r"location /upload \{[^}]*client_max_body_size 1g;", text)
    assert "    client_max_body_size 10m;\n" in text


def test_preflight_names_each_invalid_limit(load_role: Callable[[str], Any]) -> None:
    given = {**SITE, "nginx_site_client_rate": "many", "nginx_site_worker_requests": 1}
    rate, workers = load_role("nginx_site").refusals("tasks/preflight_limits.yml", **given)
    assert rate.startswith("edge1: nginx_site_client_rate is")
    assert workers.startswith("edge1: nginx_site_worker_requests is 1")
    assert load_role("nginx_site").refusals("tasks/preflight_limits.yml", **SITE) == []
