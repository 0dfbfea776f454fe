"""A stand-in for systemd-run on a machine without systemd: it runs a command as the properties specify.

It sets the command's folder, environment and credentials, kills it after RuntimeMaxSec, and kills its whole session at
the end. User, sandbox and limits need systemd: the scenarios test them, and `calls` returns them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

RECORD = "systemd-run.calls"  # in the program's folder


def install(folder: pathlib.Path) -> None:
    """Install it, and an empty journal, into a folder that comes first on PATH."""
    # imported here, because the installed program runs this file by its path
    from tests.support.program import write_script

    write_script(folder / "systemd-run", f'exec {sys.executable} {__file__} --record={folder}/{RECORD} "$@"')
    write_script(folder / "journalctl", "exit 0")


def calls(folder: pathlib.Path) -> list[dict[str, list[str]]]:
    """Return the `property` and `setenv` options and the `command` of each call of the program in `folder`."""
    return [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]


def main() -> int:
    """Run the command and return the exit status that systemd-run would."""
    parser = argparse.ArgumentParser()
    for option in ("--quiet", "--collect", "--wait", "--pipe"):
        parser.add_argument(option, action="store_true")
    for option in ("--record", "--unit", "--description"):
        parser.add_argument(option)
    for option in ("--property", "--setenv"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    with open(given.record, "a", encoding="utf-8") as record:
        record.write(json.dumps({name: getattr(given, name) for name in ("property", "setenv", "command")}) + "\n")
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
