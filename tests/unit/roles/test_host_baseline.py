"""The settings that every host gets."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("settings", "packages"),
    [
        ({}, ["acl", "ca-certificates", "iproute2", "systemd-timesyncd", "unattended-upgrades"]),
        (
            {"host_baseline_time_sync_service": "chrony"},
            ["acl", "ca-certificates", "iproute2", "chrony", "unattended-upgrades"],
        ),
        ({"host_baseline_packages": ["vim"], "host_baseline_time_sync": False}, ["vim", "unattended-upgrades"]),
        ({"host_baseline_packages": [], "host_baseline_security_updates": False}, ["systemd-timesyncd"]),
    ],
    ids=str,
)
def test_packages_are_one_list(load_role: Callable[[str], Any], settings: dict[str, Any], packages: list[str]) -> None:
    assert load_role("host_baseline").value("__host_baseline_packages", **settings) == packages


@pytest.mark.parametrize(
    "gathered", [list, lambda names: {name: [{"version": "1"}] for name in names}], ids=["by host_facts", "by Ansible"]
)
@pytest.mark.parametrize(("installed", "asks"), [(["acl", "vim"], False), (["acl"], True)])
def test_apt_runs_only_for_missing_packages(
    load_role: Callable[[str], Any], gathered: Callable[[list[str]], Any], installed: list[str], asks: bool
) -> None:
    role = load_role("host_baseline")
    (task,) = role.load("tasks/install.yml")
    facts = {"packages": gathered(installed)}
    assert role.value(task["when"], __host_baseline_packages=["vim", "acl"], ansible_facts=facts) is asks


@pytest.mark.parametrize(
    ("kind", "role", "ours"),
    [("kvm", "guest", True), ("podman", "guest", False), ("docker", "guest", False), ("kvm", "host", True)],
)
def test_clock_of_a_container_is_the_machines(
    load_role: Callable[[str], Any], kind: str, role: str, ours: bool
) -> None:
    facts = {"virtualization_type": kind, "virtualization_role": role}
    assert load_role("host_baseline").value("__host_baseline_clock_is_ours", ansible_facts=facts) is ours


def test_security_updates_never_reboot(load_role: Callable[[str], Any]) -> None:
    text = load_role("host_baseline").render(
        "etc/apt/apt.conf.d/52baton-security-updates.j2", host_baseline_security_updates_excluded=["postgresql"]
    )
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in text
    assert 'Unattended-Upgrade::Package-Blacklist {\n    "postgresql";\n};' in text
    # apt reads no comment that begins with a single "#"
    assert not [line for line in text.splitlines() if line.startswith("#")]


def test_needrestart_neither_asks_nor_restarts(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "baton.conf"
    file.write_text(load_role("host_baseline").render("etc/needrestart/conf.d/baton.conf.j2"))
    # how needrestart reads it
    program = (
        "our %nrconf; eval do { local (@ARGV, $/) = $ARGV[0]; <> }; die $@ if $@; "
        "print join ' ', map { $nrconf{$_} } qw(restart kernelhints ucodehints)"
    )
    done = subprocess.run(["perl", "-e", program, file], text=True, capture_output=True, check=True)
    # services: list only; kernel: report without a dialog; microcode: ignore
    assert done.stdout == "l -1 0"


def test_journal_is_persistent_and_limited(load_role: Callable[[str], Any]) -> None:
    text = load_role("host_baseline").render(
        "etc/systemd/journald.conf.d/baton.conf.j2", host_baseline_journal_max_use="4G"
    )
    assert "Storage=persistent\n" in text
    assert "SystemMaxUse=4G\n" in text


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("etc/systemd/timesyncd.conf.d/baton.conf.j2", "NTP=a.example.org b.example.org\n"),
        ("etc/chrony/sources.d/baton.sources.j2", "server a.example.org iburst\nserver b.example.org iburst\n"),
    ],
)
def test_time_servers(load_role: Callable[[str], Any], template: str, line: str) -> None:
    servers = ["a.example.org", "b.example.org"]
    assert line in load_role("host_baseline").render(template, host_baseline_time_sync_servers=servers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host_baseline_journal_max_use": "4 GB"},
        {"host_baseline_journal_keep_free": "much"},
        {"host_baseline_journal_max_retention": "long"},
        {"host_baseline_time_sync_servers": ["a b"]},
        {"host_baseline_security_updates_excluded": ['x"; y']},
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], wrong: dict[str, Any]) -> None:
    no_chrony = {"__host_baseline_chrony": {"stat": {"exists": False}}}
    role = load_role("host_baseline")
    assert role.refusals(**no_chrony) == []
    (message,) = role.refusals(**no_chrony, **wrong)
    assert message.startswith(f"edge1: {next(iter(wrong))} ")


def test_preflight_refuses_to_replace_chrony(load_role: Callable[[str], Any]) -> None:
    messages = load_role("host_baseline").refusals(__host_baseline_chrony={"stat": {"exists": True}})
    assert len(messages) == 1
    assert "Set host_baseline_time_sync_service to chrony" in messages[0]


KERNEL = "__host_baseline_kernel_settings"


def test_kernel_settings_can_be_changed_added_and_removed(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_baseline")
    default = role.value(KERNEL)
    # routers, and hosts with asymmetric uplinks, must keep working
    assert not [name for name in default if "forward" in name or "accept_ra" in name]
    assert default["net.ipv4.conf.all.rp_filter"] == 2
    given = {"net.core.somaxconn": 8192, "kernel.dmesg_restrict": None, "net.ipv4.tcp_congestion_control": "bbr"}
    changed = role.value(KERNEL, host_baseline_kernel_settings=given)
    assert set(default) ^ set(changed) == {"kernel.dmesg_restrict", "net.ipv4.tcp_congestion_control"}
    text = role.render("etc/sysctl.d/10-baton.conf.j2", host_baseline_kernel_settings=given)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == [f"{name} = {value}" for name, value in changed.items()]
    assert "net.core.somaxconn = 8192" in lines


def test_ipv6_settings_match_ipv4(load_role: Callable[[str], Any]) -> None:
    settings = load_role("host_baseline").value(KERNEL)
    for name in settings:
        if name.startswith("net.ipv4.conf.") and name.rpartition(".")[2] not in ("rp_filter", "send_redirects"):
            assert settings[name.replace("ipv4", "ipv6")] == settings[name]


def test_systemd_sysctl_accepts_the_file(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    # it reports unknown patterns and invalid lines as errors
    file = tmp_path / "10-baton.conf"
    file.write_text(load_role("host_baseline").render("etc/sysctl.d/10-baton.conf.j2"))
    done = subprocess.run(
        ["/lib/systemd/systemd-sysctl", "--prefix=/nothing", str(file)], text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"somaxconn": 1}, '"somaxconn" is no name of a setting'),
        ({"net.core.somaxconn\nkernel.sysrq": 1}, "is no name of a setting"),
        ({"kernel.sysrq": True}, "kernel.sysrq is true"),
        ({"kernel.sysrq": [1]}, "kernel.sysrq is [1]"),
        ({"kernel.sysrq": ""}, 'kernel.sysrq is ""'),
        ({"kernel.sysrq": "0\nkernel.panic = 1"}, "kernel.sysrq is "),
        ({"net.core.somaxconn": 128}, "the kernel would cut it. Give 4096 or more"),
    ],
    ids=str,
)
def test_invalid_kernel_settings_are_refused(
    load_role: Callable[[str], Any], settings: dict[str, Any], words: str
) -> None:
    role = load_role("host_baseline")
    chrony = {"__host_baseline_chrony": {"stat": {"exists": False}}}
    (refusal,) = role.refusals(host_baseline_kernel_settings=settings, **chrony)
    assert refusal.startswith("edge1: ")
    assert words in refusal
    assert role.refusals(host_baseline_kernel_settings=settings, host_baseline_kernel=False, **chrony) == []
