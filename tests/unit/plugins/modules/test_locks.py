"""Modules that respect the locks of other runs, or renew what a dead run has left."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock as lock
from ansible_collections.baton.web.plugins.module_utils.change import history
from ansible_collections.baton.web.plugins.module_utils.host import guard
from ansible_collections.baton.web.plugins.modules import deploy_lock, finish, guarded_files

from tests.support import modules
from tests.support.program import write_script

ANN, BOB = ({"token": token, "who": f"{token}@laptop"} for token in ("ann", "bob"))


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host with the releases r1 to r3, the last of which is current, and Ann's lock."""
    application = functools.partial(layout.Application, root=str(tmp_path))
    for module in (deploy_lock, finish):
        monkeypatch.setattr(module, "Application", application)
    made = application("links")
    for release in ("r1", "r2", "r3"):
        made.release(release).mkdir(parents=True)
        (made.release(release) / "release.json").write_text(json.dumps({"id": release, "staged": release}))
    made.current.symlink_to("releases/r3")
    assert modules.run(deploy_lock, name="links", state="held", run=ANN, reason="deploy", seconds=77)["holder"] is None
    return made


def holder(app: layout.Application) -> lock.Holder:
    found = lock.read(app)
    assert found is not None
    return found


def test_lock_of_a_run_that_is_known_to_be_dead_is_replaced(
    app: layout.Application, capsys: pytest.CaptureFixture[str]
) -> None:
    for dead in ("", "carl"):
        refused = modules.run(deploy_lock, name="links", state="held", run=BOB, dead=dead)
        assert "links is being changed by ann@laptop" in refused["msg"]
        assert refused["holder"]["token"] == "ann"
    result = modules.run(deploy_lock, name="links", state="held", run=BOB, dead="ann", reason="restart")
    assert (result["changed"], result["holder"]["token"]) == (False, "ann")
    assert "Replaced the lock of ann@laptop since " in capsys.readouterr().err
    assert (holder(app).token, holder(app).reason) == ("bob", "restart")


def test_lock_is_taken_for_the_given_time(app: layout.Application) -> None:
    assert (holder(app).seconds, holder(app).reason) == (77, "deploy")
    assert holder(app).expires - holder(app).since == pytest.approx(77)


def test_only_a_dead_runs_lock_is_removed(app: layout.Application) -> None:
    for dead in ("", "carl"):
        failed = modules.run(deploy_lock, name="links", state="absent", dead=dead)
        assert "that run may be alive" in failed["msg"]
    removed = modules.run(deploy_lock, name="links", state="absent", dead="ann")
    assert (removed["changed"], removed["holder"]["token"], lock.read(app)) == (True, "ann", None)


@pytest.mark.parametrize("state", ["held", "released"])
def test_run_is_needed_to_hold_or_release_a_lock(app: layout.Application, state: str) -> None:
    assert "run" in modules.run(deploy_lock, name="links", state=state)["msg"]
    assert holder(app).token == "ann"


def test_release_of_a_run_that_changes_the_application_by_now_is_not_removed(app: layout.Application) -> None:
    """A run that has lost its lock must not remove what another one is about to activate."""
    entry = {"kind": "deploy", "release": "r3", "result": "failed"}
    result = modules.run(finish, name="links", run=BOB, keep=0, entry=entry)
    (sentence,) = result["left"]
    assert sentence.startswith("links is now being changed by ann@laptop since ")
    assert sentence.endswith(", so no old release is removed here.")
    assert result["removed"] == []
    assert history.complete(app) == ["r1", "r2", "r3"]
    assert holder(app).token == "ann"
    # the history has it nevertheless
    assert [one["result"] for one in history.read(app)] == ["failed"]
    assert modules.run(finish, name="links", run=ANN, keep=1)["removed"] == ["r1"]
    assert lock.read(app) is None


@pytest.mark.parametrize("reconnects", [True, False])
def test_connection_that_must_be_renewed_is_recorded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reconnects: bool
) -> None:
    (tmp_path / "run").mkdir()
    for name in ("systemd-run", "systemctl"):
        write_script(tmp_path / name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(guard, "Guard", functools.partial(guard.Guard, root=str(tmp_path)))
    monkeypatch.setattr(guard, "connection", lambda: "10.0.0.1 4000 10.0.0.5 22")
    commands = {name: f"touch {tmp_path}/{name}" for name in ("before", "apply")}
    options: dict[str, Any] = {"name": "sshd", "token": "one", "in_force": "false", "seconds": 42, **commands}
    result = modules.run(guarded_files, reconnects=reconnects, files=[], **options)
    assert result.get("changed"), result
    armed = json.loads((tmp_path / "var/lib/baton-undo/sshd/armed").read_text())
    connection = "10.0.0.1 4000 10.0.0.5 22" if reconnects else ""
    assert armed == {"token": "one", "seconds": 42, "connection": connection}
    assert all((tmp_path / name).exists() for name in commands)
    confirmed = modules.run(guarded_files, name="sshd", token="one", state="confirmed")
    assert confirmed["outcome"] == ("pending" if reconnects else "confirmed")
