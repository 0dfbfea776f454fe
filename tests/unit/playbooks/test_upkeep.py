"""The steps of a reboot and of a system upgrade, and their order."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests.support.recorded_fleet import FACTS, RecordedFleet

UPKEEP: dict[str, Any] = {"boot_seconds": 9.0, "reboot_required": "", "upgrades": [], "removals": [], "outdated": []}

# the facts that the module reboot needs
SYSTEM = {"ansible_distribution": "Debian", "ansible_distribution_version": "12", "ansible_os_family": "Debian"}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> RecordedFleet:
    groups = {"app_servers": ["app1", "app2"], "load_balancers": ["edge1"]}
    fake = RecordedFleet(tmp_path, groups)
    fake.set_result("baton.web.host_facts", {"ansible_facts": FACTS})
    fake.set_result("ansible.builtin.setup", {"ansible_facts": {"ansible_default_ipv4": {"address": "10.0.0.99"}}})
    fake.set_result("ansible.legacy.setup", {"ansible_facts": SYSTEM})
    fake.set_result("ansible.legacy.find", {"files": [{"path": "/sbin/shutdown"}]})
    fake.set_result("baton.web.deploy_lock", {"changed": True, "history": {}})
    fake.set_result("baton.web.wait_ready", {"seconds": 1.0})
    fake.set_result("baton.web.finish", {"changed": True, "removed": [], "trouble": "", "left": []})
    return fake


def steps(fleet: RecordedFleet) -> list[str]:
    """The steps without those of the module reboot and of the package lists."""
    found = [step for step in fleet.steps if step.split(maxsplit=1)[1] not in ("command", "find", "setup")]
    # the first check of whether all hosts serve has no order
    return found[:3] + sorted(found[3:5]) + found[5:]


def test_upgrade_takes_one_drained_host_after_another(fleet: RecordedFleet) -> None:
    """A host is rebooted if required; otherwise its application is restarted with the new packages."""
    fleet.set_result("baton.web.upkeep_info", UPKEEP, "edge1")
    fleet.set_result("baton.web.upkeep_info", UPKEEP | {"upgrades": ["openssl"], "reboot_required": "kernel"}, "app1")
    fleet.set_result("baton.web.upkeep_info", UPKEEP | {"upgrades": ["openssl"]}, "app2")
    fleet.play("upgrade_system.yml").check_status()
    # the package lists are updated before the upgrades are listed
    assert fleet.steps[:4] == ["app1 command", "app2 command", "edge1 command", "app1 upkeep_info"]
    assert steps(fleet) == [
        *("app1 upkeep_info", "app2 upkeep_info", "edge1 upkeep_info"),
        *("app1 wait_ready links", "app2 wait_ready links"),
        *("app1 deploy_lock held", "app2 deploy_lock held"),
        "edge1 drain 10.0.0.1",
        "app1 apt",
        "app1 upkeep_info",
        "app1 command shutdown",
        "app1 wait_ready links",
        "app1 activate active",
        "edge1 drain restore 10.0.0.1",
        "edge1 drain 10.0.0.2",
        "app2 apt",
        "app2 upkeep_info",
        "app2 activate active",
        "edge1 drain restore 10.0.0.2",
        *("app1 deploy_lock released", "app2 deploy_lock released"),
        *("app1 wait_ready links", "app2 wait_ready links", "edge1 wait_ready"),
    ]


def test_upgrade_restarts_what_executes_replaced_libraries(fleet: RecordedFleet) -> None:
    """Automatic updates may have replaced them. The application is last, because it may need the services."""
    fleet.set_result("baton.web.upkeep_info", UPKEEP)
    outdated = {"outdated": ["nginx.service", "redis-server@links.service"]}
    fleet.set_result("baton.web.upkeep_info", UPKEEP | outdated, "app2")
    fleet.play("upgrade_system.yml").check_status()
    found = steps(fleet)
    assert found[found.index("edge1 drain 10.0.0.2") :][:7] == [
        *("edge1 drain 10.0.0.2", "app2 apt", "app2 upkeep_info"),
        *("app2 systemd_service restarted", "app2 systemd_service restarted", "app2 activate active"),
        "edge1 drain restore 10.0.0.2",
    ]
    restarted = fleet.arguments("ansible.builtin.systemd_service", state="restarted")
    assert [one["name"] for one in restarted] == outdated["outdated"]
    assert "app1 apt" not in found
    # a reboot has restarted them
    fleet.set_result("baton.web.upkeep_info", UPKEEP | outdated | {"reboot_required": "kernel"}, "app2")
    fleet.play("upgrade_system.yml").check_status()
    assert "app2 command shutdown" in fleet.steps
    assert not fleet.arguments("ansible.builtin.systemd_service", state="restarted")


def test_failed_reboot_stops_before_the_next_host(fleet: RecordedFleet) -> None:
    """A host that doesn't serve again stays drained, and the locks are released."""
    fleet.set_result("baton.web.upkeep_info", UPKEEP | {"reboot_required": "kernel"})
    fleet.set_result("baton.web.wait_ready", {"failed": True, "msg": "links isn't ready."}, "app1", timeout=180)
    unconfirmed = fleet.play("reboot.yml")
    assert unconfirmed.status != 0
    assert "Use -e reboot_confirm=true" in unconfirmed.words
    assert steps(fleet) == ["app1 upkeep_info", "app2 upkeep_info", "edge1 upkeep_info"]
    done = fleet.play("reboot.yml", "--extra-vars", "reboot_confirm=true")
    assert done.status != 0
    assert "links isn't ready." in done.words
    assert steps(fleet)[3:] == [
        *("app1 wait_ready links", "app2 wait_ready links"),
        *("app1 deploy_lock held", "app2 deploy_lock held"),
        "edge1 drain 10.0.0.1",
        "app1 command shutdown",
        "app1 wait_ready links",
        *("app1 finish", "app2 finish"),
    ]
