"""The module reload_nginx on folders of its own, with a systemctl that records its calls."""

from __future__ import annotations

import os
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import loading
from ansible_collections.baton.web.plugins.modules import reload_nginx

from tests.support import modules


class Host:
    """Nginx's files, a certificate outside its folder, and systemctl's calls."""

    def __init__(self, root: pathlib.Path) -> None:
        self.nginx, self.loaded, self.calls = root / "nginx", root / "nginx.loaded", root / "calls"
        self.site, self.certificate = self.nginx / "sites-enabled/links.conf", root / "live/fullchain.pem"
        for file in (self.site, self.certificate):
            file.parent.mkdir(parents=True)
            file.touch()
        command = root / "systemctl"
        command.write_text(f'#!/bin/sh\necho "$*" >> {self.calls}\ntest ! -e {root}/broken\n')
        command.chmod(0o755)
        (root / "journalctl").symlink_to("/bin/true")
        self.load()

    def load(self) -> None:
        """Record that nginx has loaded all files."""
        self.loaded.touch()
        newest = max(path.lstat().st_ctime_ns for path in self.loaded.parent.rglob("*"))
        # later changes have a later time, although the file system's clock is coarse
        while self.loaded.stat().st_ctime_ns <= newest:
            os.utime(self.loaded, ns=(newest, newest))

    def reload(self, *, check: bool = False) -> str:
        """Run the module. Returns the file for which it reloads nginx."""
        result = modules.run(reload_nginx, check=check, files=[str(self.certificate)])
        assert result["changed"] is bool(result["unread"])
        return str(result["unread"])


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setattr(reload_nginx, "NGINX", found.nginx)
    monkeypatch.setattr(loading, "LOADED", found.loaded)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return found


def test_loaded_files_cause_no_reload(host: Host) -> None:
    assert host.reload() == ""
    assert not host.calls.exists()


def test_changed_file_or_certificate_causes_a_reload(host: Host) -> None:
    for file in (host.site, host.certificate):
        # with an old modification time, as a copy may have
        os.utime(file, (0, 0))
        assert host.reload(check=True) == str(file)
        assert not host.calls.exists()
        assert host.reload() == str(file)
        assert host.calls.read_text() == "reload-or-restart nginx.service\n"
        host.calls.unlink()
        host.load()
        assert host.reload() == ""


def test_removed_file_causes_a_reload(host: Host) -> None:
    host.site.unlink()
    assert host.reload() == str(host.site.parent)
    host.load()
    # nginx says that it is missing
    host.certificate.unlink()
    assert host.reload() == str(host.certificate)


def test_link_counts_in_the_folder_and_its_target_as_a_certificate(host: Host) -> None:
    outside = host.loaded.parent / "outside.pem"
    outside.touch()
    (host.nginx / "link").symlink_to(outside)
    host.certificate.unlink()
    host.certificate.symlink_to(outside)
    host.load()
    assert host.reload() == ""
    os.utime(outside)
    assert host.reload() == str(host.certificate)


def test_nginx_that_started_before_its_drop_in_is_reloaded(host: Host) -> None:
    host.loaded.unlink()
    assert host.reload() == str(host.loaded)


def test_failed_reload_is_reported(host: Host) -> None:
    (host.loaded.parent / "broken").touch()
    os.utime(host.site)
    result = modules.run(reload_nginx)
    assert result["failed"]
    assert result["msg"].startswith("nginx can't load its files: ")


def test_clock_that_was_set_back_hides_no_change(host: Host) -> None:
    """Then a file that was just written seems older than nginx's last reload."""
    os.utime(host.loaded, (host.loaded.stat().st_mtime + 3600,) * 2)
    os.utime(host.site)
    assert host.reload() == str(host.loaded)
    assert host.calls.read_text() == "reload-or-restart nginx.service\n"
