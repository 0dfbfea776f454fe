"""The facts have the names and values of Ansible's own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import facts, resources

from tests.support.program import write_script

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'NAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nID=ubuntu\n'


def system(root: pathlib.Path, os_release: str, debian_version: str) -> str:
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(os_release)
    (root / "etc/debian_version").write_text(f"{debian_version}\n")
    return str(root)


def test_facts_equal_ansibles_on_the_same_host(tmp_path: pathlib.Path) -> None:
    ansible = pathlib.Path(sys.executable).with_name("ansible")
    command = [str(ansible), "localhost", "-i", "localhost,", "-c", "local", "-t", str(tmp_path)]
    command += [
        "-m",
        "ansible.builtin.setup",
        "-a",
        json.dumps({"gather_subset": ["min", "hardware", "network", "virtual"]}),
    ]
    command += ["-e", json.dumps({"ansible_python_interpreter": sys.executable})]
    subprocess.run(command, capture_output=True, check=True)
    expected = json.loads((tmp_path / "localhost").read_text())["ansible_facts"]
    ours = facts.gather(packages=True)
    for name in (
        *("architecture", "distribution", "distribution_version", "distribution_major_version"),
        *("distribution_release", "memtotal_mb"),
    ):
        assert ours[name] == expected[f"ansible_{name}"], name
    assert ours["python"]["version"].items() <= expected["ansible_python"]["version"].items()
    for name in ("default_ipv4", "default_ipv6"):
        assert ours[name].get("address") == expected[f"ansible_{name}"].get("address")
    # which knows nothing of quotas
    assert 1 <= ours["processor_vcpus"] <= expected["ansible_processor_nproc"]


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1)])
def test_processors_of_a_container_respect_its_cpu_quota(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(resources, "_groups", lambda _root, _controller: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert facts.gather(packages=False)["processor_vcpus"] == cores


@pytest.mark.parametrize(
    ("os_release", "debian_version", "expected"),
    [
        (DEBIAN, "12.5", ("Debian", "12.5", "12")),
        (DEBIAN, "bookworm/sid", ("Debian", "12", "12")),
        (UBUNTU, "trixie/sid", ("Ubuntu", "24.04", "24")),
        ('NAME="Fedora Linux"\nVERSION_ID=43\nID=fedora\n', "", ("Fedora", "43", "43")),
        ("", "", ("Linux", "", "")),
    ],
)
def test_distribution_has_ansibles_names(
    tmp_path: pathlib.Path, os_release: str, debian_version: str, expected: tuple[str, str, str]
) -> None:
    found = facts.distribution(system(tmp_path, os_release, debian_version))
    names = ("distribution", "distribution_version", "distribution_major_version")
    assert tuple(found[name] for name in names) == expected


def test_memory_is_in_whole_mebibytes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:        2097151 kB\nMemFree:               1 kB\n")
    assert facts.memory(str(tmp_path)) == 2047


def test_installed_packages_are_listed_by_name(tmp_path: pathlib.Path) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: nginx\nStatus: install ok installed\nVersion: 1.22.1-9\nDescription: web server\n a\n b\n\n"
        "Package: removed\nStatus: deinstall ok config-files\nVersion: 2\n\n"
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3\n\n"
        "Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 3\n\n"
        "Package: held\nStatus: hold ok installed\nVersion: 3\n"
    )
    assert facts.installed_packages(str(tmp_path)) == ["held", "libc6", "nginx"]
    assert facts.installed_packages(str(tmp_path / "elsewhere")) == []


def test_max_connections_are_those_that_postgresql_was_started_with(tmp_path: pathlib.Path) -> None:
    assert facts.postgresql(str(tmp_path)) == {}
    for version, limit in (("15", 100), ("17", 40)):
        (tmp_path / f"var/lib/postgresql/{version}/main").mkdir(parents=True)
        program = tmp_path / f"usr/lib/postgresql/{version}/bin/pg_controldata"
        program.parent.mkdir(parents=True)
        write_script(
            program,
            f'[ "$1" = {tmp_path}/var/lib/postgresql/{version}/main ] || exit 1\n'
            f"echo 'wal_level setting:  replica'\necho 'max_connections setting:              {limit}'",
        )
    # a cluster whose program was removed, and a broken one
    (tmp_path / "var/lib/postgresql/11/main").mkdir(parents=True)
    assert facts.postgresql(str(tmp_path)) == {"postgresql_max_connections": 40}
    write_script(tmp_path / "usr/lib/postgresql/17/bin/pg_controldata", "exit 2")
    assert facts.postgresql(str(tmp_path)) == {"postgresql_max_connections": 100}
