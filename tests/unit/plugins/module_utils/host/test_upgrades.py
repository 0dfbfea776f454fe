"""A host's pending upgrades, and whether and how long it reboots."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import upgrades

LISTING = """\
Reading package lists...
The following packages will be upgraded:
  openssl libssl3
Remv old-thing [1.0]
Remv moved [1.0] []
Inst openssl [3.0.15-1~deb12u1] (3.0.16-1~deb12u1 Debian:12.9/stable [amd64]) []
Inst linux-image-6.1.0-30-amd64 (6.1.124-1 Debian-Security:12/stable-security [amd64])
Inst moved [1.0] (2.0 Debian:12.9/stable [all])
Conf openssl (3.0.16-1~deb12u1 Debian:12.9/stable [amd64])
"""


def test_upgrades_are_listed_with_their_versions() -> None:
    assert upgrades.pending(LISTING)["upgrades"] == [
        "linux-image-6.1.0-30-amd64 new: 6.1.124-1",
        "moved 1.0 -> 2.0",
        "openssl 3.0.15-1~deb12u1 -> 3.0.16-1~deb12u1",
    ]


def test_only_packages_that_stay_removed_count_as_removals() -> None:
    assert upgrades.pending(LISTING)["removals"] == ["old-thing"]


def test_no_upgrades() -> None:
    assert upgrades.pending("Reading package lists...\n") == {"upgrades": [], "removals": []}


@pytest.mark.parametrize("folder", ["run", "var/run"])
def test_reboot_required_by_the_distribution_is_reported(tmp_path: pathlib.Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert upgrades.reboot_required(str(tmp_path)) == []
    (tmp_path / folder / "reboot-required").touch()
    assert upgrades.reboot_required(str(tmp_path)) == ["unknown packages"]
    (tmp_path / folder / "reboot-required.pkgs").write_text("linux-image\nlibc6\nlibc6\n")
    assert upgrades.reboot_required(str(tmp_path)) == ["libc6", "linux-image"]


@pytest.mark.parametrize(("container", "seconds"), [(False, 27.0), (True, 4.0)])
def test_reboot_time_is_estimated_from_the_last_boot(container: bool, seconds: float) -> None:
    properties = {
        "FirmwareTimestampMonotonic": "12000000",
        "UserspaceTimestampMonotonic": "11000000",
        "FinishTimestampMonotonic": "15000000",
    }
    assert upgrades.boot_seconds(properties, container) == seconds


def test_unfinished_boot_gives_no_estimate() -> None:
    assert upgrades.boot_seconds({"FinishTimestampMonotonic": "0"}, False) == 0.0
