"""A package whose files Python runs as it starts: they are never run by root."""

from __future__ import annotations

import pathlib

from .conftest import HOSTS, Hostile, host

MARKER = "/var/tmp/baton-marker"
STARTUP = f"import os; os.geteuid() or open({MARKER!r}, 'a').write('root')"


def test_a_venv_that_is_taken_over_runs_nothing_as_root(hostile: Hostile) -> None:
    main = pathlib.Path(hostile.source, "main.py")
    before = main.read_text()
    for name in HOSTS:
        # as a package of the application would have brought it
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
