"""The modules that only read a host's state: their results and failures."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.change import history
from ansible_collections.baton.web.plugins.module_utils.host import daemons, upgrades
from ansible_collections.baton.web.plugins.modules import history_info, preflight_info, status_info, upkeep_info

from tests.support import modules


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """An application on a host without units."""
    application = functools.partial(layout.Application, root=str(tmp_path))
    monkeypatch.setattr(layout, "Application", application)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho ActiveState=inactive\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    return application("links")


def test_history_returns_the_last_lines(app: layout.Application) -> None:
    for number in range(3):
        history.append(app, {"kind": "deploy", "release": f"r{number}", "result": "failed", "when": float(number)})

    def lines(**options: Any) -> list[str]:
        return [entry["release"] for entry in modules.run(history_info, name="links", **options)["entries"]]

    assert lines() == ["r0", "r1", "r2"]
    assert lines(lines=2) == ["r1", "r2"]
    assert modules.run(history_info, name="links")["failures"] == [0.0, 1.0, 2.0]


@pytest.mark.usefixtures("app")
def test_status_depends_on_the_hosts_groups() -> None:
    edge = modules.run(status_info, host="edge1", name="links", units=["nginx.service"])
    assert (edge["changed"], edge["units"]) == (False, {"nginx.service": "inactive"})
    assert "application" not in edge
    assert "maintenance" not in edge
    assert any("nginx.service" in problem for problem in edge["problems"])
    timed = modules.run(status_info, host="edge1", name="links", timed_services=["acme-links"])
    assert timed["timed_services"] == {"acme-links": {"timer": "inactive", "result": ""}}
    assert any("acme-links.timer is inactive" in problem for problem in timed["problems"])
    server = modules.run(status_info, host="app1", name="links", app_server=True)
    assert "app1: no release has been activated; deploy one." in server["problems"]
    assert modules.run(status_info, host="db1", name="links")["problems"] == []


@pytest.mark.parametrize("packages", [False, True])
def test_upkeep_lists_upgrades_only_on_request(monkeypatch: pytest.MonkeyPatch, packages: bool) -> None:
    monkeypatch.setattr(upgrades, "reboot_required", lambda: ["linux-image"])
    monkeypatch.setattr(upgrades, "boot", lambda: 8.5)
    listing = "Inst openssl [3.0.15] (3.0.16 Debian:12 [amd64])\n"
    monkeypatch.setattr(upgrades, "simulate", lambda: subprocess.CompletedProcess([], 0, listing, ""))
    result = modules.run(upkeep_info, packages=packages)
    assert (result["changed"], result["reboot_required"], result["boot_seconds"]) == (False, ["linux-image"], 8.5)
    assert result.get("upgrades") == (["openssl 3.0.15 -> 3.0.16"] if packages else None)
    monkeypatch.setattr(upgrades, "simulate", lambda: subprocess.CompletedProcess([], 100, "", "broken packages"))
    failed = modules.run(upkeep_info, packages=True)
    assert failed["msg"].startswith("apt can't determine the upgrades: broken packages Repair apt on this host")


def test_upkeep_lists_units_that_execute_replaced_files(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrades, "reboot_required", list)
    monkeypatch.setattr(upgrades, "boot", lambda: 8.5)
    asked: list[str] = []

    def behind(units: list[str]) -> list[dict[str, Any]]:
        asked[:] = units
        return [{"unit": unit, "replaced": ["/usr/lib/x.so"] if unit == "nginx.service" else []} for unit in units]

    monkeypatch.setattr(daemons, "behind", behind)
    assert modules.run(upkeep_info, daemons=["nginx.service", "postgresql@*.service"])["outdated"] == ["nginx.service"]
    assert asked == ["nginx.service", "postgresql@*.service"]
    assert modules.run(upkeep_info, application=app.name)["outdated"] == []
    assert app.service in asked


def test_preflight_reports_all_problems_at_once(tmp_path: pathlib.Path) -> None:
    directories = [{"path": str(tmp_path), "megabytes": 1}]
    assert modules.run(preflight_info, host="app1", directories=directories)["changed"] is False
    directories[0]["megabytes"] = 2**30
    directories.append({"path": "/var", "megabytes": 2**30})
    failed = modules.run(preflight_info, host="app1", directories=directories)
    for word in (str(tmp_path), "/var"):
        assert word in failed["msg"]
    assert json.dumps(failed["msg"]).count("app1") > 1
