"""Changes that are taken back unless a new connection confirms them: real files, the real script, no systemd."""

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


class Host:
    """A host's root with a firewall's file in it, whose systemd-run and systemctl write down what they are told."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.file, self.new = root / "etc/rules", root / "etc/more"
        self.guard = guard.Guard("firewall", str(root))
        for path in ("etc/systemd/system", "run", "bin"):
            (root / path).mkdir(parents=True)
        self.file.write_text("before")
        self.file.chmod(0o640)
        for name in ("systemd-run", "systemctl"):
            (root / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$*" >> {root}/told\n')
            (root / "bin" / name).chmod(0o755)
        self.wanted = [DesiredFile(self.file), DesiredFile(self.new), DesiredFile(root / "etc", state="directory")]

    def begin(self, token: str = "one", *, apply: str = ":", reconnects: bool = False) -> None:
        """As the module does when something has to change."""
        change = guard.Change("echo the rules of before", apply, f"cat > {self.root}/loaded", 60)
        with self.guard.exclusive():
            self.guard.change(token, change, self.wanted, self.write, reconnects=reconnects)

    def write(self) -> None:
        """The change."""
        self.file.write_text("after")
        self.file.chmod(0o600)
        self.new.write_text("after")

    def script(self) -> int:
        """What the timer and the next boot run."""
        return subprocess.run(["/bin/sh", self.guard.folder / "undo"], check=False, capture_output=True).returncode

    def is_as_before(self) -> bool:
        rights = self.file.stat().st_mode & 0o777 if self.file.exists() else 0
        return self.file.read_text() == "before" and rights == 0o640 and not self.new.exists()

    def left(self) -> list[str]:
        """What there still is of a change that would take itself back."""
        found = [*self.root.glob("etc/systemd/system/**/*baton*"), *self.root.glob("run/*"), self.guard.folder]
        return [str(path) for path in found if path.exists() or path.is_symlink()]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(guard, "GRACE", 0.2)
    monkeypatch.setattr(guard, "PAUSE", 0.01)
    return Host(tmp_path)


def test_a_change_without_a_confirmation_is_taken_back_whole(host: Host) -> None:
    host.begin()
    told = (host.root / "told").read_text()
    assert "--on-active=60" in told
    assert f"/bin/sh {host.guard.folder}/undo" in told
    assert host.script() == 0
    assert host.is_as_before()
    # and what was in force is again
    assert (host.root / "loaded").read_text() == "the rules of before\n"
    assert host.guard.confirm("one") == ("undone", "")
    assert host.left() == []


def test_a_boot_takes_it_back_before_anything_reads_the_files(host: Host) -> None:
    host.begin()
    unit = (host.root / "etc/systemd/system/baton-undo-firewall-boot.service").read_text()
    link = host.root / "etc/systemd/system/sysinit.target.wants/baton-undo-firewall-boot.service"
    assert "nftables.service" in unit.partition("Before=")[2].partition("\n")[0]
    assert f"ExecStart=/bin/sh {host.guard.folder}/undo\n" in unit
    assert link.exists()
    # /run is empty then
    (host.root / "run/baton-undo-firewall").unlink()
    assert host.script() == 0
    assert host.is_as_before()
    assert not (host.root / "loaded").exists()
    assert host.left() == []


def test_a_confirmed_change_stays(host: Host) -> None:
    host.begin()
    assert host.guard.confirm("another") == ("unknown", "")
    assert host.guard.confirm("one") == ("confirmed", "")
    assert "stop baton-undo-firewall.timer" in (host.root / "told").read_text()
    assert (host.file.read_text(), host.new.read_text()) == ("after", "after")
    assert host.left() == []
    # asked again, as the answer may have been lost
    assert host.guard.confirm("one") == ("confirmed", "")


def test_a_script_that_was_started_before_a_confirmation_finds_nothing_to_do(host: Host) -> None:
    host.begin()
    script = (host.guard.folder / "undo").read_text()
    host.guard.confirm("one")
    assert subprocess.run(["/bin/sh"], input=script, text=True, check=False).returncode == 0
    assert host.file.read_text() == "after"


def test_a_script_that_comes_too_late_leaves_the_next_change_alone(host: Host) -> None:
    host.begin()
    script = (host.guard.folder / "undo").read_text()
    host.guard.confirm("one")
    host.begin("two")
    assert subprocess.run(["/bin/sh"], input=script, text=True, check=False).returncode == 0
    assert host.file.read_text() == "after"
    assert host.guard.confirm("two") == ("confirmed", "")


def test_the_connection_of_before_confirms_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = ["10.0.0.1 4000 10.0.0.5 22", "10.0.0.1 4000 10.0.0.5 22", "10.0.0.1 4001 10.0.0.5 22"]
    monkeypatch.setattr(guard, "connection", lambda: connections.pop(0))
    host.begin(reconnects=True)
    assert host.guard.confirm("one")[0] == "pending"
    assert host.guard.confirm("one")[0] == "confirmed"


@pytest.mark.parametrize("confirmed", [True, False])
def test_the_next_change_waits_for_the_end_of_one_whose_controller_may_be_alive(host: Host, confirmed: bool) -> None:
    host.begin()
    end: Callable[[], object] = (lambda: host.guard.confirm("one")) if confirmed else host.script
    timer = threading.Timer(0.1, end)
    timer.start()
    with host.guard.exclusive():
        assert host.is_as_before() is not confirmed
        assert host.left() == []
    timer.join()


def test_one_that_nothing_ends_is_taken_back_by_the_next(host: Host) -> None:
    host.begin()
    armed = host.guard.folder / "armed"
    # its timer was stopped by hand
    armed.write_text(json.dumps({**json.loads(armed.read_text()), "seconds": 0}))
    with host.guard.exclusive():
        assert host.is_as_before()


def test_an_undo_that_failed_is_not_taken_for_one(host: Host) -> None:
    host.begin()
    (host.root / "run/baton-undo-firewall").unlink()
    saved = host.guard.folder / "saved/0"
    kept = saved.read_bytes()
    saved.unlink()
    assert host.script() == 1
    assert host.guard.confirm("one") == ("pending", "the previous configuration is being restored")
    # mended, and started again
    saved.write_bytes(kept)
    saved.chmod(0o640)
    assert host.script() == 0
    assert host.is_as_before()


def test_an_undo_that_finds_nothing_to_do_beside_an_armed_change_is_not_taken_for_one(host: Host) -> None:
    host.begin()
    (host.guard.folder / "undo").write_text("exit 0\n")
    with pytest.raises(guard.GuardError, match="no reason is known"):
        host.guard.undo()


@pytest.mark.parametrize(("command", "answer"), [("", True), ("true", True), ("false", False), ("exit 3", False)])
def test_files_are_in_force_where_their_command_says_so(command: str, answer: bool) -> None:
    assert guard.is_applied(command) is answer


def test_without_a_timer_nothing_is_touched(host: Host) -> None:
    (host.root / "bin/systemd-run").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    with pytest.raises(guard.GuardError, match="no bus"):
        host.begin()
    assert host.is_as_before()
    assert host.left() == []


def test_files_that_cannot_be_put_into_force_are_put_back_at_once(host: Host) -> None:
    with pytest.raises(guard.GuardError, match=r"line 3: no\. The previous configuration has been restored\."):
        host.begin(apply="echo line 3: no >&2; false")
    assert host.is_as_before()
    assert host.left() == []


def test_files_that_cannot_be_written_are_put_back_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        host.file.write_text("after")
        raise OSError("the disk is full")

    monkeypatch.setattr(host, "write", write)
    with pytest.raises(OSError, match="the disk is full"):
        host.begin()
    assert host.is_as_before()
    assert host.left() == []


def test_a_timer_that_fires_amid_a_slow_change_takes_all_of_it_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: list[subprocess.Popen[bytes]] = []
    write = host.write

    def slow() -> None:
        script = host.guard.folder / "undo"
        # it says that it has begun
        script.write_text(script.read_text().replace("flock 9", f"echo > {host.root}/begun\nflock 9"))
        scripts.append(subprocess.Popen(["/bin/sh", script]))
        while not (host.root / "begun").exists():
            time.sleep(0.01)
        # one that doesn't wait is done by then
        with contextlib.suppress(subprocess.TimeoutExpired):
            scripts[0].wait(0.5)
        write()

    monkeypatch.setattr(host, "write", slow)
    host.begin()
    assert scripts[0].wait() == 0
    assert host.is_as_before()
    assert host.guard.confirm("one") == ("undone", "")


def test_the_connection_is_that_of_the_process_that_sshd_started() -> None:
    ask = (
        "from ansible_collections.baton.web.plugins.module_utils.host import guard; print(guard.connection() or 'none')"
    )
    # as sudo does: a process without the variable, started by one that has it
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
