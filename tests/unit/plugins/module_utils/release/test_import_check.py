"""The transient unit of an import check: user, sandbox, limits, environment and secrets. test_staging.py runs it."""

from __future__ import annotations

import pathlib
import pwd
import sys
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import systemd
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.module_utils.release import import_check

from tests.support import systemd_run
from tests.support.confinement import BOUNDS, CONFINED
from tests.support.program import write_script

# another user than that of the tests
USER = "nobody"
UNIT = """\
[Service]
Type=notify
User=links
Group=links
WorkingDirectory=/opt/links/current/src
EnvironmentFile={etc}/environment
LoadCredential=TOKEN:{etc}/secrets/TOKEN
MemoryMax=512M
ProtectSystem=strict
"""


class Host:
    """A staged release, the application's files, and the stand-in for systemd-run."""

    def __init__(self, root: pathlib.Path) -> None:
        self.bin, self.folder, self.etc = root / "bin", root / "releases/.staging-abc", root / "etc"
        for folder in (self.bin, self.folder / "src/api", self.folder / "venv/bin", self.etc / "secrets"):
            folder.mkdir(parents=True)
        systemd_run.install(self.bin)
        (self.folder / "venv/bin/python").symlink_to(sys.executable)
        handover = self.folder / "server/gunicorn_handover"
        handover.mkdir(parents=True)
        (handover / "__init__.py").touch()
        (handover / "environment.py").write_text("def export_credentials(environ): ...\n")
        for name in ("uvloop", "httptools"):
            (self.folder / f"server/{name}.py").touch()
        self.source("def app(): ...\n")
        self.artifact = {"id": "abc", "module": "main:app", "working_directory": "src/api", "import_paths": ["src"]}

    def source(self, text: str) -> None:
        (self.folder / "src/main.py").write_text(text)

    def check(self, **changed: Any) -> dict[str, Any]:
        """Check the import; return how systemd-run was called."""
        check = import_check.ImportCheck(**{"user": USER, "timeout": 60.0, **changed})
        import_check.check_import(self.folder, self.artifact, check)
        (call,) = systemd_run.calls(self.bin)
        return call


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host(tmp_path)
    monkeypatch.setenv("PATH", str(fake.bin), prepend=":")
    return fake


def own(host: Host, timeout: str = "60") -> list[str]:
    """The properties that no unit file may change, so they are the last ones."""
    return [
        f"User={USER}",
        f"Group={pwd.getpwnam(USER).pw_gid}",
        f"WorkingDirectory={host.folder}/src/api",
        f"RuntimeMaxSec={timeout}",
        "KillMode=control-group",
        "KillSignal=SIGKILL",
        "OOMPolicy=kill",
    ]


def test_import_runs_as_the_services_user_in_a_sandbox(host: Host) -> None:
    (host.etc / "environment").write_text('A="1"\n')
    (host.etc / "secrets/TOKEN").write_text("x")
    (host.etc / "secrets/DATABASE_URL").write_text("x")
    (host.etc / "secrets/folder").mkdir()
    call = host.check(
        environment_file=str(host.etc / "environment"),
        credentials_dir=str(host.etc / "secrets"),
        unit_file=str(host.etc / "missing.service"),
    )
    assert call["property"] == [
        *BOUNDS,
        *CONFINED,
        f"LoadCredential=DATABASE_URL:{host.etc}/secrets/DATABASE_URL",
        f"LoadCredential=TOKEN:{host.etc}/secrets/TOKEN",
        f"EnvironmentFile={host.etc}/environment",
        *own(host),
    ]


def test_import_runs_in_the_sandbox_of_the_services_unit(host: Host) -> None:
    (host.etc / "links.service").write_text(UNIT.format(etc=host.etc))
    (host.etc / "environment").write_text('A="1"\n')
    (host.etc / "secrets/TOKEN").write_text("x")
    call = host.check(
        environment_file=str(host.etc / "environment"),
        credentials_dir=str(host.etc / "secrets"),
        unit_file=str(host.etc / "links.service"),
        timeout=2.5,
    )
    assert call["property"] == [
        *BOUNDS,
        "User=links",
        "Group=links",
        "WorkingDirectory=/opt/links/current/src",
        f"EnvironmentFile={host.etc}/environment",
        f"LoadCredential=TOKEN:{host.etc}/secrets/TOKEN",
        "MemoryMax=512M",
        "ProtectSystem=strict",
        "ReadOnlyPaths=-/run/baton",
        f"EnvironmentFile={host.etc}/environment",
        *own(host, "2.5"),
    ]


