"""Changes that could lock everybody out: the host reverts them unless a new connection confirms them.

The previous files are kept in a folder with a script that restores them. A timer runs the script while the host is up,
and a unit that exists only during the change runs it at the next boot. A lock serializes script, change and
confirmation.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from . import atomic_file, file_lock, systemd
from .command import make_folder
from .files import DesiredFile

State = Literal["confirmed", "undone", "pending", "unknown"]
GRACE = 30.0  # seconds after the deadline within which the undo must have ended
PAUSE = 0.2  # seconds between two checks

_SCRIPT = """\
#!/bin/sh
# Restores the state before a change that no new connection has confirmed. Written by baton.web.guarded_files.
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
# after a reboot nothing of the change is loaded
if [ -e {marker} ]; then
  ( {undo}
  ) < before || failed=1
fi
[ $failed = 0 ] || exit 1
mv undoing {folder}.undone
rm -f {unit} {link} {marker}
rm -rf {folder}
echo 'No new connection has confirmed the change of the {name} configuration: the previous one has been restored.'
"""

_UNIT = """\
[Unit]
Description=Restore the previous {name} configuration after a reboot during an unconfirmed change
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
    """A change can't be guarded, or was reverted immediately. The message says why."""


@dataclasses.dataclass(frozen=True)
class Change:
    """The shell commands of a change, which run as root."""

    before: str  # prints the active configuration, for `undo`
    apply: str  # applies the new files
    undo: str  # applies the previous files and the output of `before`, its standard input
    seconds: int  # time limit for the confirmation by a new connection


class Guard:
    """The change of this name on this host; only one can wait for its confirmation at a time."""

    def __init__(self, name: str, root: str = "/") -> None:
        """`root` is only another folder in tests."""
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
    def exclusive(self) -> Iterator[None]:
        """Prevent other changes of this name, and wait for the end of one that is running. Raises GuardError.

        Undoes a change that never ends because its timer was stopped.
        """
        make_folder(self.folder.parent, 0o700)
        with self._beside("lock").open("w") as lock:
            if not file_lock.taken_within(lock, 600):
                raise GuardError(
                    f"Another run has been changing the {self.name} configuration for ten minutes. Find and end it, "
                    "then run this again."
                )
            deadline = time.monotonic() + float(self._read("armed").get("seconds", 0)) + GRACE
            while not self._has_ended():
                if time.monotonic() > deadline:
                    self.undo()
                time.sleep(PAUSE)
            yield

    def _has_ended(self) -> bool:
        """Whether no change is waiting; then also removes left-overs of killed ones."""
        with self._ending():
            if (self.folder / "armed").exists() or (self.folder / "undoing").exists():
                return False
            # left-overs of a change that was killed before it began, or during its confirmation
            self._clean_up()
            return True

    def _ending(self) -> contextlib.AbstractContextManager[None]:
        """Prevent that another process makes, confirms or undoes a change; the script takes the same lock."""
        return file_lock.held(self._beside("ending"))

    def change(
        self, token: str, change: Change, files: Sequence[DesiredFile], write: Callable[[], object], *, reconnects: bool
    ) -> None:
        """Change the files with `write` and apply them; `confirm` with `token` must follow.

        `reconnects`: whether the confirmation must come over a new connection; false if there is no connection that
        could be cut. Raises GuardError and the errors of `write`, with nothing changed or everything restored.
        """
        with self._ending():
            self._arm(token, change, files, reconnects=reconnects)
            try:
                write()
                done = _shell(change.apply, change.seconds)
                output = (done.stderr or done.stdout).strip().rstrip(".") or "it failed without a message"
                failure: Exception | None = None
                if done.returncode:
                    failure = GuardError(f"{output}. The previous configuration has been restored.")
            except Exception as error:
                failure = error
        if failure:
            self.undo()
            raise failure

    def _arm(self, token: str, change: Change, files: Sequence[DesiredFile], *, reconnects: bool) -> None:
        """Keep the previous files and start the timer. Raises GuardError, with nothing changed."""
        saved = self.folder / "saved"
        make_folder(saved, 0o700)
        lines = []
        for number, path in enumerate(file.path for file in files if file.state != "directory"):
            if path.exists():
                # with owner and mode, for the script
                subprocess.run(["cp", "-a", str(path), str(saved / str(number))], check=True, capture_output=True)
                lines.append(f"restore saved/{number} {shlex.quote(str(path))}")
            else:
                lines.append(f"rm -f {shlex.quote(str(path))} || failed=1")
        before = _shell(change.before)
        if before.returncode:
            raise GuardError(f"The active configuration can't be read: {before.stderr.strip()}")
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
            self._clean_up()
            raise GuardError(f"The timer that would undo the change can't be started: {started.stderr.strip()}")

    def undo(self) -> None:
        """Restore the previous configuration now. Raises GuardError."""
        done = subprocess.run(
            ["/bin/sh", str(self.folder / "undo")],
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode or self.folder.exists():
            raise GuardError(
                f"The previous configuration can't be restored: {done.stderr.strip() or 'no reason is known'}. "
                f"After fixing the cause, run /bin/sh {self.folder}/undo on the host."
            )
        self._stop()

    def confirm(self, token: str) -> tuple[State, str]:
        """Keep the change, if this is a new connection. Returns its state, and why it is pending."""
        with self._ending():
            return self._confirm(token)

    def _confirm(self, token: str) -> tuple[State, str]:
        armed = self._read("armed")
        if armed.get("token") == token:
            if armed["connection"] and armed["connection"] == connection():
                return "pending", "the connection is still the same as before the change"
            (self.folder / "armed").rename(self._beside("confirmed"))
            # otherwise a boot after a loss of power could restore the previous files
            for folder in (self.folder, self.folder.parent):
                atomic_file.sync_folder(folder)
            self._clean_up()
            return "confirmed", ""
        if self._read("undoing").get("token") == token:
            return "pending", "the previous configuration is being restored"
        # the response to an earlier call may have been lost
        endings: tuple[State, ...] = ("confirmed", "undone")
        return next((end for end in endings if _read(self._beside(end)).get("token") == token), "unknown"), ""

    def _read(self, name: str) -> dict[str, Any]:
        return _read(self.folder / name)

    def _clean_up(self) -> None:
        """Remove all files of a change that has ended or never began."""
        if self.folder.exists():
            self._stop()
            for path in (self._link, self._unit, self._marker):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def _stop(self) -> None:
        # if the script runs nevertheless, it finds nothing to do
        with contextlib.suppress(subprocess.TimeoutExpired):
            systemd.systemctl("stop", f"{self.timed}.timer")


def _read(path: pathlib.Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def is_applied(command: str) -> bool:
    """Whether the files are applied, by the status of a command; true without a command."""
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
    """Return the SSH connection of this process, in the format of SSH_CONNECTION; empty if there is none.

    sudo drops the variable, so it is read from the parent processes.
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
