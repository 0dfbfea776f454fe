"""What a process of the application can access on its host."""

from __future__ import annotations

import pytest

from tests.support import egress

from .conftest import HOSTS, Hostile, host

pytestmark = pytest.mark.parametrize("name", HOSTS)


@pytest.mark.parametrize(
    "path", ["/run/hostile/web.sock", "/run/hostile/new", "/opt/hostile/current", "/etc/hostile/x"]
)
def test_application_cannot_place_links_for_root(hostile: Hostile, name: str, path: str) -> None:
    assert hostile.source.is_dir()
    shadow = host(name).check_output("stat -c '%U %a' /etc/shadow")
    assert host(name).run(f"runuser -u hostile -- ln -sfn /etc/shadow {path}").rc != 0
    host(name).check_output("systemctl restart hostile.socket hostile.service")
    assert host(name).check_output("stat -c '%U %a' /etc/shadow") == shadow
    assert host(name).check_output("stat -c '%U %F' /run/hostile/web.sock") == "hostile socket"


def test_file_permissions(hostile: Hostile, name: str) -> None:
    assert hostile.source.is_dir()
    for path in ("/opt/hostile/releases", "/etc/hostile/gunicorn.conf.py", "/var/lib/baton/hostile/history.jsonl"):
        assert host(name).run(f"runuser -u nobody -- test -r {path}").rc == 1, path
    for path in ("/etc/hostile/secrets", "/var/lib/baton/hostile/receipts", "/var/log/nginx/hostile-access.log"):
        assert host(name).run(f"runuser -u hostile -- test -r {path}").rc == 1, path
    # whatever root's umask is
    assert host(name).check_output("sudo sh -c umask") == "0077"
    assert host(name).check_output("stat -c %a /var/lib/baton") == "755"
    assert host(name).run("runuser -u hostile -- /opt/hostile/current/venv/bin/python -c 'import fastapi'").rc == 0


@pytest.mark.parametrize(("address", "expected"), [("198.51.100.1", "heard"), ("198.51.100.2", "denied")])
def test_application_reaches_only_allowed_addresses(hostile: Hostile, name: str, address: str, expected: str) -> None:
    assert hostile.source.is_dir()
    assert egress.sent(host(name), "hostile.service", address) == ["heard", expected]
