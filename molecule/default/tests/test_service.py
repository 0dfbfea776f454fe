"""The service on the app servers: its units, its size, its sandbox, its logs, its secrets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support import egress
from tests.support.wait import until

from .conftest import APP_SERVERS, Edge, status

pytestmark = pytest.mark.hosts(*APP_SERVERS)
PASSWORD = "not-a-secret-of-anybody"


def name_of(host: Any) -> str:
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


@pytest.mark.parametrize("unit", ["links.socket", "links.service"])
def test_units_are_active_and_enabled(host: Any, unit: str) -> None:
    assert host.check_output(f"systemctl is-active {unit}") == "active"
    assert host.check_output(f"systemctl is-enabled {unit}") == "enabled"


@pytest.mark.parametrize("unit", ["links.socket", "links.service", "links-bridge.service"])
def test_systemd_verifies_unit(host: Any, unit: str) -> None:
    # an unknown directive in the unit shows that the test finds what systemd reports
    canary = f"/run/canary/{unit}"
    host.check_output(f"mkdir -p /run/canary && (systemctl cat {unit}; echo 'Canary=1') > {canary}")
    spoiled = host.run(f"systemd-analyze verify {canary}").stderr
    host.check_output("rm -r /run/canary")
    assert [line for line in spoiled.splitlines() if unit in line and "Canary" in line]
    output = host.run(f"systemd-analyze verify {unit}")
    assert [line for line in output.stderr.splitlines() + output.stdout.splitlines() if "links" in line] == []


def test_service_is_confined(host: Any) -> None:
    host.check_output("systemd-analyze security --no-pager --threshold=15 links.service")


@pytest.mark.parametrize("unit", ["links.service", "links-worker@*.service"])
def test_application_cannot_reach_cloud_metadata(host: Any, unit: str) -> None:
    (name,) = host.check_output(f"systemctl list-units --plain --no-legend '{unit}' | cut -d' ' -f1").split()
    assert egress.sent(host, name, "169.254.169.254") == ["heard", "denied"]


def test_service_listens_only_on_private_address(host: Any) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    listening = host.check_output("ss -Hltn 'sport = :8000'").splitlines()
    assert [line.split()[3] for line in listening] == [f"{address}:8000"]


def test_number_of_workers_depends_on_host(host: Any) -> None:
    cores = int(host.check_output("nproc"))
    megabytes = int(host.check_output("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))
    workers = max(1, min(2 * cores + 1, int(megabytes * min(0.75, 0.85 / 2) / 200)))
    assert len(status(name_of(host))["workers"]) == workers


def test_service_has_memory_limit(host: Any) -> None:
    total = 1024 * int(host.check_output("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    limit = int(host.check_output("systemctl show -P MemoryMax links.service"))
    assert limit == pytest.approx(0.85 * total, rel=0.01)


def test_all_workers_serve_current_release(host: Any) -> None:
    current = host.check_output("basename $(readlink /opt/links/current)")
    assert {worker["release"] for worker in status(name_of(host))["workers"]} == {current}


def test_systemctl_status_shows_ready_workers(host: Any) -> None:
    assert "workers ready" in host.check_output("systemctl show -p StatusText links.service")


def test_release_belongs_to_root_and_is_read_only(host: Any) -> None:
    assert host.check_output("find /opt/links/releases ! -user root -o -perm /022 ! -type l") == ""
    assert host.run("runuser -u links -- touch /opt/links/current/src/x").rc != 0


def test_secrets_are_readable_only_by_root(host: Any) -> None:
    secret = host.file("/etc/links/secrets/DATABASE_URL.host.cred")
    assert (secret.user, secret.mode) == ("root", 0o600)
    files = host.check_output("ls /etc/links/secrets").split()
    assert files == [f"{name}.host.cred" for name in ("DATABASE_URL", "LINKS_METRICS_TOKEN", "REDIS_URL")]
    assert PASSWORD in host.check_output(f"systemd-creds decrypt {secret.path} --name=DATABASE_URL -")


@pytest.mark.parametrize(
    "place",
    [
        "journalctl --sync; journalctl --no-pager --output=cat",
        "cat /etc/systemd/system/links*",
        "ps axww",
        # background processes have secrets as variables, readable only for their own user and root
        "runuser -u nobody -- ps axeww",
        # nor on disk, where they are encrypted
        "find /etc /opt/links /run/baton /var/lib -type f -exec cat {} + | tr -cd '[:print:]'",
    ],
)
def test_secret_is_nowhere_else(host: Any, place: str) -> None:
    # search here: a command on the host that contains the secret would itself be in the journal
    output = host.run(place).stdout
    assert output
    assert PASSWORD not in output


def test_log_lines_are_json_with_request_id(host: Any, edge: Edge) -> None:
    # a word that no library logs, unlike SQLAlchemy's "[SQL parameters hidden ...]"
    secret = "planted-query"
    ids = {edge(f"/healthz?token={secret}").headers["x-request-id"] for _ in range(12)}
    asked = "journalctl --sync; journalctl -u links.service -o cat --no-pager _COMM=python | tail -n 2000"
    lines: list[str] = []

    def here() -> list[dict[str, Any]]:
        """This host's log entries for these requests; other hosts may have served some of them."""
        lines[:] = host.check_output(asked).splitlines()
        # the output of `systemctl reload` isn't the application's
        entries = [json.loads(line) for line in lines if not re.match(r"Reload \d+ done in ", line)]
        return [entry for entry in entries if entry["logger"] == "access" and entry["request_id"] in ids]

    mine = until(here, "none of the requests is in the journal")
    assert mine[0]["path"] == "/healthz"
    assert mine[0]["status"] == 200
    assert mine[0]["duration_ms"] > 0
    assert [line for line in lines if secret in line] == []
