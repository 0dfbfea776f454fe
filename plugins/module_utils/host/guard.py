"""Changes that a host takes back by itself unless a new connection confirms them: what could lock everybody out.

What was there is kept in a folder, with a script that puts it back. A timer runs the script while the host is up, a
unit that is there only as long runs it at the next boot. A lock keeps script, change and confirmation apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from . import file_lock, systemd
from .command import make_folder
from .files import DesiredFile

State = Literal["confirmed", "undone", "pending", "unknown"]
GRACE = 30.0  # seconds that an undo may take beyond its time
PAUSE = 0.2  # seconds between two looks

_SCRIPT = """\
#!/bin/sh
# Puts back what was there before a change that no new connection has confirmed. Made by baton.web.guarded_files.
exec 9> {folder}.ending || exit 1
flock 9
cd {folder} 2> /dev/null || exit 0
grep -qs {token} armed undoing || exit 0
[ -e undoing ] || mv armed undoing 2> /dev/null || exit 0
failed=0
restore() {{
  cp -a "$1" "$2.baton-undo" && mv -f "$2.baton-undo" "$2" || failed=1
}}
{files}
sync
# after a reboot nothing of the change is in the memory of anything
if [ -e {marker} ]; then
  ( {undo}
  ) < before || failed=1
fi
[ $failed = 0 ] || exit 1
mv undoing {folder}.undone
rm -f {unit} {link} {marker}
rm -rf {folder}
echo 'No new connection has confirmed the change of the {name} configuration: what was there before is back.'
"""

_UNIT = """\
[Unit]
Description=Put back the former {name} configuration, as a reboot left its change unconfirmed
DefaultDependencies=no
RequiresMountsFor={paths}
After=local-fs.target
Before=sysinit.target nftables.service ssh.service ssh.socket

[Service]
Type=oneshot
ExecStart=/bin/sh {folder}/undo

[Install]
WantedBy=sysinit.target
"""


class GuardError(Exception):
    """A change can't be guarded, or was taken back at once. The message says why."""


@dataclasses.dataclass(frozen=True)
class Change:
    """What a change needs besides its files; the commands are a shell's, run as root."""

    before: str  # prints what is in force, for `undo`
    apply: str  # puts the files into force
    undo: str  # puts what `before` printed, its standard input, and the former files into force
    seconds: int  # within which a new connection has to confirm it


