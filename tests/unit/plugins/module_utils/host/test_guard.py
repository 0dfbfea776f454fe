"""Changes that revert themselves unless a new connection confirms them: real files and script, but no systemd."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import guard
from ansible_collections.baton.web.plugins.module_utils.host.files import DesiredFile

from tests.support.program import write_script


class Host:
    """A host's root with a firewall's file, whose systemd-run and systemctl log their arguments."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.file, self.new = root / "etc/rules", root / "etc/more"
        self.guard = guard.Guard("firewall", str(root))
        for path in ("etc/systemd/system", "run", "bin"):
            (root / path).mkdir(parents=True)
        self.file.write_text("before")
        self.file.chmod(0o640)
        for name in ("systemd-run", "systemctl"):
            write_script(root / "bin" / name, f'echo {name} "$*" >> {root}/calls')
        self.wanted = [DesiredFile(self.file), DesiredFile(self.new), DesiredFile(root / "etc", state="directory")]

    def begin(self, token: str = "one", *, apply: str = ":", reconnects: bool = False) -> None:
        """Start a change, as the module does."""
        change = guard.Change("echo the previous rules", apply, f"cat > {self.root}/loaded", 60)
        with self.guard.exclusive():
            self.guard.change(token, change, self.wanted, self.write, reconnects=reconnects)

    def write(self) -> None:
        """The change."""
        self.file.write_text("after")
        self.file.chmod(0o600)
        self.new.write_text("after")

    def script(self) -> int:
        """Run what the timer and the next boot run."""
        return subprocess.run(["/bin/sh", self.guard.folder / "undo"], check=False, capture_output=True).returncode

    def is_reverted(self) -> bool:
        rights = self.file.stat().st_mode & 0o777 if self.file.exists() else 0
        return self.file.read_text() == "before" and rights == 0o640 and not self.new.exists()

    def leftovers(self) -> list[str]:
        """Everything that still exists of a pending revert."""
        found = [*self.root.glob("etc/systemd/system/**/*baton*"), *self.root.glob("run/*"), self.guard.folder]
        return [str(path) for path in found if path.exists() or path.is_symlink()]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(guard, "GRACE", 0.2)
    monkeypatch.setattr(guard, "PAUSE", 0.01)
    return Host(tmp_path)


def test_unconfirmed_change_is_reverted_completely(host: Host) -> None:
    host.begin()
    calls = (host.root / "calls").read_text()
    assert "--on-active=60" in calls
    assert f"/bin/sh {host.guard.folder}/undo" in calls
    assert host.script() == 0
    assert host.is_reverted()
    # the previous rules are in force again
    assert (host.root / "loaded").read_text() == "the previous rules\n"
    assert host.guard.confirm("one") == ("undone", "")
    assert host.leftovers() == []


def test_boot_reverts_before_anything_reads_the_files(host: Host) -> None:
    host.begin()
    unit = (host.root / "etc/systemd/system/baton-undo-firewall-boot.service").read_text()
    link = host.root / "etc/systemd/system/sysinit.target.wants/baton-undo-firewall-boot.service"
    assert "nftables.service" in unit.partition("Before=")[2].partition("\n")[0]
    assert f"ExecStart=/bin/sh {host.guard.folder}/undo\n" in unit
    assert link.exists()
    # /run is empty after a boot
    (host.root / "run/baton-undo-firewall").unlink()
    assert host.script() == 0
    assert host.is_reverted()
    assert not (host.root / "loaded").exists()
    assert host.leftovers() == []


def test_confirmed_change_stays(host: Host) -> None:
    host.begin()
    assert host.guard.confirm("another") == ("unknown", "")
    assert host.guard.confirm("one") == ("confirmed", "")
    assert "stop baton-undo-firewall.timer" in (host.root / "calls").read_text()
    assert (host.file.read_text(), host.new.read_text()) == ("after", "after")
    assert host.leftovers() == []
    # asked again, because the first answer may have been lost
    assert host.guard.confirm("one") == ("confirmed", "")


def test_script_started_before_a_confirmation_does_nothing(host: Host) -> None:
    host.begin()
    script = (host.guard.folder / "undo").read_text()
    host.guard.confirm("one")
    assert subprocess.run(["/bin/sh"], input=script, text=True, check=False).returncode == 0
    assert host.file.read_text() == "after"


def test_late_script_does_not_revert_the_next_change(host: Host) -> None:
    host.begin()
    script = (host.guard.folder / "undo").read_text()
    host.guard.confirm("one")
    host.begin("two")
    assert subprocess.run(["/bin/sh"], input=script, text=True, check=False).returncode == 0
    assert host.file.read_text() == "after"
    assert host.guard.confirm("two") == ("confirmed", "")


