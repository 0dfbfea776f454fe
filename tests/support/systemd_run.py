"""A stand-in for systemd-run on a machine without systemd: a program that runs a command as the properties say.

It gives the command its folder, environment and credentials, ends it when its time is up, and leaves nothing of its
session. User, sandbox and limits are systemd's, and tests on real hosts ask for them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile


def install(folder: pathlib.Path) -> None:
    """Put it into a folder that comes first on PATH, beside a journal that knows nothing."""
    for name, text in (("systemd-run", f'exec {sys.executable} {__file__} "$@"'), ("journalctl", "exit 0")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def main() -> int:
    """Run the command; its exit status is what systemd-run's would be."""
    parser = argparse.ArgumentParser()
    for option in ("--quiet", "--collect", "--wait", "--pipe"):
        parser.add_argument(option, action="store_true")
    for option in ("--unit", "--description"):
        parser.add_argument(option)
    for option in ("--property", "--setenv"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    properties = [line.partition("=")[::2] for line in given.property]
    last = dict(properties)
    environment = dict(word.partition("=")[::2] for word in given.setenv)
    for name, file in properties:
        if name == "EnvironmentFile":
            lines = re.findall(r'^(\w+)="(.*)"$', pathlib.Path(file).read_text(), re.MULTILINE)
            environment |= {name: re.sub(r"\\(.)", r"\1", value) for name, value in lines}
    with tempfile.TemporaryDirectory() as credentials:
        for name, value in properties:
            credential, _, path = value.partition(":")
            if name == "LoadCredential":
                pathlib.Path(credentials, credential).write_bytes(pathlib.Path(path).read_bytes())
            elif name == "LoadCredentialEncrypted":
                words = ["systemd-creds", "decrypt", f"--name={credential}", path, f"{credentials}/{credential}"]
                subprocess.run(words, check=True)
        environment["CREDENTIALS_DIRECTORY"] = credentials
        command = [word.replace("$$", "$") for word in given.command]
        with subprocess.Popen(
            command, cwd=last.get("WorkingDirectory"), env=environment, start_new_session=True
        ) as process:
            try:
                return process.wait(float(last["RuntimeMaxSec"]))
            except subprocess.TimeoutExpired:
                return 1
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
