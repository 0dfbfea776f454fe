"""The confinement of packages' code on a host. The scenarios run it; here, each property of the unit is listed."""

from __future__ import annotations

import pathlib

from ansible_collections.baton.web.plugins.module_utils.host import sandbox

from tests.support.confinement import BOUNDS, CONFINED

PROPERTIES = [*BOUNDS, *CONFINED, "DynamicUser=yes", "PrivateNetwork=yes", "UMask=0022"]


def invocation(*more: str, environment: tuple[str, ...] = ()) -> list[str]:
    """The expected words, with these properties after the usual ones."""
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        *(f"--property={line}" for line in (*PROPERTIES, *more)),
        *(f"--setenv={line}" for line in environment),
    ]


def test_code_without_folders_has_no_files() -> None:
    assert sandbox.invocation({}, timeout=60) == invocation("RuntimeMaxSec=60")


def test_code_gets_its_folders_and_variables() -> None:
    words = sandbox.invocation(
        {"HOME": "/tmp/work", "NO_COLOR": "1"},
        timeout=5,
        writable=pathlib.Path("/var/lib/baton/build/x"),
        readable=pathlib.Path("/var/lib/baton/wheels"),
    )
    assert words == invocation(
        "RuntimeMaxSec=5",
        "BindPaths=/var/lib/baton/build/x:/tmp/work",
        "WorkingDirectory=/tmp/work",
        "BindReadOnlyPaths=/var/lib/baton/wheels:/tmp/input",
        environment=("HOME=/tmp/work", "NO_COLOR=1"),
    )
