"""Kernel settings: what files define together, what is set, and what is only reported. /proc/sys is a folder here."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import kernel_settings

OWN = "/etc/sysctl.d/10-baton.conf"
FORWARDING = "net.ipv4.conf.{}.accept_redirects"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("all", "default", "eth0", "eth0.100"):
        put(tmp_path, f"proc/sys/net/ipv4/conf/{name}/accept_redirects", "1\n")
    put(tmp_path, "proc/sys/net/core/somaxconn", "128\n")
    put(tmp_path, "proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    return tmp_path


def put(root: pathlib.Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def value(root: pathlib.Path, name: str) -> str:
    return (root / "proc/sys" / name).read_text().strip()


def apply(root: pathlib.Path, settings: dict[str, str], dry: bool = False) -> tuple[list[str], list[str]]:
    done = kernel_settings.apply(settings, OWN, dry=dry, root=str(root))
    return list(done.changed), [one.description() for one in done.unmet]


def test_differing_settings_are_set_once(root: pathlib.Path) -> None:
    settings = {"net.core.somaxconn": "4096", "net.ipv4.tcp_rmem": "4096 131072 6291456"}
    assert apply(root, settings, dry=True) == (["net.core.somaxconn"], [])
    assert value(root, "net/core/somaxconn") == "128"
    assert apply(root, settings) == (["net.core.somaxconn"], [])
    assert value(root, "net/core/somaxconn") == "4096"
    assert apply(root, settings) == ([], [])


def test_pattern_matches_each_interface_and_a_name_takes_precedence(root: pathlib.Path) -> None:
    settings = {"net.ipv4.conf.eth0.accept_redirects": "2", "net.ipv4.conf.*.accept_redirects": "0"}
    assert apply(root, settings)[1] == []
    found = {name: value(root, f"net/ipv4/conf/{name}/accept_redirects") for name in ("all", "eth0", "eth0.100")}
    # an interface's name may contain dots
    assert found == {"all": "0", "eth0": "2", "eth0.100": "0"}


@pytest.mark.parametrize(
    ("file", "text", "value_at_boot"),
    [
        # a later file takes precedence, an earlier one doesn't
        ("etc/sysctl.d/99-mine.conf", "net.core.somaxconn=1024", "1024"),
        ("usr/lib/sysctl.d/50-theirs.conf", "# no\n; no\n-net/core/somaxconn = 1024", "1024"),
        ("etc/sysctl.d/05-mine.conf", "net.core.somaxconn=1024", ""),
        # a name takes precedence over a pattern
        ("etc/sysctl.d/99-mine.conf", "net.core.*=1024", ""),
        ("etc/sysctl.d/99-mine.txt", "net.core.somaxconn=1024", ""),
        # written by an earlier run
        (OWN[1:], "net.core.somaxconn=1024", ""),
    ],
)
def test_setting_that_takes_precedence_at_boot_is_kept(
    root: pathlib.Path, file: str, text: str, value_at_boot: str
) -> None:
    put(root, file, text)
    unmet = [f"net.core.somaxconn = 4096 (is {value_at_boot}: set by /{file})"] if value_at_boot else []
    assert apply(root, {"net.core.somaxconn": "4096"}) == ([] if value_at_boot else ["net.core.somaxconn"], unmet)
    assert value(root, "net/core/somaxconn") == ("128" if value_at_boot else "4096")


def test_other_files_may_set_or_exclude_single_interfaces(root: pathlib.Path) -> None:
    put(
        root,
        "etc/sysctl.d/05-mine.conf",
        "net.ipv4.conf.eth0.accept_redirects=1\n-net.ipv4.conf.default.accept_redirects",
    )
    changed, unmet = apply(root, {FORWARDING.format("*"): "0"})
    assert changed == [FORWARDING.format("all"), FORWARDING.format("eth0/100")]
    assert unmet == [f"{FORWARDING.format('eth0')} = 0 (is 1: set by /etc/sysctl.d/05-mine.conf)"]


def test_star_matches_one_component(root: pathlib.Path) -> None:
    put(root, "etc/sysctl.d/99-mine.conf", "net.ipv4.*=1\nnet.*.conf.all.accept_redirects=1")
    changed, unmet = apply(root, {FORWARDING.format("*"): "0"})
    assert FORWARDING.format("eth0") in changed
    assert unmet == [f"{FORWARDING.format('all')} = 0 (is 1: set by /etc/sysctl.d/99-mine.conf)"]


def test_value_that_the_kernel_changes_is_reported(root: pathlib.Path) -> None:
    # a file in /proc that keeps 15 characters
    name = pathlib.Path("/proc/self/comm")
    before = name.read_text()
    (root / "proc/sys/comm").symlink_to(name)
    changed, unmet = apply(root, {"comm": "a-name-that-is-too-long"})
    name.write_text(before)
    assert changed == []
    assert unmet == [f"comm = a-name-that-is-too-long (is {before.strip()}: the kernel changed it to a-name-that-is-)"]


def test_file_with_the_same_value_is_not_reported(root: pathlib.Path) -> None:
    put(root, "etc/sysctl.d/99-mine.conf", "net.core.somaxconn = 4096")
    assert apply(root, {"net.core.somaxconn": "4096"}) == ([], [])


def test_file_in_etc_hides_the_distributions_of_the_same_name(root: pathlib.Path) -> None:
    put(root, "usr/lib/sysctl.d/50-theirs.conf", "net.core.somaxconn = 1024")
    put(root, "etc/sysctl.d/50-theirs.conf", "")
    assert apply(root, {"net.core.somaxconn": "4096"})[1] == []


@pytest.mark.parametrize("dry", [True, False])
def test_refused_setting_is_reported_without_failing(root: pathlib.Path, dry: bool) -> None:
    # a setting that nobody can change, not even root
    (root / "proc/sys/kernel").mkdir()
    (root / "proc/sys/kernel/ostype").symlink_to("/proc/sys/kernel/ostype")
    changed, (unmet,) = apply(root, {"kernel.ostype": "1", "net.core.somaxconn": "4096"}, dry)
    assert changed == ["net.core.somaxconn"]
    assert unmet.startswith("kernel.ostype = 1 (is Linux: ")


def test_missing_setting_is_reported_except_ipv6_when_it_is_off(root: pathlib.Path) -> None:
    settings = {
        "kernel.yama.ptrace_scope": "1",
        "net.ipv6.conf.all.accept_redirects": "0",
        "net.ipv6.conf.*.accept_redirects": "0",
    }
    assert apply(root, settings) == ([], ["kernel.yama.ptrace_scope = 1 (this kernel has no such setting)"])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("net.core.somaxconn", "net.core.somaxconn"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
    ],
)
def test_both_notations_of_a_name_are_normalised(written: str, name: str) -> None:
    assert kernel_settings.normal(written) == name
