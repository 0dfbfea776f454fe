"""Rendered files don't depend on the order of a set, which differs between processes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[3]
# renders every template of every role, with several entries in each list or mapping that templates iterate over
RENDER = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from ansible.plugins.loader import init_plugin_loader
from tests.unit.roles.conftest import ROLES, Role
init_plugin_loader()
GIVEN = json.loads(sys.argv[2])
found = {}
for path in sorted(ROLES.glob("*/templates/**/*.j2")):
    role = Role(path.relative_to(ROLES).parts[0])
    template = str(path.relative_to(role.path / "templates"))
    if path.name.startswith("_"):
        continue
    variables = dict(GIVEN)
    if role.name == "app_service":
        variables["__app_service_unit"] = role.value("__app_service_units", **GIVEN)[0]
        for kind, all_of_it in (("process", "processes"), ("schedule", "schedules")):
            ((name, one),) = role.value(f"__app_service_{all_of_it}", **GIVEN).items()
            variables[f"__app_service_{kind}"] = {"key": name, "value": one}
    found[str(path.relative_to(ROLES))] = role.render(template, **variables)
print(json.dumps(found))
"""
NAMES = ["delta", "alpha", "charlie", "bravo", "echo"]
GIVEN = {
    "app_name": "links",
    "app_service_credentials": NAMES,
    "app_service_migration_credentials": ["alpha", "golf", "foxtrot"],
    "app_service_migration_command": "true",
    "app_service_process_environment": dict.fromkeys(NAMES, "x"),
    "app_service_forwarded_allow_ips": ["10.0.0.3", "10.0.0.1", "10.0.0.2"],
    "app_service_allowed_addresses": ["10.0.0.3", "10.0.0.4"],
    "app_service_directives": {"ReadWritePaths": [f"/srv/{name}" for name in NAMES]},
    "app_processes": {"worker": {"command": "x", "environment": dict.fromkeys(NAMES, "x")}},
    "app_schedules": {"cleanup": {"command": "x", "calendar": "daily", "environment": dict.fromkeys(NAMES, "x")}},
    "app_config_environment": dict.fromkeys(NAMES, "x"),
    "nginx_site_name": "links",
    "nginx_tls_port_name": "links",
    "nginx_tls_port_listen": "10.0.0.1:2",
    "nginx_tls_port_upstream": "10.0.0.1:1",
    "nginx_tls_port_certificate": "/a.pem",
    "nginx_tls_port_certificate_key": "/b.pem",
    "nginx_tls_port_client": "edges",
    "tls_certificate_name": "links",
    "tls_certificate_names": [f"{name}.example.org" for name in NAMES],
    "tls_certificate_acme_challenge": "dns-01",
    "tls_certificate_acme_dns_provider": "rfc2136",
    "tls_certificate_acme_dns_credentials": dict.fromkeys(NAMES, "x"),
    "nginx_site_server_names": [f"{name}.example.org" for name in NAMES],
    "nginx_site_upstreams": ["10.0.0.3:1", "10.0.0.1:1", "10.0.0.2:1"],
    "nginx_site_down": ["10.0.0.1:1"],
    "nginx_site_certificate": "/a.pem",
    "nginx_site_certificate_key": "/b.pem",
    "nginx_site_trusted_proxies": ["10.0.0.3", "10.0.0.1", "10.0.0.2"],
    "nginx_site_trusted_identity_headers": [f"X-Trusted-{name}" for name in NAMES],
    "nginx_site_removed_headers": [f"X-Removed-{name}" for name in NAMES],
    "nginx_site_client_certificates": "optional",
    "nginx_site_client_certificate_paths": [f"/{name}" for name in NAMES],
    "nginx_site_response_headers": {f"X-{name}": "x" for name in NAMES},
    "__nginx_server_about": {"rc": 0, "stderr": "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15 3 Sep 2024"},
    "__nginx_site_about": {"rc": 0, "stderr": "nginx version: nginx/1.22.1"},
}


def rendered(seed: str) -> str:
    words = [sys.executable, "-c", RENDER, str(PROJECT), json.dumps(GIVEN)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(words, cwd=PROJECT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rendered_files_are_the_same_in_every_process() -> None:
    first, *others = (rendered(seed) for seed in ("1", "2", "3", "4"))
    assert "LoadCredential" in first
    assert set(others) == {first}


def test_set_filters_are_sorted() -> None:
    """These filters use a set, whose order differs between processes."""
    unordered = re.compile(r"\|\s*(difference|union|intersect|symmetric_difference)\s*\(")
    harmless = re.compile(r"\|\s*(length|sort)\b")
    files = [*PROJECT.glob("roles/**/*.j2"), *PROJECT.glob("roles/*/vars/*.yml"), *PROJECT.glob("roles/*/tasks/*.yml")]
    assert [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path in sorted(files)
        for line in path.read_text().splitlines()
        if unordered.search(line) and not harmless.search(line)
    ] == []