class Guard:
    """The one change of this name that may be waiting for its confirmation on this host."""

    def __init__(self, name: str, root: str = "/") -> None:
        """`root` is another folder in tests alone."""
        top = pathlib.Path(root)
        self.name = name
        self.folder = top / "var/lib/baton-undo" / name
        self.timed = f"baton-undo-{name}"
        self._marker = top / "run" / self.timed
        self._unit = top / "etc/systemd/system" / f"{self.timed}-boot.service"
        self._link = self._unit.parent / "sysinit.target.wants" / self._unit.name

    def _beside(self, kind: str) -> pathlib.Path:
        return self.folder.with_name(f"{self.name}.{kind}")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process begin a change of this name, and wait for the end of one that was begun.

        One that nothing ends, as its timer was stopped by hand, is undone.
        """
        make_folder(self.folder.parent, 0o700)
        with self._beside("lock").open("w") as lock:
            if not file_lock.taken_within(lock, 600):
                raise GuardError(
                    f"Another run has been changing {self.name} for ten minutes. Look for it, then try again."
                )
            deadline = time.monotonic() + float(self._told("armed").get("seconds", 0)) + GRACE
            while not self._has_ended():
                if time.monotonic() > deadline:
                    self.undo()
                time.sleep(PAUSE)
            yield

    def _has_ended(self) -> bool:
        """Whether no change waits for its end; then nothing is left of any."""
        with self._ending():
            if (self.folder / "armed").exists() or (self.folder / "undoing").exists():
                return False
            # of an arming that was killed before anything was touched, or of a confirmation that was
            self._forget()
            return True

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Let no other process make, confirm or take back a change meanwhile; the script takes the same lock."""
        with self._beside("ending").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def change(
        self, token: str, change: Change, files: Sequence[DesiredFile], write: Callable[[], object], *, reconnects: bool
    ) -> None:
        """Change the files by `write` and put them into force, to be confirmed by `token`.

        Without `reconnects` there is no connection that could be cut, and any confirmation will do. Raises GuardError
        and what `write` raises, with nothing touched or all put back.
        """
        with self._ending():
            self._arm(token, change, files, reconnects=reconnects)
            try:
                write()
                done = _shell(change.apply, change.seconds)
                wrong = (done.stderr or done.stdout).strip().rstrip(".") or "it said nothing" if done.returncode else ""
                failure: Exception | None = GuardError(f"{wrong}. What was there before is back.") if wrong else None
            except Exception as error:
                failure = error
        if failure:
            self.undo()
            raise failure

    def _arm(self, token: str, change: Change, files: Sequence[DesiredFile], *, reconnects: bool) -> None:
        """Keep what is there and start the timer. Raises GuardError, with nothing touched."""
        saved = self.folder / "saved"
        make_folder(saved, 0o700)
        lines = []
        for number, path in enumerate(file.path for file in files if file.state != "directory"):
            if path.exists():
                # owner, mode and all, as the script copies it back
                subprocess.run(["cp", "-a", str(path), str(saved / str(number))], check=True, capture_output=True)
                lines.append(f"restore saved/{number} {shlex.quote(str(path))}")
            else:
                lines.append(f"rm -f {shlex.quote(str(path))} || failed=1")
        before = _shell(change.before)
        if before.returncode:
            raise GuardError(f"What is in force can't be read: {before.stderr.strip()}")
        (self.folder / "before").write_text(before.stdout)
        places = {"folder": self.folder, "unit": self._unit, "link": self._link, "marker": self._marker}
        script = _SCRIPT.format(name=self.name, token=token, files="\n".join(lines), undo=change.undo.strip(), **places)
        (self.folder / "undo").write_text(script)
        paths = sorted({str(self.folder), *(str(file.path.parent) for file in files)})
        make_folder(self._link.parent)
        self._unit.write_text(_UNIT.format(name=self.name, folder=self.folder, paths=" ".join(paths)))
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._unit)
        self._marker.touch()
        about = {"token": token, "seconds": change.seconds, "connection": connection() if reconnects else ""}
        (self.folder / "armed").write_text(json.dumps(about))
        os.sync()
        run = ["systemd-run", "--quiet", "--collect", f"--unit={self.timed}", f"--on-active={change.seconds}"]
        run += ["--timer-property=AccuracySec=100ms", "--property=Restart=on-failure", "--property=RestartSec=5"]
        run += ["--service-type=oneshot", "/bin/sh", str(self.folder / "undo")]
        started = subprocess.run(run, check=False, text=True, capture_output=True, stdin=subprocess.DEVNULL)
        if started.returncode:
            self._forget()
            raise GuardError(f"No timer can be started that would take it back: {started.stderr.strip()}")

    def undo(self) -> None:
        """Put back what was there, now. Raises GuardError."""
        done = subprocess.run(
            ["/bin/sh", str(self.folder / "undo")],
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode or self.folder.exists():
            raise GuardError(
                f"What was there before can't be put back: {done.stderr.strip() or 'no reason is known'}. "
                f"Run /bin/sh {self.folder}/undo on the host when that is mended."
            )
        self._stop()

    def confirm(self, token: str) -> tuple[State, str]:
        """Keep the change, if a new connection is used; how it has ended, or why it waits."""
        with self._ending():
            return self._confirm(token)

    def _confirm(self, token: str) -> tuple[State, str]:
        told = self._told("armed")
        if told.get("token") == token:
            if told["connection"] and told["connection"] == connection():
                return "pending", "the connection is still the one that was there before the change"
            (self.folder / "armed").rename(self._beside("confirmed"))
            self._forget()
            return "confirmed", ""
        if self._told("undoing").get("token") == token:
            return "pending", "what was there before is being put back"
        # an answer may have been lost on its way
        endings: tuple[State, ...] = ("confirmed", "undone")
        return next((end for end in endings if _read(self._beside(end)).get("token") == token), "unknown"), ""

    def _told(self, name: str) -> dict[str, Any]:
        return _read(self.folder / name)

    def _forget(self) -> None:
        """Leave nothing of a change that has ended, or that never began."""
        if self.folder.exists():
            self._stop()
            for path in (self._link, self._unit, self._marker):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def _stop(self) -> None:
        # the script finds nothing to do where it runs all the same
        with contextlib.suppress(subprocess.TimeoutExpired):
            systemd.systemctl("stop", f"{self.timed}.timer")


def _read(path: pathlib.Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        told: dict[str, Any] = json.loads(path.read_text())
        return told
    return {}


def in_force(command: str) -> bool:
    """Whether a command says that the files are in force as they are; without one they are."""
    return not command or _shell(command).returncode == 0


def _shell(command: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        check=False,
        text=True,
        errors="replace",
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def connection(proc: str = "/proc", pid: int | None = None) -> str:
    """The SSH connection over which this process was started, as sshd writes SSH_CONNECTION; empty where none was.

    sudo drops the variable, so it is asked of the processes that started this one.
    """
    pid = pid or os.getpid()
    while pid > 1:
        folder = pathlib.Path(proc, str(pid))
        try:
            environment = (folder / "environ").read_bytes()
            parent = re.search(r"^PPid:\s+(\d+)", (folder / "status").read_text(errors="replace"), re.MULTILINE)
        except OSError:
            return ""
        for item in environment.split(b"\0"):
            if item.startswith(b"SSH_CONNECTION="):
                return item.partition(b"=")[2].decode(errors="replace")
        pid = int(parent[1]) if parent else 0
    return ""
