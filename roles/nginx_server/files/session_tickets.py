#!/usr/bin/python3
"""Keys of nginx's TLS session tickets, which are the same on all edges without communication between them.

    begin HOURS          on the controller: reads the secret, prints the initial state for hosts (JSON)
    install [--dry-run]  on a host: reads that state, and uses it unless the present one derives from the same secret
    rotate               on a host, by a timer: advances to the current period, and reloads nginx

Time is divided into periods of HOURS, counted from 1970. Each period has a state, the hash of the previous state, and
the key derives from the state. A host keeps only the last period's state and replaces it with the next one, so a stolen
disk doesn't reveal the keys of older traffic. nginx encrypts with the current key, and also accepts tickets of the last
and of the next period; the latter come from edges whose timer was earlier.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import hmac
import json
import os
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path("/var/lib/nginx-session-tickets")
LOADED = pathlib.Path("/run/nginx.loaded")
NGINX = "nginx.service"
NAMES = ("previous.key", "current.key", "next.key")


@dataclasses.dataclass(frozen=True)
class State:
    """The state from which the keys of a period and of all later ones derive."""

    chain: str  # identifies secret and length of a period, without revealing the secret
    hours: int
    period: int
    secret: str  # hexadecimal

    @classmethod
    def first(cls, secret: bytes, hours: int) -> State:
        """Return the state of period 0."""
        root = _derive(secret, f"period of {hours} hours")
        return cls(_derive(root, "chain").hex()[:16], hours, 0, root.hex())

    @classmethod
    def read(cls, text: str) -> State:
        """Parse a state. Raises ValueError."""
        data = json.loads(text)
        try:
            state = cls(str(data["chain"]), int(data["hours"]), int(data["period"]), str(data["secret"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a valid state: {error}") from None
        if state.hours < 1 or len(bytes.fromhex(state.secret)) != hashlib.sha256().digest_size:
            raise ValueError("not a valid state")
        return state

    def text(self) -> str:
        """Return the state in the format of `read`."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    def at(self, period: int) -> State:
        """Return the state of a later period; itself for an earlier one, which can't be derived."""
        secret = bytes.fromhex(self.secret)
        for _ in range(self.period, period):
            secret = hashlib.sha256(b"next period" + secret).digest()
        return dataclasses.replace(self, period=max(self.period, period), secret=secret.hex())

    def last_period(self, now: float) -> int:
        """Return the number of the period before that of `now` (seconds since 1970)."""
        return int(now) // (self.hours * 3600) - 1

    def key(self) -> bytes:
        """Return the 80 bytes that nginx reads: a name, a key for HMAC-SHA256, a key for AES-256."""
        secret = bytes.fromhex(self.secret)
        return _derive(secret, "name")[:16] + _derive(secret, "hmac") + _derive(secret, "aes")


def _derive(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"nginx session tickets: {purpose}".encode(), hashlib.sha256).digest()


def begin(secret: bytes, hours: int, now: float) -> State:
    """Return the initial state for hosts, that of the last period."""
    state = State.first(secret, hours)
    return state.at(state.last_period(now))


def install(wanted: State, folder: pathlib.Path, *, dry: bool) -> bool:
    """Install a state unless the host has one of the same secret. Returns whether anything changes."""
    present = _present(folder)
    # a state that is too far ahead comes from a wrong clock: the other edges would never have its keys
    if present is not None and present.chain == wanted.chain and present.period <= wanted.period + 1:
        if _written(folder, present):
            return False
        wanted = present
    if not dry:
        folder.mkdir(mode=0o700, exist_ok=True)
        _keep(folder, wanted)
    return True


def rotate(folder: pathlib.Path, now: float) -> None:
    """Advance to the current period. Raises ValueError or OSError if there is no state."""
    present = State.read((folder / "state.json").read_text())
    state = present.at(present.last_period(now))
    if state != present or not _written(folder, state):
        _keep(folder, state)


def is_newer(folder: pathlib.Path, loaded: pathlib.Path) -> bool:
    """Whether nginx hasn't loaded the keys yet."""
    try:
        read = loaded.stat().st_mtime
    except FileNotFoundError:
        return True
    # if the clock was set back since, newer keys may seem older
    return read > time.time() or any((folder / name).stat().st_mtime > read for name in NAMES)


def _present(folder: pathlib.Path) -> State | None:
    try:
        return State.read((folder / "state.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _keys(state: State) -> dict[str, bytes]:
    return {name: state.at(state.period + ahead).key() for ahead, name in enumerate(NAMES)}


def _written(folder: pathlib.Path, state: State) -> bool:
    try:
        return all((folder / name).read_bytes() == key for name, key in _keys(state).items())
    except FileNotFoundError:
        return False


def _keep(folder: pathlib.Path, state: State) -> None:
    """Write keys and state; the state last, so that a killed run can't leave a state without keys."""
    for name, content in (*_keys(state).items(), ("state.json", state.text().encode())):
        scratch = folder / f".{name}"
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / name)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reload() -> int:
    """Reload nginx if it runs; return systemctl's status. If it fails, print what nginx logged."""
    since = time.time()
    status = subprocess.run(["systemctl", "try-reload-or-restart", NGINX], check=False).returncode
    if status:
        # journald may process it after systemctl returns
        subprocess.run(["journalctl", "--sync"], check=False)
        words = ["--quiet", "--no-pager", "--output=cat", f"--since=@{since:.3f}", f"_SYSTEMD_UNIT={NGINX}"]
        subprocess.run(["journalctl", *words], check=False)
    return status


def main() -> int:
    """Run the action of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("begin").add_argument("hours", type=int)
    actions.add_parser("install").add_argument("--dry-run", action="store_true")
    actions.add_parser("rotate").add_argument("--at", type=float, help="use this time (seconds since 1970)")
    given = parser.parse_args()
    if given.action == "begin":
        print(begin(sys.stdin.buffer.read(), given.hours, time.time()).text(), end="")
    elif given.action == "install":
        changed = install(State.read(sys.stdin.read()), FOLDER, dry=given.dry_run)
        print("changed" if changed else "ok")
    else:
        rotate(FOLDER, time.time() if given.at is None else given.at)
        if is_newer(FOLDER, LOADED):
            return reload()
    return 0


if __name__ == "__main__":
    sys.exit(main())
