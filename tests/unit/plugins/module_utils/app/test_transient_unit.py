"""A command runs with the service's user, environment and sandbox."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, transient_unit

UNIT = """\
[Unit]
Description=links
User=not-this

[Service]
Type=notify
# a comment=1
User=links
Environment=PYTHONUNBUFFERED=1
Environment=PYTHONPATH=/opt/links/current/server
Environment=GUNICORN_HANDOVER_STATUS=/run/links/handover.json
LoadCredential=TOKEN:/etc/links/secrets/TOKEN
ExecStart=/opt/links/current/venv/bin/python
ExecReload=/bin/true
Restart=always
TimeoutStopSec=35
ProtectSystem=strict
ReadWritePaths=-/run/baton/links
LogExtraFields=A=100%%

[Install]
WantedBy=multi-user.target
"""


def test_properties_are_those_of_the_service_except_what_makes_a_server() -> None:
    assert transient_unit.properties(UNIT) == [
        "User=links",
        "Environment=PYTHONUNBUFFERED=1",
        "LoadCredential=TOKEN:/etc/links/secrets/TOKEN",
        "ProtectSystem=strict",
        "LogExtraFields=A=100%",
        "ReadOnlyPaths=-/run/baton",
    ]


@pytest.fixture
def argv(tmp_path: pathlib.Path) -> list[str]:
    unit = tmp_path / "etc/systemd/system/links.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(UNIT)
    words: list[str] = transient_unit.invocation(layout.Application("links", str(tmp_path)), "aaaa", "echo $HOME", 60)
    return words


def test_dollar_signs_are_left_to_the_shell(argv: list[str]) -> None:
    assert argv[-1] == "echo $$HOME"


def test_command_runs_in_the_release_with_a_time_limit(argv: list[str]) -> None:
    assert argv[-2].endswith("/opt/links/releases/aaaa")
    assert "--property=RuntimeMaxSec=60" in argv
    assert "--property=EnvironmentFile=/etc/links/environment" in argv
