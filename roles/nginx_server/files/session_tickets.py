#!/usr/bin/python3
"""Keys of nginx's TLS session tickets, the same on all edges without a word between them.

    begin HOURS          on the controller: reads the secret, prints what a host begins with (JSON)
    install [--dry-run]  on a host: reads that, and takes it unless what is there follows from the same secret
    rotate               on a host, by a timer: goes on to the present period, and reloads nginx

Time is cut into periods of HOURS, counted from 1970. Each period has a state, the hash of the one before, and the key
follows from the state. A host keeps the state of the last period only and forgets it with the next, so a stolen disk
doesn't say which keys older traffic had. nginx encrypts by the present key, and takes tickets of the last period and of
the next, which is that of an edge whose timer was quicker.
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
NAMES = ("previous.key", "current.key", "next.key")


@dataclasses.dataclass(frozen=True)
class State:
    """What the keys of a period and of all later ones follow from."""

    chain: str  # names the secret and the length of a period, and tells nothing of the secret
    hours: int
    period: int
    secret: str  # hexadecimal

    @classmethod
    def first(cls, secret: bytes, hours: int) -> State:
        """That of the period 0."""
        root = _derive(secret, f"period of {hours} hours")
        return cls(_derive(root, "chain").hex()[:16], hours, 0, root.hex())

    @classmethod
    def read(cls, text: str) -> State:
        """What `text` says. Raises ValueError."""
        data = json.loads(text)
        try:
            state = cls(str(data["chain"]), int(data["hours"]), int(data["period"]), str(data["secret"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state: {error}") from None
        if state.hours < 1 or len(bytes.fromhex(state.secret)) != hashlib.sha256().digest_size:
            raise ValueError("no state")
        return state

    def text(self) -> str:
        """Itself as `read` takes it."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    def at(self, period: int) -> State:
        """That of a later period; an earlier one can't be had, and this one stays."""
        secret = bytes.fromhex(self.secret)
        for _ in range(self.period, period):
            secret = hashlib.sha256(b"next period" + secret).digest()
        return dataclasses.replace(self, period=max(self.period, period), secret=secret.hex())

    def last_period(self, now: float) -> int:
        """The number of the period before the one that `now` is in."""
        return int(now) // (self.hours * 3600) - 1

    def key(self) -> bytes:
        """The 80 bytes that nginx reads: a name, a key for HMAC-SHA256, a key for AES-256."""
        secret = bytes.fromhex(self.secret)
        return _derive(secret, "name")[:16] + _derive(secret, "hmac") + _derive(secret, "aes")


def _derive(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"nginx session tickets: {purpose}".encode(), hashlib.sha256).digest()


def begin(secret: bytes, hours: int, now: float) -> State:
    """What a host begins with: the state of the last period."""
    state = State.first(secret, hours)
    return state.at(state.last_period(now))


def install(wanted: State, folder: pathlib.Path, *, dry: bool) -> bool:
    """Take a state unless the host has one of the same secret; whether that is a change."""
    present = _present(folder)
    # one that is ahead is of a clock that was wrong: the other edges would never meet it
    if present is not None and present.chain == wanted.chain and present.period <= wanted.period + 1:
        if _written(folder, present):
            return False
        wanted = present
    if not dry:
        folder.mkdir(mode=0o700, exist_ok=True)
        _keep(folder, wanted)
    return True


def rotate(folder: pathlib.Path, now: float) -> None:
    """Go on to the present period. Raises ValueError or OSError where there is no state."""
    present = State.read((folder / "state.json").read_text())
    state = present.at(present.last_period(now))
    if state != present or not _written(folder, state):
        _keep(folder, state)


def is_newer(folder: pathlib.Path, loaded: pathlib.Path) -> bool:
    """Whether nginx hasn't read the keys yet."""
    try:
        read = loaded.stat().st_mtime
    except FileNotFoundError:
        return True
    return any((folder / name).stat().st_mtime > read for name in NAMES)


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
    """The keys first: with a state alone, a run that was killed would leave none."""
    for name, content in (*_keys(state).items(), ("state.json", state.text().encode())):
        scratch = folder / f".{name}"
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / name)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("begin").add_argument("hours", type=int)
    actions.add_parser("install").add_argument("--dry-run", action="store_true")
    actions.add_parser("rotate").add_argument("--at", type=float, help="as if it were then (seconds since 1970)")
    given = parser.parse_args()
    if given.action == "begin":
        print(begin(sys.stdin.buffer.read(), given.hours, time.time()).text(), end="")
    elif given.action == "install":
        changed = install(State.read(sys.stdin.read()), FOLDER, dry=given.dry_run)
        print("changed" if changed else "ok")
    else:
        rotate(FOLDER, time.time() if given.at is None else given.at)
        if is_newer(FOLDER, LOADED):
            return subprocess.run(["systemctl", "try-reload-or-restart", "nginx.service"], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
