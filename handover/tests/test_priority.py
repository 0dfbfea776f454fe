"""What the kernel says about the control group's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gunicorn_handover import priority

EVENTS = "low 0\nhigh 7\nmax 8\noom 5\noom_kill 3\noom_group_kill 0\n"  # memory.events, version 2
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"  # memory.oom_control, version 1


@pytest.mark.parametrize(
    ("groups", "files", "kills"),
    [
        ("0::/system.slice/links.service\n", {"system.slice/links.service/memory.events": EVENTS}, 3),
        ("0::/\n", {"memory.events": EVENTS}, 3),
        ("4:memory:/links\n1:cpu,cpuacct:/links\n", {"memory/links/memory.oom_control": CONTROL}, 4),
        # both versions mounted
        ("4:memory:/links\n0::/links\n", {"memory/links/memory.oom_control": CONTROL}, 4),
        ("3:cpu:/links\n0::/links\n", {"links/memory.events": EVENTS}, 3),
        # the group's name may contain a colon
        ("0::/a:b\n", {"a:b/memory.events": EVENTS}, 3),
        # an older kernel doesn't count
        ("4:memory:/links\n", {"memory/links/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, None),
        ("0::/links\n", {}, None),
        ("", {}, None),
    ],
)
def test_kills_are_counted_by_the_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], kills: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert priority.oom_kills(str(tmp_path)) == kills


def test_kills_are_unknown_without_proc(tmp_path: Path) -> None:
    assert priority.oom_kills(str(tmp_path)) is None


@pytest.mark.parametrize(("sessions", "nice"), [(0, 0), (1, 0), (2, 3), (5, 7), (9, 10), (17, 13), (1000, 15)])
def test_sessions_of_all_workers_together_weigh_as_one(sessions: int, nice: int) -> None:
    assert priority.shared_niceness(sessions) == nice
