"""Reachability: which ports can be reached from outside, and changes that would cut off SSH."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests.support import ports
from tests.support.playbooks import PROJECT

from .conftest import FLEET, other

LISTENER = "/usr/bin/python3 -m http.server --bind :: 8081"
RULES = "nft list table inet baton"
# hides Ansible's connection from the preflight, which would refuse the change
BLIND = {"__host_firewall_ssh": {"stdout": ""}}
PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "become": True,
    "vars_files": [f"{PROJECT}/playbooks/vars/topology.yml", f"{PROJECT}/playbooks/vars/wiring.yml"],
    "vars": {
        "host_firewall_ssh_sources": "{{ ['192.0.2.1'] if inventory_hostname in locked else [] }}",
        "host_firewall_undo_seconds": "{{ 5 if inventory_hostname in locked else 600 }}",
        "host_firewall_extra_rules": "{{ [{'port': 9, 'comment': 'more'}] if locked else [] }}",
    },
    "tasks": [
        {"ansible.builtin.import_tasks": f"{PROJECT}/playbooks/tasks/addresses/resolve.yml"},
        {
            "ansible.builtin.include_role": {"name": "baton.web.host_firewall"},
            "when": "inventory_hostname in baton_app_servers",
        },
    ],
}


@pytest.mark.hosts("edge1")
@pytest.mark.parametrize("protocol", ["IPv4", "IPv6"])
def test_only_ssh_and_site_are_reachable(host: Any, protocol: str) -> None:
    scanner = other("data1")
    scanner.check_output(ports.INSTALL)
    target = host.ansible.get_variables()["fleet_address"]
    if protocol == "IPv6":
        for one in (host, scanner):
            one.check_output(ports.ENABLE_IPV6)
        target = host.check_output(ports.LINK_LOCAL) + "%eth0"
    # a listener that no rule admits
    host.check_output(f"systemd-run -q --collect --unit=unasked {LISTENER}")
    host.check_output("timeout 60 sh -c 'until ss -Hltn | grep -q :8081; do sleep 0.1; done'")
    found = ports.read(scanner.check_output(ports.scan(target)))
    host.check_output("systemctl stop unasked.service")
    # packets to all other ports are dropped, not rejected
    assert found == ports.Found(open=[22, 80, 443], closed=[], filtered=ports.NUMBER - 3)


@pytest.mark.hosts("app1")
def test_firewall_change_that_cuts_ssh_is_reverted(host: Any, tmp_path: pathlib.Path) -> None:
    playbook = tmp_path / "firewall.yml"
    playbook.write_text(json.dumps([PLAY]))
    files = "cat /etc/nftables.conf /etc/nftables.d/*"
    before = host.check_output(RULES), host.check_output(files)
    done = FLEET.play(str(playbook), locked=["app1"], **BLIND)
    assert done.status != 0
    assert (
        "app1: after the change of the firewall configuration no new connection could be made within 5 s" in done.words
    )
    assert "the host has restored the former one" in done.words
    assert "host_firewall_ssh_sources [192.0.2.1]" in done.words
    assert (host.check_output(RULES), host.check_output(files)) == before
    # the other host of the same run keeps its change
    assert "failed: [app2]" not in done.output
    assert 'tcp dport 9 accept comment "more"' in other("app2").check_output(RULES)
    again = FLEET.succeed(str(playbook), locked=[], **BLIND)
    # data1 and edge1 aren't part of the play
    assert again.changed[1] == 1
    assert 'comment "more"' not in other("app2").check_output(RULES)
    for one in (host, other("app2")):
        assert one.check_output("find /etc/systemd/system /run -maxdepth 1 -name '*baton-undo*'") == ""
        assert not one.file("/var/lib/baton-undo/firewall").exists
        failed = one.check_output("systemctl list-units --failed --plain --no-legend 'baton*' nftables.service 'ssh*'")
        assert failed == ""


@pytest.mark.hosts("app2")
def test_ssh_accepts_only_keys_if_configured(host: Any) -> None:
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    # 255 is testinfra's own
    login = f"ssh {options} deploy@{{}} true || exit 1"
    refused = [
        other("data1").run(login.format(other(name).ansible.get_variables()["fleet_address"])).stderr
        for name in ("app2", "app1")
    ]
    assert "Permission denied (publickey)." in refused[0]
    assert "Permission denied (publickey,password)." in refused[1]
    assert "allowtcpforwarding no" in host.check_output("sshd -T").splitlines()
