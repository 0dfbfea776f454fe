"""The processors and memory that a service may use, according to its control groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gunicorn_handover import resources

GIB = 2**30
OWN = "/machine/links"
UNLIMITED = 9223372036854771712  # in version 1
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Creates the root folder of a machine with 8 processors and 16 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def make(mounts: str, groups: str, files: dict[str, object]) -> str:
        for path, text in {
            "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 5 kB\n",
            "proc/self/mountinfo": f"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n{mounts}",
            "proc/self/cgroup": groups,
            **{f"sys/fs/cgroup/{name}": f"{value}\n" for name, value in files.items()},
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return str(tmp_path)

    return make


def v2(quota: str, memory: object, group: str = "") -> dict[str, object]:
    return {f"{group}cpu.max": quota, f"{group}memory.max": memory}


def v1(quota: int, memory: int, group: str = "") -> dict[str, object]:
    return {
        f"cpu,cpuacct{group}/cpu.cfs_quota_us": quota,
        f"cpu,cpuacct{group}/cpu.cfs_period_us": 100000,
        f"memory{group}/memory.limit_in_bytes": memory,
    }


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "cores", "memory"),
    [
        # a container sees its own group as the top
        (V2.format(root="/"), "0::/\n", v2("100000 100000", 2 * GIB), 1, 2048),
        (V2.format(root="/"), "0::/\n", v2("max 100000", "max"), 8, 16384),
        # a quota is rounded up
        (V2.format(root="/"), "0::/\n", v2("150000 100000", "max"), 2, 16384),
        (V2.format(root="/"), "0::/\n", v2("10000 100000", "max"), 1, 16384),
        # a quota beyond the machine
        (V2.format(root="/"), "0::/\n", v2("6400000 100000", 64 * GIB), 8, 16384),
        # a systemd unit or a pod: the limit of a parent group applies, too
        (
            V2.format(root="/"),
            f"0::{OWN}\n",
            {**v2("400000 100000", GIB, "machine/links/"), **v2("200000 100000", 2 * GIB, "machine/")},
            2,
            1024,
        ),
        # above memory.high the kernel reclaims memory and throttles the service
        (V2.format(root="/"), "0::/\n", {"memory.max": 4 * GIB, "memory.high": 3 * GIB}, 8, 3072),
        # version 1, the group mounted as the root, its path given from the host's root
        (V1.format(root=OWN), f"4:memory:{OWN}\n1:cpuacct,cpu:{OWN}\n", v1(100000, GIB), 1, 1024),
        (V1.format(root="/"), "4:memory:/\n1:cpuacct,cpu:/\n", v1(-1, UNLIMITED), 8, 16384),
        (
            V1.format(root="/"),
            f"4:memory:{OWN}\n1:cpuacct,cpu:{OWN}\n",
            {**v1(-1, UNLIMITED, OWN), **v1(250000, 3 * GIB, "/machine")},
            3,
            3072,
        ),
        # both versions mounted
        (HYBRID.format(root=OWN), f"4:memory:{OWN}\n1:cpuacct,cpu:{OWN}\n0::{OWN}\n", v1(300000, GIB), 3, 1024),
        # no readable control groups
        ("", "", {}, 8, 16384),
        (V2.format(root="/"), "0::/../elsewhere\n", v2("nonsense", ""), 8, 16384),
    ],
)
def test_limits_of_control_groups_apply(
    machine: Callable[..., str], mounts: str, groups: str, files: dict[str, object], cores: int, memory: int
) -> None:
    root = machine(mounts, groups, files)
    assert (resources.cores(root), resources.memory_mb(root)) == (cores, memory)


def test_cores_respect_affinity(machine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(V2.format(root="/"), "0::/\n", v2("400000 100000", "max"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert resources.cores(root) == 1


def test_resources_of_this_machine_are_readable() -> None:
    assert 1 <= resources.cores() <= len(os.sched_getaffinity(0))
    assert resources.memory_mb() > 0
