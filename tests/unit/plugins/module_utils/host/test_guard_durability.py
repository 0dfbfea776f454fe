"""A guarded change survives a power loss: the boot restores the previous files, unless the change was confirmed."""

from __future__ import annotations

import pytest

from tests.unit.plugins.module_utils.activation.test_durability import Recorder, state_of
from tests.unit.plugins.module_utils.host.test_guard import Host, host  # noqa: F401


def test_everything_that_restores_the_files_is_on_the_disk_before_they_change(
    host: Host,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(host.root, monkeypatch)
    unit = host.root / "etc/systemd/system/baton-undo-firewall-boot.service"
    paths = [*(host.guard.folder / name for name in ("saved/0", "before", "undo", "armed")), unit]
    write, checked = host.write, []

    def change() -> None:
        for path in paths:
            assert recorder.on_disk.get(path.stat().st_ino) == state_of(path), path
            checked.append(path)
        recorder.check(unit.parent / "sysinit.target.wants" / unit.name)
        write()

    monkeypatch.setattr(host, "write", change)
    host.begin()
    assert checked == paths


def test_confirmation_is_durable(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    recorder = Recorder(host.root, monkeypatch)
    host.begin()
    assert host.guard.confirm("one") == ("confirmed", "")
    recorder.check(host.guard.folder.with_name("firewall.confirmed"))


def test_script_syncs_the_restored_files_before_it_removes_itself(host: Host) -> None:  # noqa: F811
    host.begin()
    lines = (host.guard.folder / "undo").read_text().splitlines()
    restored = max(number for number, line in enumerate(lines) if line.startswith("restore saved/"))
    removed = next(number for number, line in enumerate(lines) if line.startswith("mv undoing "))
    assert restored < lines.index("sync") < removed
