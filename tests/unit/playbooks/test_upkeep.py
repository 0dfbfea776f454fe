"""What a reboot and an upgrade of the system ask of which host, in which order."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests.support.noted_fleet import FACTS, NotedFleet

UPKEEP: dict[str, Any] = {"boot_seconds": 9.0, "reboot_required": "", "upgrades": [], "removals": []}

# what the module reboot asks
SYSTEM = {"ansible_distribution": "Debian", "ansible_distribution_version": "12", "ansible_os_family": "Debian"}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> NotedFleet:
    groups = {"app_servers": ["app1", "app2"], "load_balancers": ["edge1"]}
    made = NotedFleet(tmp_path, groups)
    made.answer("baton.web.host_facts", {"ansible_facts": FACTS})
    made.answer("ansible.builtin.setup", {"ansible_facts": {"ansible_default_ipv4": {"address": "10.0.0.99"}}})
    made.answer("ansible.legacy.setup", {"ansible_facts": SYSTEM})
    made.answer("ansible.legacy.find", {"files": [{"path": "/sbin/shutdown"}]})
    made.answer("baton.web.deploy_lock", {"changed": True, "history": {}})
    made.answer("baton.web.wait_ready", {"seconds": 1.0})
    made.answer("baton.web.finish", {"changed": True, "removed": [], "trouble": "", "left": []})
    return made


def steps(fleet: NotedFleet) -> list[str]:
    """Without what the module reboot and the look for package lists ask in between."""
    found = [step for step in fleet.steps if step.split(maxsplit=1)[1] not in ("command", "find", "setup")]
    # whether all serve is asked in no order
    return found[:3] + sorted(found[3:5]) + found[5:]


def test_upgrade_takes_one_drained_host_after_another(fleet: NotedFleet) -> None:
    """Where a reboot is required it is rebooted, else its application moves to what is new."""
    fleet.answer("baton.web.upkeep", UPKEEP, "edge1")
    fleet.answer("baton.web.upkeep", UPKEEP | {"upgrades": ["openssl"], "reboot_required": "kernel"}, "app1")
    fleet.answer("baton.web.upkeep", UPKEEP | {"upgrades": ["openssl"]}, "app2")
    fleet.play("upgrade_system.yml").check_status()
    # the package lists are read anew before they are asked what there is
    assert fleet.steps[:4] == ["app1 command", "app2 command", "edge1 command", "app1 upkeep"]
    assert steps(fleet) == [
        *("app1 upkeep", "app2 upkeep", "edge1 upkeep"),
        *("app1 wait_ready links", "app2 wait_ready links"),
        *("app1 deploy_lock held", "app2 deploy_lock held"),
        "edge1 drain 10.0.0.1:8000",
        "app1 apt",
        "app1 upkeep",
        "app1 command shutdown",
        "app1 wait_ready links",
        "app1 activate active",
        "edge1 drain restore 10.0.0.1:8000",
        "edge1 drain 10.0.0.2:8000",
        "app2 apt",
        "app2 upkeep",
        "app2 activate active",
        "edge1 drain restore 10.0.0.2:8000",
        *("app1 deploy_lock released", "app2 deploy_lock released"),
        *("app1 wait_ready links", "app2 wait_ready links", "edge1 wait_ready"),
    ]


def test_reboot_that_fails_stops_before_the_next_host(fleet: NotedFleet) -> None:
    """A host that doesn't serve again stays drained, and the locks are released."""
    fleet.answer("baton.web.upkeep", UPKEEP | {"reboot_required": "kernel"})
    fleet.answer("baton.web.wait_ready", {"failed": True, "msg": "links isn't ready."}, "app1", timeout=180)
    refused = fleet.play("reboot.yml")
    assert refused.status != 0
    assert "Use -e reboot_confirm=true" in refused.words
    assert steps(fleet) == ["app1 upkeep", "app2 upkeep", "edge1 upkeep"]
    done = fleet.play("reboot.yml", "--extra-vars", "reboot_confirm=true")
    assert done.status != 0
    assert "links isn't ready." in done.words
    assert steps(fleet)[3:] == [
        *("app1 wait_ready links", "app2 wait_ready links"),
        *("app1 deploy_lock held", "app2 deploy_lock held"),
        "edge1 drain 10.0.0.1:8000",
        "app1 command shutdown",
        "app1 wait_ready links",
        *("app1 finish", "app2 finish"),
    ]
