"""Files, units and accounts that Baton didn't create are not taken over."""

from __future__ import annotations

import getpass
import pathlib
import pwd
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import ownership

UNKNOWN_USER = "no-such-user-here"


def problems(root: pathlib.Path, name: str = "links", user: str = UNKNOWN_USER, *adopt: str, **given: Any) -> list[str]:
    sentences: list[str] = ownership.problems("app1", name, user, adopt, root=str(root), **given)
    return sentences


def make(root: pathlib.Path, path: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if "." in target.name:
        target.touch()
    else:
        target.mkdir()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("etc/links", "/etc/links"),
        ("opt/links", "/opt/links"),
        ("var/lib/links", "/var/lib/links"),
        ("run/links", "/run/links"),
        ("etc/tmpfiles.d/links.conf", "/etc/tmpfiles.d/links.conf"),
        ("etc/systemd/system/links.service", "links.service"),
        ("etc/systemd/system/links-bridge.service", "links-bridge.service"),
        ("etc/systemd/system/links-rehearsal@.socket", "links-rehearsal@.socket"),
        ("run/systemd/system/links.socket", "links.socket"),
    ],
)
def test_foreign_files_are_refused_until_baton_manages_the_application(
    tmp_path: pathlib.Path, path: str, name: str
) -> None:
    assert problems(tmp_path) == []
    make(tmp_path, path)
    (sentence,) = problems(tmp_path)
    assert sentence.startswith(f"app1: {name} ")
    assert f'app_account_adopt: ["{name}"]' in sentence
    assert problems(tmp_path, "links", UNKNOWN_USER, name) == []
    # a host that only forwards requests has none of these files
    assert problems(tmp_path, server=False) == []
    make(tmp_path, "var/lib/baton/links")
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/systemd/system/cron.service",
        "lib/systemd/system/cron.socket",
        "run/systemd/generator.late/cron.service",
    ],
)
def test_unit_of_a_package_is_never_overridden(tmp_path: pathlib.Path, path: str) -> None:
    make(tmp_path, "var/lib/baton/cron")
    make(tmp_path, path)
    (sentence,) = problems(tmp_path, "cron")
    assert "is a unit of another program" in sentence


def test_marker_must_be_a_folder_and_not_a_link(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "opt/links")
    make(tmp_path, "elsewhere")
    make(tmp_path, "var/lib/baton")
    (tmp_path / "var/lib/baton/links").symlink_to(tmp_path / "elsewhere")
    assert len(problems(tmp_path)) == 1


def test_state_folder_that_is_a_link_is_refused(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "var/lib/baton/links")
    make(tmp_path, "srv/large")
    (tmp_path / "var/lib/links").symlink_to("../../srv/large")
    (sentence,) = problems(tmp_path)
    assert "mount --bind" in sentence


def test_login_account_is_refused_as_service_user(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "var/lib/baton/links")
    user = getpass.getuser()
    (sentence,) = problems(tmp_path, "links", user)
    assert f"user {user} exists with the home {pwd.getpwnam(user).pw_dir}" in sentence
    assert "Choose another app_account_user" in sentence
    assert problems(tmp_path, "links", user, f"user {user}") == []


def test_user_of_another_application_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("shop", "x", 998, 998, "The application shop", "/var/lib/shop", "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)
    assert problems(tmp_path, "shop", "shop") == []
    (sentence,) = problems(tmp_path, "links", "shop")
    assert "The application shop" in sentence


def test_foreign_group_is_refused(tmp_path: pathlib.Path) -> None:
    # a group without a user of the same name
    (sentence,) = problems(tmp_path, "links", "sudo")
    assert sentence.startswith("app1: group sudo ")


def test_foreign_nginx_site_is_refused(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "etc/nginx/sites-enabled/links.conf")
    assert problems(tmp_path) == []
    (sentence,) = problems(tmp_path, server=False, edge=True)
    assert "/etc/nginx/sites-enabled/links.conf is a site of nginx" in sentence
    make(tmp_path, "var/lib/nginx-site/links")
    assert problems(tmp_path, server=False, edge=True) == []


def test_foreign_template_units_are_recognised_by_their_command(tmp_path: pathlib.Path) -> None:
    units = {
        "etc/systemd/system/links-worker@.service": "ExecStart=/opt/links/processes/worker-%i/venv/bin/python",
        "etc/systemd/system/links-mailer@.service": "ExecStart=/usr/bin/mailer",
        "usr/lib/systemd/system/links-bot@.service": "ExecStart=/usr/bin/bot",
        "etc/systemd/system/linksworker@.service": "",
    }
    for path, text in units.items():
        make(tmp_path, path)
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/systemd/system/links-masked@.service").symlink_to("/dev/null")
    found = ownership.foreign_units("links", root=str(tmp_path))
    assert found == ["links-bot@.service", "links-mailer@.service", "links-masked@.service"]


def test_invalid_file_in_a_foreign_folder_does_not_prevent_the_message(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "etc/links")
    (tmp_path / "etc/links/processes.json").write_text("{")
    (sentence,) = problems(tmp_path)
    assert "/etc/links" in sentence
