"""Facts that are read from files and programs of the host: name servers, package lists, virtualization."""

from __future__ import annotations

import os
import pathlib
import time

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import facts

from tests.support.program import write_script


def test_name_servers_are_those_of_resolv_conf(tmp_path: pathlib.Path) -> None:
    assert facts.nameservers(str(tmp_path)) == []
    (tmp_path / "etc").mkdir()
    text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 10.0.0.2\n  nameserver fd00::2 # second\n"
    (tmp_path / "etc/resolv.conf").write_text(f"{text}nameserver\nnameserver no-address\noptions nameserver 10.0.0.3\n")
    assert facts.nameservers(str(tmp_path)) == ["10.0.0.2", "fd00::2"]
    many = [f"10.0.0.{number}" for number in range(1, 11)]
    (tmp_path / "etc/resolv.conf").write_text("".join(f"nameserver {address}\n" for address in many))
    assert facts.nameservers(str(tmp_path)) == many[:8]


@pytest.mark.parametrize("name", ["x_Packages", "x_Packages.lz4", "x_Packages.xz", "x_Packages.gz"])
def test_age_of_the_package_lists_is_that_of_the_last_update(tmp_path: pathlib.Path, name: str) -> None:
    lists = tmp_path / "var/lib/apt/lists"
    (lists / "partial").mkdir(parents=True)
    (lists / "lock").touch()
    assert facts.package_lists_age(str(tmp_path)) is None
    (lists / name).touch()
    now = time.time()
    for path, age in ((lists, 9000), (lists / "partial", 5000)):
        os.utime(path, (now - age,) * 2)
    found = facts.package_lists_age(str(tmp_path))
    assert found is not None
    assert 5000 <= found < 9000
    # a clock that was set back
    os.utime(lists, (now + 5000,) * 2)
    assert facts.package_lists_age(str(tmp_path)) == 0.0
    assert facts.package_lists_age(str(tmp_path / "elsewhere")) is None


@pytest.mark.parametrize(
    ("output", "role", "kind"),
    [
        ("kvm", "guest", "kvm"),
        ("container-other", "guest", "container"),
        ("docker", "guest", "docker"),
        ("none", "host", ""),
        ("", "host", ""),
    ],
)
def test_virtualization_is_systemds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, output: str, role: str, kind: str
) -> None:
    write_script(tmp_path / "systemd-detect-virt", f"echo {output}; exit {int(output in ('', 'none'))}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert facts.virtualization() == {"virtualization_role": role, "virtualization_type": kind}


def test_packages_are_read_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "installed_packages", lambda: ["nginx"])
    monkeypatch.setattr(facts, "package_lists_age", lambda: 5.0)
    assert not facts.gather(packages=False).keys() & {"packages", "package_lists_age"}
    found = facts.gather(packages=True)
    assert (found["packages"], found["package_lists_age"]) == (["nginx"], 5.0)
