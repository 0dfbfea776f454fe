"""What a host's upkeep takes."""

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


def test_upgrades_are_told_with_their_versions() -> None:
    assert upgrades.pending(LISTING)["upgrades"] == [
        "linux-image-6.1.0-30-amd64 new: 6.1.124-1",
        "moved 1.0 -> 2.0",
        "openssl 3.0.15-1~deb12u1 -> 3.0.16-1~deb12u1",
    ]


def test_only_what_stays_away_counts_as_removed() -> None:
    assert upgrades.pending(LISTING)["removals"] == ["old-thing"]


def test_nothing_to_do() -> None:
    assert upgrades.pending("Reading package lists...\n") == {"upgrades": [], "removals": []}


@pytest.mark.parametrize("folder", ["run", "var/run"])
def test_the_distribution_asks_for_a_reboot(tmp_path: pathlib.Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert upgrades.reboot_required(str(tmp_path)) == []
    (tmp_path / folder / "reboot-required").touch()
    assert upgrades.reboot_required(str(tmp_path)) == ["unknown packages"]
    (tmp_path / folder / "reboot-required.pkgs").write_text("linux-image\nlibc6\nlibc6\n")
    assert upgrades.reboot_required(str(tmp_path)) == ["libc6", "linux-image"]


@pytest.mark.parametrize(("container", "seconds"), [(False, 27.0), (True, 4.0)])
def test_the_last_boot_tells_how_long_one_takes(container: bool, seconds: float) -> None:
    properties = {
        "FirmwareTimestampMonotonic": "12000000",
        "UserspaceTimestampMonotonic": "11000000",
        "FinishTimestampMonotonic": "15000000",
    }
    assert upgrades.boot_seconds(properties, container) == seconds


def test_a_boot_that_is_not_over_tells_nothing() -> None:
    assert upgrades.boot_seconds({"FinishTimestampMonotonic": "0"}, False) == 0.0
