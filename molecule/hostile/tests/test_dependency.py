"""Packages with files that Python executes at startup: root never executes them."""

from __future__ import annotations

import pathlib

from .conftest import HOSTS, Hostile, host

MARKER = "/var/tmp/baton-marker"
STARTUP = f"import os; os.geteuid() or open({MARKER!r}, 'a').write('root')"


def test_startup_files_of_venv_are_not_run_by_root(hostile: Hostile) -> None:
    main = pathlib.Path(hostile.source, "main.py")
    before = main.read_text()
    for name in HOSTS:
        # like files of an installed package
        site = host(name).check_output("ls -d /opt/hostile/current/venv/lib/python3*/site-packages")
        for file in ("evil.pth", "sitecustomize.py"):
            host(name).check_output(f'printf "%s\\n" "{STARTUP}" > {site}/{file} && chmod 0644 {site}/{file}')
    main.write_text(f"{before}\n# the second release\n")
    done = hostile.succeed("playbooks/deploy.yml")
    for name in HOSTS:
        taken = host(name).run("ls /opt/hostile/current/venv/lib/python3*/site-packages/evil.pth")
        assert taken.rc == 0, "the venv was made anew, so nothing was tried"
        assert not host(name).file(MARKER).exists, done.output
    main.write_text(before)
