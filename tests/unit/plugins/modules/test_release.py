"""The module release: it looks up the commands of process types and schedules in the release that it has staged."""

from __future__ import annotations

import functools
import json
import pathlib
import types
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, transient_unit
from ansible_collections.baton.web.plugins.module_utils.release import staging
from ansible_collections.baton.web.plugins.modules import release

from tests.support import modules


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host on which aaaa is current and bbbb is staged, and whose worker has a misspelt command."""
    monkeypatch.setattr(layout, "Application", functools.partial(layout.Application, root=str(tmp_path)))
    application = layout.Application("links")
    for folder in ("etc/links/secrets", "etc/systemd/system", "opt/links/releases/bbbb"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/links/secrets/TOKEN").write_text("my-secret-token")
    application.path("etc/systemd/system/links.service").write_text("[Service]\n")
    application.process_settings.write_text(json.dumps({"worker": {"count": 1, "command": "no-such-program work"}}))
    monkeypatch.setattr(transient_unit, "invocation", lambda _app, _release, command, *_: ["sh", "-c", command])
    return application


def stage(
    monkeypatch: pytest.MonkeyPatch, *, application: str | None = "links", check: bool = False, **found: Any
) -> dict[str, Any]:
    """Run the module as if staging had this result."""
    result = {"changed": True, "staged": True, "current": "aaaa", **found}
    monkeypatch.setattr(release, "_stage", lambda *_: result)
    parsed = types.SimpleNamespace(identity="bbbb")
    monkeypatch.setattr(staging.StageRequest, "parse", lambda *_: parsed)
    target = {"python": "3.11", "architecture": "x86_64", "glibc": "2.36"}
    given = {"application": application} if application else {}
    return modules.run(
        release,
        check=check,
        releases_dir="/nowhere/releases",
        state_dir="/nowhere/state",
        artifact={},
        target=target,
        **given,
    )


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("changed", [True, False])
def test_command_that_the_release_lacks_fails_its_staging(monkeypatch: pytest.MonkeyPatch, changed: bool) -> None:
    """Also if an earlier run has staged it."""
    result = stage(monkeypatch, changed=changed)
    assert result["failed"] is True
    assert result["msg"] == (
        "app_processes.worker.command runs the program no-such-program, which the host and this release don't have. "
        "Correct the command, or add the program."
    )


@pytest.mark.parametrize("found", [{"current": "bbbb"}, {"staged": False}, {"check": True}, {"application": None}])
def test_commands_are_looked_up_only_in_a_release_that_will_replace_the_current_one(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    monkeypatch.setattr(transient_unit, "run", lambda *_: pytest.fail("they were looked up"))
    assert app.process_settings.exists()
    assert "failed" not in stage(monkeypatch, **found)


@pytest.mark.parametrize("cause", ["unit", "systemd"])
def test_lookup_that_fails_is_a_warning_without_secrets(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cause: str
) -> None:
    if cause == "systemd":
        monkeypatch.setattr(transient_unit, "run", lambda *_: (1, "Unknown assignment: X=my-secret-token\n"))
    else:
        monkeypatch.undo()
        monkeypatch.setattr(layout, "Application", functools.partial(layout.Application, root=app.root))
        app.path("etc/systemd/system/links.service").unlink()
    assert "failed" not in stage(monkeypatch)
    warned = capsys.readouterr().err
    assert "app_processes and app_schedules could not be checked in the release: " in warned
    assert "my-secret-token" not in warned
    assert ("links.service" if cause == "unit" else "Unknown assignment: X=") in warned
