"""The hosts: their sandboxes and limits work as on real machines, and they are provisioned."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest

from .conftest import FLEET, other


def test_system_has_no_failed_unit(host: Any) -> None:
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"


def test_sandbox_is_enforced(host: Any) -> None:
    done = host.run("systemd-run -q --wait --collect --pipe -p ProtectSystem=strict touch /usr/x")
    assert done.rc != 0
    assert "Read-only" in done.stderr


def test_memory_limits_are_enforced(host: Any) -> None:
    limited = "systemd-run -q --wait --collect --pipe -p MemoryMax=40M python3 -c 'bytearray(200*2**20)' || exit 3"
    assert host.run(limited).rc == 3


def test_journal_is_limited_and_persistent(host: Any) -> None:
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "\nSystemMaxUse=" in settings
    assert "\nStorage=persistent" in settings


def test_security_updates_are_automatic_without_reboot(host: Any) -> None:
    settings = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings


@pytest.mark.parametrize(
    ("unit", "threshold"),
    [
        pytest.param("nginx.service", 40, marks=pytest.mark.hosts("edge1")),
        pytest.param("postgresql@17-main.service", 50, marks=pytest.mark.hosts("data1")),
    ],
)
def test_server_is_confined_after_first_deploy(host: Any, unit: str, threshold: int) -> None:
    # the threshold is ten times the exposure level
    host.check_output(f"systemd-analyze security --no-pager --threshold={threshold} {unit}")
    # the running process as well, which the package started before the drop-in existed
    main = host.check_output(f"systemctl show --property MainPID --value {unit}")
    assert "NoNewPrivs:\t1" in host.check_output(f"cat /proc/{main}/status").splitlines()


@pytest.mark.hosts("edge1")
def test_nginx_reload_upgrade_and_log_rotation_work_in_sandbox(host: Any) -> None:
    script = """
        set -e
        wait_for() { timeout 600 sh -c "until $1; do sleep 0.1; done"; }
        systemctl reload nginx
        # what the package does at an upgrade
        old=$(cat /run/nginx.pid)
        kill -USR2 $old
        wait_for '[ -s /run/nginx.pid.oldbin ] && [ -s /run/nginx.pid ]'
        kill -QUIT $old
        wait_for "[ ! -e /proc/$old ]"
        new=$(cat /run/nginx.pid)
        logrotate --force /etc/logrotate.d/nginx
        [ -s /var/log/nginx/error.log.1 ]
        wait_for "! readlink /proc/$new/fd/* | grep -q '[.]1$'"
        grep NoNewPrivs /proc/$new/status
        wait_for "systemctl is-active --quiet nginx"
        systemctl is-active nginx"""
    assert host.check_output(script).split() == ["NoNewPrivs:", "1", "active"]


@pytest.mark.hosts("data1")
@pytest.mark.parametrize("port", [5432, 6380])
@pytest.mark.parametrize(("source", "open_"), [("app1", True), ("app2", True), ("edge1", False)])
def test_only_app_servers_reach_backing_services(host: Any, source: str, open_: bool, port: int) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    assert reaches(other(source), address, port, open_) is open_


@pytest.mark.hosts("data1")
def test_redis_needs_password_and_refuses_config(host: Any) -> None:
    password = host.ansible.get_variables()["test_redis_password"]
    program = "redis-cli -s /run/redis-links/redis.sock"
    assert host.run(f"{program} GET links").stdout.startswith("NOAUTH")
    login = f"REDISCLI_AUTH={password} {program} --user links"
    assert host.check_output(f"{login} PING") == "PONG"
    assert host.run(f"{login} CONFIG GET dir").stdout.startswith("NOPERM")
    # the package's own instance, which has no password, is stopped
    assert host.run("systemctl is-active redis-server.service").stdout.strip() == "inactive"


@pytest.mark.hosts("app1", "app2")
@pytest.mark.parametrize(
    ("source", "port", "open_"), [("edge1", 8443, True), ("edge1", 8000, False), ("data1", 8443, False)]
)
def test_only_edge_reaches_application(host: Any, source: str, port: int, open_: bool) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    assert reaches(other(source), address, port, open_) is open_


def reaches(source: Any, address: str, port: int, expected: bool) -> bool:
    """Whether a connection succeeds; dropped packets get no answer, so a short timeout suffices if none is expected."""
    probe = f"timeout {600 if expected else 5} bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
    return bool(source.run(probe).rc == 0)


@pytest.mark.hosts("app1", "app2")
def test_kernel_settings_are_applied_or_reported(host: Any, tmp_path: pathlib.Path) -> None:
    name = host.backend.get_pytest_id().removeprefix("ansible://")
    redirects = "cat /proc/sys/net/ipv[46]/conf/*/accept_redirects"
    # of each interface, over IPv4 and IPv6
    assert set(host.check_output(redirects).split()) == {"0"}
    assert len(host.check_output(redirects).split()) >= 8
    # values from somebody's sysctl command, and one from a file of the operator
    host.check_output("sysctl -q -w net.core.somaxconn=128 net.ipv6.conf.eth0.accept_redirects=1")
    host.check_output("echo net.ipv4.tcp_syncookies=2 > /etc/sysctl.d/50-ours.conf")
    play = {
        "hosts": name,
        "gather_facts": False,
        "become": True,
        "tasks": [{"ansible.builtin.include_role": {"name": "baton.web.host_baseline", "tasks_from": "kernel"}}],
    }
    playbook = tmp_path / "kernel.yml"
    playbook.write_text(json.dumps([play]))
    dry = FLEET.succeed(str(playbook), "--check")
    assert (dry.changed, host.check_output("sysctl -n net.core.somaxconn")) == ([1], "128")
    done = FLEET.succeed(str(playbook))
    assert done.changed == [1]
    assert host.check_output("sysctl -n net.core.somaxconn net.ipv6.conf.eth0.accept_redirects").split() == [
        "4096",
        "0",
    ]
    assert "net.ipv4.tcp_syncookies = 1 (is 2: set by /etc/sysctl.d/50-ours.conf)" in done.words
    # in a container these settings are read-only
    assert re.search(r"kernel\.kptr_restrict = 1 \(is \d: Read-only file system\)", done.words)
    host.check_output("rm /etc/sysctl.d/50-ours.conf")
    assert FLEET.succeed(str(playbook)).changed == [0]
    # at the next boot, the file is applied without an error
    host.check_output("systemctl restart systemd-sysctl.service")
