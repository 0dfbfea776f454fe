"""What an application would take over that somebody else made is refused, and what Baton made isn't."""

from __future__ import annotations

import getpass
import pathlib
import pwd
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import ownership

NOBODY_KNOWS = "no-such-user-here"


def told(root: pathlib.Path, name: str = "links", user: str = NOBODY_KNOWS, *adopt: str, **given: Any) -> list[str]:
    sentences: list[str] = ownership.problems("app1", name, user, adopt, root=str(root), **given)
    return sentences


def make(root: pathlib.Path, path: str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if "." in place.name:
        place.touch()
    else:
        place.mkdir()


@pytest.mark.parametrize(
    ("path", "thing"),
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
def test_what_others_made_is_refused_until_baton_has_made_the_application(
    tmp_path: pathlib.Path, path: str, thing: str
) -> None:
    assert told(tmp_path) == []
    make(tmp_path, path)
    (sentence,) = told(tmp_path)
    assert sentence.startswith(f"app1: {thing} ")
    assert f'app_account_adopt: ["{thing}"]' in sentence
    assert told(tmp_path, "links", NOBODY_KNOWS, thing) == []
    # a host that only forwards requests has none of it
    assert told(tmp_path, server=False) == []
    make(tmp_path, "var/lib/baton/links")
    assert told(tmp_path) == []


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/systemd/system/cron.service",
        "lib/systemd/system/cron.socket",
        "run/systemd/generator.late/cron.service",
    ],
)
def test_a_unit_of_a_package_is_never_hidden(tmp_path: pathlib.Path, path: str) -> None:
    make(tmp_path, "var/lib/baton/cron")
    make(tmp_path, path)
    (sentence,) = told(tmp_path, "cron")
    assert "is a unit of another program" in sentence


def test_a_mark_is_root_s_folder_and_not_what_somebody_linked_there(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "opt/links")
    make(tmp_path, "elsewhere")
    make(tmp_path, "var/lib/baton")
    (tmp_path / "var/lib/baton/links").symlink_to(tmp_path / "elsewhere")
    assert len(told(tmp_path)) == 1


def test_a_state_folder_that_is_a_link_is_what_systemd_refuses(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "var/lib/baton/links")
    make(tmp_path, "srv/large")
    (tmp_path / "var/lib/links").symlink_to("../../srv/large")
    (sentence,) = told(tmp_path)
    assert "mount --bind" in sentence


def test_an_account_that_logs_in_keeps_its_home_and_shell(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "var/lib/baton/links")
    user = getpass.getuser()
    (sentence,) = told(tmp_path, "links", user)
    assert f"user {user} exists with the home {pwd.getpwnam(user).pw_dir}" in sentence
    assert "Choose another app_account_user" in sentence
    assert told(tmp_path, "links", user, f"user {user}") == []


def test_a_user_is_one_application_s(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("shop", "x", 998, 998, "The application shop", "/var/lib/shop", "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)
    assert told(tmp_path, "shop", "shop") == []
    (sentence,) = told(tmp_path, "links", "shop")
    assert "The application shop" in sentence


def test_a_group_alone_is_not_joined(tmp_path: pathlib.Path) -> None:
    # a group that has no user of its name
    (sentence,) = told(tmp_path, "links", "sudo")
    assert sentence.startswith("app1: group sudo ")


def test_a_site_of_nginx_that_baton_did_not_write_stays(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "etc/nginx/sites-enabled/links.conf")
    assert told(tmp_path) == []
    (sentence,) = told(tmp_path, server=False, edge=True)
    assert "/etc/nginx/sites-enabled/links.conf is a site of nginx" in sentence
    make(tmp_path, "var/lib/nginx-site/links")
    assert told(tmp_path, server=False, edge=True) == []


def test_a_template_unit_of_others_is_known_by_what_it_runs(tmp_path: pathlib.Path) -> None:
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


def test_a_file_in_a_folder_of_others_is_no_obstacle_to_tell_of_it(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "etc/links")
    (tmp_path / "etc/links/processes.json").write_text("{")
    (sentence,) = told(tmp_path)
    assert "/etc/links" in sentence
