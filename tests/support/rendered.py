"""The files that the roles write, with owners and modes, and the rendered templates.

A test compares them with those in tests/unit/roles/rendered, without comments. The diff of a change to a template shows
its effect on a host there.

    .venv/bin/python -m tests.support.rendered      # writes them again
"""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from tests.unit.roles.conftest import ROLES, Role

FOLDER = ROLES.parent / "tests/unit/roles/rendered"
NGINX_VERSION = {"rc": 0, "stderr": "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15 3 Sep 2024"}
# variables that have no default or come from the host
LEAST: dict[str, Any] = {
    "app_name": "links",
    "app_service_credentials": ["TOKEN"],
    "app_service_migration_command": "migrate",
    "app_processes": {"worker": {"command": "work", "check": "ping"}},
    "app_schedules": {"cleanup": {"command": "clean", "calendar": "daily"}},
    "app_config_environment": {"GREETING": "hello"},
    "app_config_secrets": {"TOKEN": "x"},
    "nginx_site_name": "links",
    "nginx_site_server_names": ["links.example.org"],
    "nginx_site_upstreams": ["unix:/run/links/web.sock"],
    "nginx_site_certificate": "/etc/ssl/baton/links/fullchain.pem",
    "nginx_site_certificate_key": "/etc/ssl/baton/links/privkey.pem",
    "nginx_tls_port_name": "links",
    "nginx_tls_port_listen": "10.0.0.1:8443",
    "nginx_tls_port_upstream": "10.0.0.1:8000",
    "nginx_tls_port_certificate": "/etc/ssl/baton-transport/links-server/fullchain.pem",
    "nginx_tls_port_certificate_key": "/etc/ssl/baton-transport/links-server/privkey.pem",
    "nginx_tls_port_ca_source": "/nowhere/ca.pem",
    "nginx_tls_port_client": "links.edges.baton.internal",
    "postgresql_server_name": "links",
    "redis_server_name": "links",
    "tls_certificate_name": "links",
    "tls_certificate_names": ["links.example.org"],
    "__nginx_server_about": NGINX_VERSION,
    "__nginx_site_about": NGINX_VERSION,
}
SERVERS = ["10.0.0.1:8000", "10.0.0.2:8000"]
# most optional variables as well
MOST: dict[str, Any] = LEAST | {
    "app_service_listen": "10.0.0.1:8000",
    "app_service_forwarded_allow_ips": ["10.0.0.9"],
    "app_service_allowed_addresses": ["10.0.0.0/8"],
    "app_service_directives": {"ReadWritePaths": ["/srv/a", "/srv/b"], "PrivateDevices": False},
    "app_service_health_path": "/readyz",
    "app_service_metrics": True,
    "app_service_credentials_encryption": "host",
    "app_service_process_environment": {"TZ": "UTC"},
    "app_config_secrets_encryption": "host",
    "host_baseline_time_sync_servers": ["ntp.example.org"],
    "host_baseline_time_sync_service": "chrony",
    "host_firewall_ssh_sources": ["192.0.2.0/24", "2001:db8::/32"],
    "host_firewall_rules_name": "links",
    "host_firewall_rules": [
        {"port": 80},
        {"port": 443, "connection_rate": 50, "connections": 90, "unlimited_sources": ["192.0.2.0/24", "2001:db8::/32"]},
        {"ports": [8000], "sources": ["10.0.0.9", "fd00::9"], "comment": "edge"},
        {"port": 8000, "local_users": ["root", "www-data"]},
    ],
    "host_sshd_tcp_forwarding": True,
    "nginx_server_session_tickets": True,
    "nginx_server_proxy_protocol": True,
    "nginx_site_acme_peers": ["10.0.0.8"],
    "nginx_site_acme_state_directory": "/var/lib/acme-certificate/links",
    "nginx_site_client_certificates": "optional",
    "nginx_site_client_certificate_paths": ["/admin"],
    "nginx_site_down": SERVERS[1:],
    "nginx_site_health_path": "/readyz",
    "nginx_site_maintenance_allow": ["192.0.2.0/24"],
    "nginx_site_path_limits": {"/upload": {"body": "1g", "rate": "10r/m", "connections": 3}},
    "nginx_site_public_port": 8443,
    "nginx_site_removed_headers": ["X-Removed"],
    "nginx_site_response_headers": {"X-Frame-Options": "DENY"},
    "nginx_site_streaming_paths": ["/events"],
    "nginx_site_trusted_identity_headers": ["X-Trusted"],
    "nginx_site_trusted_proxies": ["192.0.2.1"],
    "nginx_site_unlimited_paths": ["/feed"],
    "nginx_site_upstreams": SERVERS,
    "nginx_site_upstream_tls_name": "links.app-servers.baton.internal",
    "nginx_site_upstream_ca_source": "/nowhere/ca.pem",
    "nginx_site_upstream_certificate": "/etc/ssl/baton-transport/links-client/fullchain.pem",
    "nginx_site_upstream_certificate_key": "/etc/ssl/baton-transport/links-client/privkey.pem",
    "nginx_site_workers": dict.fromkeys(SERVERS, 3),
    "nginx_site_worker_requests": 20,
    "postgresql_server_listen_addresses": ["localhost", "10.0.0.31"],
    "postgresql_server_allowed_addresses": ["10.0.0.21", "fd00::5"],
    "postgresql_server_databases": [
        {
            "name": "links",
            "owner": "links",
            "password": "x",
            "users": [{"name": "r", "password": "x", "access": "read"}],
        }
    ],
    "postgresql_server_tls": "required",
    "postgresql_server_certificate": "/etc/ssl/postgresql",
    "redis_server_purpose": "cache",
    "redis_server_password": "correct horse battery",
    "redis_server_tls": "offered",
    "redis_server_certificate": "/etc/ssl/redis",
    "tls_certificate_acme_challenge": "dns-01",
    "tls_certificate_acme_dns_provider": "rfc2136",
    "tls_certificate_acme_dns_credentials": {"dns_rfc2136_server": "192.0.2.53"},
    "__redis_server_loader_read": {"content": "bG9hZGVyCg=="},
}
COMMENTS = ("#", "//")
DIGEST = re.compile(r"\b[0-9a-f]{16}\b")  # of a lock file; it changes with each version there


