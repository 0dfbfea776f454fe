"""In check mode, modules report the changes and don't make them."""

from __future__ import annotations

import functools
import getpass
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock as lock
from ansible_collections.baton.web.plugins.module_utils.host import guard
from ansible_collections.baton.web.plugins.module_utils.host import kernel_settings as kernel
from ansible_collections.baton.web.plugins.modules import (
    deploy_lock,
    files,
    guarded_files,
    kernel_settings,
    state_files,
)

from tests.support import modules

USER = getpass.getuser()


def content(folder: pathlib.Path) -> dict[str, str]:
    """The files' contents by their paths."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_are_reported_and_not_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "old").write_text("1\n")
    (tmp_path / "gone").write_text("1\n")
    items = [
        {"path": str(tmp_path / "old"), "content": "2\n", "owner": USER, "group": USER},
        {"path": str(tmp_path / "gone"), "state": "absent"},
        {"path": str(tmp_path / "folder"), "state": "directory", "owner": USER, "group": USER},
    ]
    result = modules.run(files, check=True, files=items)
    assert result["changed"]
    assert result["paths"] == [str(tmp_path / name) for name in ("old", "gone", "folder")]
    assert content(tmp_path) == {"old": "1\n", "gone": "1\n"}
    assert not (tmp_path / "folder").exists()
    assert modules.run(files, files=items)["paths"] == result["paths"]
    assert content(tmp_path) == {"old": "2\n"}
    again = modules.run(files, files=items)
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])


def test_guarded_files_are_reported_and_not_applied(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "Guard", functools.partial(guard.Guard, root=str(tmp_path)))
    applied, path = tmp_path / "applied", tmp_path / "sshd_config"
    options: dict[str, Any] = {"name": "sshd", "token": "a", "apply": f"touch {applied}"}
    items = [{"path": str(path), "content": "PasswordAuthentication no\n"}]
    result = modules.run(guarded_files, check=True, files=items, **options)
    assert (result["changed"], result["paths"]) == (True, [str(path)])
    assert not path.exists()
    # unchanged files may not be in force yet
    assert modules.run(guarded_files, check=True, files=[], in_force="false", **options)["changed"]
    assert not modules.run(guarded_files, check=True, files=[], in_force="true", **options)["changed"]
    assert not applied.exists()


def test_state_files_are_reported_and_not_created(tmp_path: pathlib.Path) -> None:
    options: dict[str, Any] = {"directory": str(tmp_path), "user": USER}
    items = [{"path": "data/seed.json", "content": "{}", "mode": "0640"}]
    result = modules.run(state_files, check=True, files=items, **options)
    assert (result["changed"], result["paths"], content(tmp_path)) == (True, [str(tmp_path / "data/seed.json")], {})
    assert modules.run(state_files, files=items, **options)["changed"]
    assert content(tmp_path) == {"data/seed.json": "{}"}
    assert (tmp_path / "data/seed.json").stat().st_mode & 0o777 == 0o640
    assert not modules.run(state_files, files=items, **options)["changed"]
    # binary content is encoded
    modules.run(state_files, files=[{"path": "logo", "encoded": "aGk="}], **options)
    assert content(tmp_path)["logo"] == "hi"
    failed = modules.run(state_files, files=[{"path": "../x", "content": "y"}], **options)
    assert failed["msg"].startswith("app_config_state_files: ")


def test_kernel_settings_are_reported_and_not_set(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "proc/sys/net/core/somaxconn"
    setting.parent.mkdir(parents=True)
    setting.write_text("128\n")
    monkeypatch.setattr(kernel, "apply", functools.partial(kernel.apply, root=str(tmp_path)))
    options: dict[str, Any] = {"path": "/etc/sysctl.d/10-baton.conf", "settings": {"net.core.somaxconn": 4096}}
    result = modules.run(kernel_settings, check=True, **options)
    assert (result["changed"], result["changes"], setting.read_text()) == (True, ["net.core.somaxconn"], "128\n")
    assert modules.run(kernel_settings, **options)["diff"]["after"] == "net.core.somaxconn = 4096\n"
    assert setting.read_text() == "4096\n"
    assert modules.run(kernel_settings, **options)["changed"] is False


def test_lock_is_neither_taken_nor_removed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = functools.partial(layout.Application, root=str(tmp_path))
    monkeypatch.setattr(deploy_lock, "Application", application)
    app = application("links")
    first, second = ({"token": token, "who": f"{token}@laptop"} for token in ("ann", "bob"))

    def run(state: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return modules.run(deploy_lock, check=check, name="links", state=state, **options)

    assert run("held", check=True, run=first)["changed"] is False
    assert lock.read(app) is None
    assert run("held", run=first, reason="deploy")["holder"] is None
    result = run("held", check=True, run=second)
    assert (result["changed"], result["holder"]["token"]) == (False, "ann")
    # the lock of a run that may be alive is removed only by force
    assert [run("absent", check=True, force=force)["changed"] for force in (False, True)] == [False, True]
    assert run("absent", check=True, dead="ann")["changed"]
    assert lock.read(app) is not None
    failed = run("absent")
    assert (failed["failed"], failed["holder"]["token"]) == (True, "ann")
    assert run("held", run=second)["holder"]["token"] == "ann"
    # a run can't release another's lock
    assert not run("released", run=second).get("failed")
    assert lock.read(app) is not None
    assert run("absent", force=True)["changed"]
    assert run("absent", force=True)["changed"] is False
    assert run("held", run=second)["history"]["failures"] == []
    run("released", run=second)
    assert lock.read(app) is None