def test_import_without_files_of_the_application_has_the_releases_paths(host: Host) -> None:
    call = host.check(environment_file=str(host.etc / "none"), credentials_dir=str(host.etc / "nowhere"))
    assert call["property"] == [*BOUNDS, *CONFINED, *own(host)]
    assert call["setenv"] == [
        f"PATH={host.folder}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        f"PYTHONPATH={host.folder}/server:{host.folder}/src",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
        "RELEASE_ID=abc",
    ]
    python, _, _, module, attribute, _ = call["command"]
    assert (python, module, attribute) == (f"{host.folder}/venv/bin/python", "main", "app")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("main", "def application(): ...\n"),
        ("main:api.create()", "class api:\n    def create(): ...\n"),
    ],
)
def test_default_and_nested_names_are_imported(host: Host, module: str, text: str) -> None:
    host.source(text)
    host.artifact["module"] = module
    host.check()
    (host.folder / "src/main.py").write_text("")
    with pytest.raises(BatonError, match=r"main has no '(application|api.create)'"):
        host.check()


def test_unknown_user_is_reported_before_anything_runs(host: Host) -> None:
    with pytest.raises(BatonError, match="The user 'no-such-user' doesn't exist on this host") as raised:
        host.check(user="no-such-user")
    assert "app_account" in raised.value.fix
    assert not (host.bin / systemd_run.RECORD).exists()


def test_invalid_environment_file_is_reported_before_anything_runs(host: Host) -> None:
    (host.etc / "environment").write_text("A=1\n")
    with pytest.raises(BatonError, match="line 1") as raised:
        host.check(environment_file=str(host.etc / "environment"))
    assert "app_config" in raised.value.fix
    assert not (host.bin / systemd_run.RECORD).exists()


@pytest.mark.parametrize(
    ("result", "log", "words"),
    [
        ("oom-kill", "ignored", r"it ran out of memory \(MemoryMax\)\."),
        ("signal", "", "a signal ended it, perhaps the kernel's"),
        ("core-dump", "", "it crashed"),
        ("exit-code", "Failed to set up credentials", "Failed to set up credentials"),
        ("", "", "it ended with exit status 7"),
    ],
)
def test_silent_end_is_explained_by_systemd(
    host: Host, monkeypatch: pytest.MonkeyPatch, result: str, log: str, words: str
) -> None:
    asked: list[tuple[str, float]] = []

    def ending(unit: str, since: float) -> systemd.Ending:
        asked.append((unit, since))
        return systemd.Ending(result, log)

    monkeypatch.setattr(systemd, "ending", ending)
    write_script(host.bin / "systemd-run", f'echo "$@" > {host.bin}/arguments; exit 7')
    with pytest.raises(BatonError, match=f"main:app can't be imported as user {USER}:\n{words}"):
        host.check()
    ((unit, since),) = asked
    assert f"--unit={unit} " in (host.bin / "arguments").read_text()
    assert unit.startswith("baton-import-")
    assert since > 0


def test_import_that_does_not_end_is_stopped(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd ends it after its limit; if that fails, too, it is stopped after the leeway."""
    monkeypatch.setattr(import_check, "LEEWAY", 0.1)
    write_script(host.bin / "systemd-run", "echo waiting for the ledger; exec sleep 600")
    write_script(host.bin / "systemctl", f'echo "$@" >> {host.bin}/told')
    with pytest.raises(BatonError, match=r"took longer than 0 s as user nobody\. waiting for the ledger"):
        host.check(timeout=0.2)
    verb, unit = (host.bin / "told").read_text().split()
    assert verb == "stop"
    assert unit.startswith("baton-import-")


def test_message_has_the_last_lines_with_the_releases_final_path(host: Host) -> None:
    host.source("".join(f"print('line {number}')\n\nprint()\n" for number in range(20)) + "print(__file__)\n1 / 0\n")
    with pytest.raises(BatonError) as raised:
        host.check()
    first, *shown = raised.value.cause.splitlines()
    assert first == f"main:app can't be imported as user {USER}:"
    # the end of the traceback
    assert (len(shown), shown[-1]) == (import_check.LINES, "ZeroDivisionError: division by zero")
    assert str(host.folder.parent / "abc/src/main.py") in raised.value.cause
    assert "staging" not in raised.value.cause


def test_long_lines_are_cut_at_their_beginning(host: Host) -> None:
    host.source(f"import sys\nsys.exit('a' + 'b' * {import_check.LONGEST} + 'c')\n")
    with pytest.raises(BatonError) as raised:
        host.check()
    assert raised.value.cause.splitlines()[1] == f"{'b' * (import_check.LONGEST - 1)}c"


def test_dollar_signs_are_not_expanded_by_systemd(host: Host) -> None:
    host.artifact["module"] = "main:app$x"
    with pytest.raises(BatonError, match=r"main has no 'app\$x'"):
        host.check()
    (call,) = systemd_run.calls(host.bin)
    assert call["command"][4] == "app$$x"
