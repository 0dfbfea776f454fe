"""The module drain on a folder with a site. The commands that test and reload nginx are replaced."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import loading, upstream
from ansible_collections.baton.web.plugins.module_utils.host import systemd
from ansible_collections.baton.web.plugins.modules import drain

from tests.support import modules

ONE, TWO = "10.0.0.1:8000", "10.0.0.2:8000"
HOST, OTHER_HOST = "10.0.0.1", "10.0.0.2"
SITE = f"upstream links {{\n    server {ONE} max_fails=0;\n    server {TWO} max_fails=0;\n}}\n"


class Edge:
    """Nginx's files, and the commands it got."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.site, self.loaded, self.commands = root / "links.conf", root / "loaded", root / "commands"
        self.site.write_text(SITE)
        self.load()
        for name, text in (
            ("systemctl", f'echo "$*" >> {self.commands}; test ! -e {root}/broken'),
            ("journalctl", "echo nginx logged this"),
            ("ss", "exit 0"),
        ):
            (root / name).write_text(f"#!/bin/sh\n{text}\n")
            (root / name).chmod(0o755)
        self.error = ""

    def load(self) -> None:
        """Record that nginx has loaded the file."""
        self.loaded.touch()
        while self.loaded.stat().st_mtime <= self.site.stat().st_ctime:
            time.sleep(0.01)
            self.loaded.touch()

    def test(self, words: list[str]) -> tuple[int, str, str]:
        """The command nginx-test-site, which only root can run."""
        assert words[:2] == ["/usr/local/sbin/nginx-test-site", "links"]
        return int(bool(self.error)), "", self.error

    @property
    def reloads(self) -> int:
        """How often nginx was reloaded."""
        return self.commands.read_text().count("reload nginx.service") if self.commands.exists() else 0


@pytest.fixture
def edge(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Edge:
    fake = Edge(tmp_path)
    monkeypatch.setattr(drain, "SITES", tmp_path)
    monkeypatch.setattr(loading, "LOADED", fake.loaded)
    monkeypatch.setattr(AnsibleModule, "run_command", lambda _, words: fake.test(words))
    # the machine that runs the tests may run nginx
    monkeypatch.setattr(upstream, "workers", dict)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return fake


def run(*, check: bool = False, **options: Any) -> dict[str, Any]:
    return modules.run(drain, check=check, site="links", timeout=1, **options)


def test_drain_and_restore_reload_nginx_once_each(edge: Edge) -> None:
    result = run(drained=[HOST])
    assert (result["changed"], result["servers"]) == (True, {ONE: True, TWO: False})
    assert result["diff"] == {"before": f"{ONE}\n{TWO}\n", "after": f"{ONE} drained\n{TWO}\n"}
    assert f"server {ONE} max_fails=0 down;" in edge.site.read_text()
    assert edge.reloads == 1
    edge.load()
    assert not run(drained=[HOST])["changed"]
    assert edge.reloads == 1
    assert run(back=[HOST])["servers"] == {ONE: False, TWO: False}
    assert (edge.site.read_text(), edge.reloads) == (SITE, 2)


def test_file_that_nginx_has_not_loaded_is_loaded(edge: Edge) -> None:
    """A run may have been killed between the change of the file and the reload."""
    edge.loaded.unlink()
    assert run(back=[HOST])["changed"]
    assert edge.reloads == 1


def test_check_mode_reloads_nothing(edge: Edge) -> None:
    assert run(check=True, drained=[HOST])["servers"] == {ONE: True, TWO: False}
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_rejected_configuration_is_not_written(edge: Edge) -> None:
    edge.error = "unknown directive"
    assert "nginx rejects the new configuration, so it wasn't changed: unknown directive" in run(drained=[HOST])["msg"]
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_file_is_restored_if_nginx_cannot_be_reloaded(edge: Edge) -> None:
    (edge.root / "broken").touch()
    assert run(drained=[HOST])["msg"] == "nginx can't be reloaded; its previous file was restored: nginx logged this"
    assert edge.site.read_text() == SITE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drained": [HOST, OTHER_HOST]}, "no server of the site links would remain"),
        ({"drained": ["10.0.0.3"]}, "10.0.0.3 can't be drained"),
    ],
)
def test_last_and_unknown_servers_are_not_drained(edge: Edge, options: dict[str, Any], message: str) -> None:
    assert message in run(**options)["msg"]
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_missing_site_is_reported(edge: Edge) -> None:
    edge.site.unlink()
    assert "nginx has no site links on this host" in run(drained=[HOST])["msg"]


@pytest.mark.usefixtures("edge")
def test_drained_server_is_idle_only_after_the_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has ended, the previous worker processes could send the server a new request."""
    events: list[str] = []

    def change(verb: str, unit: str, timeout: float) -> None:
        events.append(f"{verb} {unit} {timeout:g}")

    def wait_until_idle(known: list[str], drained: list[str], timeout: float) -> int:
        events.append(f"wait {known} {drained} {timeout}")
        return 2

    monkeypatch.setattr(upstream, "wait_until_idle", wait_until_idle)
    monkeypatch.setattr(systemd, "change", change)
    assert run(drained=[HOST])["remaining"] == 2
    assert events == ["reload nginx.service 60", f"wait {[ONE, TWO]} {[ONE]} 1"]
