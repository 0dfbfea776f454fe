"""Prints where a host has one of some texts: files, output of commands and command lines, one per line.

search.py EXCLUDED [TEXT...]     EXCLUDED: folders, joined by colons

The texts are given backwards, as the command itself is in the journal. Each is searched for as it is, and in Base64.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import subprocess
import sys

COMMANDS = (
    "journalctl --sync; journalctl --no-pager --all --output=export",
    "systemctl show --all '*'",
    "ps axww",
)
FOLDERS = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")


def variants(text: str) -> list[bytes]:
    """The text, and the parts of its Base64 that don't depend on what surrounds it."""
    encoded = [base64.b64encode(b"x" * shift + text.encode())[4:-4] for shift in range(3)]
    return [text.encode(), *encoded]


def main() -> None:
    excluded = tuple(sys.argv[1].split(":"))
    texts = [variant for word in sys.argv[2:] for variant in variants(word[::-1])]

    def report(place: str, content: bytes) -> None:
        if any(text in content for text in texts):
            print(place)

    for command in COMMANDS:
        report(command, subprocess.run(command, shell=True, capture_output=True, check=False).stdout)
    for top in FOLDERS:
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not os.path.join(folder, name).startswith(excluded)]
            for name in files:
                path = pathlib.Path(folder, name)
                # some end or change while they are read
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink():
                        report(str(path), path.read_bytes())


main()