def test_old_connection_confirms_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = ["10.0.0.1 4000 10.0.0.5 22", "10.0.0.1 4000 10.0.0.5 22", "10.0.0.1 4001 10.0.0.5 22"]
    monkeypatch.setattr(guard, "connection", lambda: connections.pop(0))
    host.begin(reconnects=True)
    assert host.guard.confirm("one")[0] == "pending"
    assert host.guard.confirm("one")[0] == "confirmed"


@pytest.mark.parametrize("confirmed", [True, False])
def test_next_change_waits_for_a_pending_one(host: Host, confirmed: bool) -> None:
    host.begin()
    end: Callable[[], object] = (lambda: host.guard.confirm("one")) if confirmed else host.script
    timer = threading.Timer(0.1, end)
    timer.start()
    with host.guard.exclusive():
        assert host.is_reverted() is not confirmed
        assert host.leftovers() == []
    timer.join()


def test_abandoned_change_is_reverted_by_the_next(host: Host) -> None:
    host.begin()
    armed = host.guard.folder / "armed"
    # the timer was stopped manually
    armed.write_text(json.dumps({**json.loads(armed.read_text()), "seconds": 0}))
    with host.guard.exclusive():
        assert host.is_reverted()


def test_failed_revert_is_reported_as_pending(host: Host) -> None:
    host.begin()
    (host.root / "run/baton-undo-firewall").unlink()
    saved = host.guard.folder / "saved/0"
    kept = saved.read_bytes()
    saved.unlink()
    assert host.script() == 1
    assert host.guard.confirm("one") == ("pending", "the previous configuration is being restored")
    # repaired and started again
    saved.write_bytes(kept)
    saved.chmod(0o640)
    assert host.script() == 0
    assert host.is_reverted()


def test_script_that_reverts_nothing_is_an_error(host: Host) -> None:
    host.begin()
    (host.guard.folder / "undo").write_text("exit 0\n")
    with pytest.raises(guard.GuardError, match="no reason is known"):
        host.guard.undo()


@pytest.mark.parametrize(("command", "answer"), [("", True), ("true", True), ("false", False), ("exit 3", False)])
def test_in_force_is_the_exit_status_of_the_command(command: str, answer: bool) -> None:
    assert guard.is_applied(command) is answer


def test_nothing_is_changed_without_a_timer(host: Host) -> None:
    write_script(host.root / "bin/systemd-run", "echo no bus >&2\nexit 1")
    with pytest.raises(guard.GuardError, match="no bus"):
        host.begin()
    assert host.is_reverted()
    assert host.leftovers() == []


def test_files_are_restored_if_they_cannot_be_applied(host: Host) -> None:
    with pytest.raises(guard.GuardError, match=r"line 3: no\. The previous configuration has been restored\."):
        host.begin(apply="echo line 3: no >&2; false")
    assert host.is_reverted()
    assert host.leftovers() == []


def test_files_are_restored_if_they_cannot_be_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        host.file.write_text("after")
        raise OSError("the disk is full")

    monkeypatch.setattr(host, "write", write)
    with pytest.raises(OSError, match="the disk is full"):
        host.begin()
    assert host.is_reverted()
    assert host.leftovers() == []


def test_timer_that_fires_during_a_slow_change_reverts_all_of_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts: list[subprocess.Popen[bytes]] = []
    write = host.write

    def slow() -> None:
        script = host.guard.folder / "undo"
        # mark that the script has started
        script.write_text(script.read_text().replace("flock 9", f"echo > {host.root}/begun\nflock 9"))
        scripts.append(subprocess.Popen(["/bin/sh", script]))
        while not (host.root / "begun").exists():
            time.sleep(0.01)
        # a script that doesn't wait for the lock would be done by then
        with contextlib.suppress(subprocess.TimeoutExpired):
            scripts[0].wait(0.5)
        write()

    monkeypatch.setattr(host, "write", slow)
    host.begin()
    assert scripts[0].wait() == 0
    assert host.is_reverted()
    assert host.guard.confirm("one") == ("undone", "")


def test_connection_is_that_of_the_process_that_sshd_started() -> None:
    ask = (
        "from ansible_collections.baton.web.plugins.module_utils.host import guard; print(guard.connection() or 'none')"
    )
    # like sudo: a process without the variable, whose parent has it
    between = (
        "import subprocess, sys; "
        f"subprocess.run([sys.executable, '-c', {ask!r}], env={{'PYTHONPATH': sys.argv[1]}}, check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", between, os.pathsep.join(sys.path)],
        env={**os.environ, "SSH_CONNECTION": "10.0.0.1 4000 10.0.0.5 22"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "10.0.0.1 4000 10.0.0.5 22\n"
