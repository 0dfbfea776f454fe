"""The module drain on a folder with a site; what tests nginx's configuration and reloads it notes that here."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from ansible_collections.baton.web.plugins.modules import drain

from tests.support import modules

ONE, TWO = "10.0.0.1:8000", "10.0.0.2:8000"
SITE = f"upstream links {{\n    server {ONE} max_fails=0;\n    server {TWO} max_fails=0;\n}}\n"


class Edge:
    """What nginx has, and was told."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.site, self.loaded, self.told = root / "links.conf", root / "loaded", root / "told"
        self.site.write_text(SITE)
        self.load()
        for name, text in (
            ("systemctl", f'echo "$*" >> {self.told}; test ! -e {root}/broken'),
            ("journalctl", "echo nginx logged this"),
            ("ss", "exit 0"),
        ):
            (root / name).write_text(f"#!/bin/sh\n{text}\n")
            (root / name).chmod(0o755)
        self.refusal = ""

    def load(self) -> None:
        """Nginx has read the file by now."""
        self.loaded.touch()
        while self.loaded.stat().st_mtime <= self.site.stat().st_ctime:
            time.sleep(0.01)
            self.loaded.touch()

    def test(self, words: list[str]) -> tuple[int, str, str]:
        """nginx-test-site, which only root has."""
        assert words[:2] == ["/usr/local/sbin/nginx-test-site", "links"]
        return int(bool(self.refusal)), "", self.refusal

    @property
    def reloads(self) -> int:
        return self.told.read_text().count("reload nginx.service") if self.told.exists() else 0


@pytest.fixture
def edge(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Edge:
    made = Edge(tmp_path)
    monkeypatch.setattr(drain, "SITES", tmp_path)
    monkeypatch.setattr(drain, "LOADED", made.loaded)
    monkeypatch.setattr(AnsibleModule, "run_command", lambda _, words: made.test(words))
    # a machine that runs tests may run an nginx of its own
    monkeypatch.setattr(upstream, "workers", dict)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return made


def run(*, check: bool = False, **options: Any) -> dict[str, Any]:
    return modules.run(drain, check=check, site="links", timeout=1, **options)


def test_server_is_drained_and_restored_by_a_reload_each(edge: Edge) -> None:
    told = run(drained=[ONE])
    assert (told["changed"], told["servers"]) == (True, {ONE: True, TWO: False})
    assert told["diff"] == {"before": f"{ONE}\n{TWO}\n", "after": f"{ONE} drained\n{TWO}\n"}
    assert f"server {ONE} max_fails=0 down;" in edge.site.read_text()
    assert edge.reloads == 1
    edge.load()
    assert not run(drained=[ONE])["changed"]
    assert edge.reloads == 1
    assert run(back=[ONE])["servers"] == {ONE: False, TWO: False}
    assert (edge.site.read_text(), edge.reloads) == (SITE, 2)


def test_file_that_nginx_has_not_read_is_loaded(edge: Edge) -> None:
    """As after a run that was killed between the two."""
    edge.loaded.unlink()
    assert run(back=[ONE])["changed"]
    assert edge.reloads == 1


def test_check_mode_reloads_nothing(edge: Edge) -> None:
    assert run(check=True, drained=[ONE])["servers"] == {ONE: True, TWO: False}
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_configuration_that_nginx_refuses_is_left_as_it_was(edge: Edge) -> None:
    edge.refusal = "unknown directive"
    assert "which is left as it was: unknown directive" in run(drained=[ONE])["msg"]
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_file_is_put_back_where_nginx_can_not_be_reloaded(edge: Edge) -> None:
    (edge.root / "broken").touch()
    assert run(drained=[ONE])["msg"] == "nginx can't be reloaded; its file is put back: nginx logged this"
    assert edge.site.read_text() == SITE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drained": [ONE, TWO]}, "no server of the site links would be left"),
        ({"drained": ["10.0.0.3:8000"]}, "10.0.0.3:8000 can't be drained"),
    ],
)
def test_last_server_and_strangers_are_refused(edge: Edge, options: dict[str, Any], words: str) -> None:
    assert words in run(**options)["msg"]
    assert (edge.site.read_text(), edge.reloads) == (SITE, 0)


def test_host_without_the_site_is_told_how_to_get_it(edge: Edge) -> None:
    edge.site.unlink()
    assert "nginx has no site links on this host" in run(drained=[ONE])["msg"]