def texts() -> dict[str, str]:
    """The texts by path below FOLDER. `most` contains only those that differ from `least`."""
    least, most = (dict([*_templates(given), *_files(given)]) for given in (LEAST, MOST))
    found = {f"least/{path}": text for path, text in least.items()}
    return found | {f"most/{path}": text for path, text in most.items() if text != least[path]}


def _roles(given: Mapping[str, Any]) -> Iterator[tuple[Role, dict[str, Any]]]:
    """Each role, with the variables that its templates and tasks need."""
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        role, variables = Role(path.parts[-3]), dict(given)
        if role.name == "app_service":
            variables["__app_service_unit"] = role.value("__app_service_units", **given)[0]
            for kind, plural in (("process", "processes"), ("schedule", "schedules")):
                ((name, value),) = role.value(f"__app_service_{plural}", **given).items()
                variables[f"__app_service_{kind}"] = {"key": name, "value": value}
        yield role, variables


def _templates(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for role, variables in _roles(given):
        for path in sorted(role.path.glob("templates/**/*.j2")):
            # included by other templates
            if not path.name.startswith("_"):
                template = path.relative_to(role.path / "templates")
                lines = role.render(str(template), **variables).splitlines()
                code = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith(COMMENTS)]
                yield f"{role.name}/{template.with_suffix('.txt')}", _joined(code)


def _files(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The arguments of the module files, without the content."""
    for role, variables in _roles(given):
        lines = []
        # compare.yml has the same as configure.yml (test_contracts.py)
        for path in sorted({*role.path.glob("tasks/*.yml")} - {role.path / "tasks/compare.yml"}):
            for task in _tasks(role.load(f"tasks/{path.name}")):
                if "baton.web.files" in task:
                    more = {"ansible_search_path": [str(role.path)], **task.get("vars", {})}
                    listed = role.templar(**variables, **more).template(task["baton.web.files"]["files"])
                    for item in listed:
                        options = sorted(
                            f"{name}={value}" for name, value in item.items() if name not in ("path", "content")
                        )
                        lines.append(" ".join([f"{path.stem}:", item["path"], *options]))
        yield f"{role.name}/files.txt", _joined(lines)


def _tasks(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in listed:
        yield task
        yield from _tasks(task.get("block", []) + task.get("rescue", []) + task.get("always", []))


def _joined(lines: list[str]) -> str:
    return DIGEST.sub("DIGEST", "".join(f"{line}\n" for line in lines))


def written() -> dict[str, str]:
    """The texts in FOLDER."""
    return {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.txt")}


def main() -> None:
    """Write the texts to FOLDER."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, text in texts().items():
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader([str(pathlib.Path(__file__).parents[2] / "collections")])
    main()
