"""sshd accepts only keys and locks nobody out; the search for keys uses real files."""

from __future__ import annotations

import getpass
import os
import pathlib
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.program import write_script

DROP_IN = "etc/ssh/sshd_config.d/00-baton.conf.j2"


@pytest.mark.parametrize("forwarding", [True, False])
def test_only_keys_are_accepted_and_nothing_is_forwarded(load_role: Callable[[str], Any], forwarding: bool) -> None:
    text = load_role("host_sshd").render(DROP_IN, host_sshd_tcp_forwarding=forwarding)
    settings = dict(line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert settings["PubkeyAuthentication"] == "yes"
    others = ("PasswordAuthentication", "KbdInteractiveAuthentication", "HostbasedAuthentication")
    assert {settings[name] for name in others} == {"no"}
    assert {settings[name] for name in ("AllowAgentForwarding", "AllowStreamLocalForwarding", "PermitTunnel")} == {"no"}
    assert settings["AllowTcpForwarding"] == ("yes" if forwarding else "no")


@pytest.mark.parametrize(
    ("given", "own", "effective"),
    [
        # sshd uses the first value that it reads, and by default prohibit-password
        ({}, "no", "no"),
        ({}, "forced-commands-only", "forced-commands-only"),
        ({}, "", "prohibit-password"),
        ({"host_sshd_root_login": "keys"}, "no", "prohibit-password"),
        ({"host_sshd_root_login": "denied"}, "yes", "no"),
    ],
)
def test_logins_of_root_are_only_allowed_on_request(
    load_role: Callable[[str], Any], given: dict[str, str], own: str, effective: str
) -> None:
    text = load_role("host_sshd").render(DROP_IN, **given) + f"PermitRootLogin {own or 'prohibit-password'}\n"
    assert re.findall(r"^PermitRootLogin (\S+)$", text, re.MULTILINE)[0] == effective


def test_root_login_is_not_denied_to_ansible(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_sshd")
    given = {"host_sshd_enabled": True, "__host_sshd_keys": {"stdout_lines": ["key"]}}
    root, other = ({"__host_sshd_login": {"stdout": name}} for name in ("root", "deploy"))
    assert role.refusals(**given, **root, host_sshd_root_login="keys") == []
    assert role.refusals(**given, **other, host_sshd_root_login="denied") == []
    (refusal,) = role.refusals(**given, **root, host_sshd_root_login="denied")
    assert refusal.startswith("edge1: host_sshd_root_login is denied, and Ansible connects as root")
    assert "ansible_user" in refusal


def keys(load_role: Callable[[str], Any], folder: pathlib.Path, settings: str, status: int = 0) -> list[str]:
    """The output of the search for keys on a host whose sshd prints these settings and exits with this status."""
    (folder / "bin").mkdir()
    for name, text in (("sshd", settings), ("getent", f"{getpass.getuser()}:x:0:0::{folder}:/bin/sh")):
        write_script(folder / "bin" / name, f"cat <<'END'\n{text}\nEND\nexit {status if name == 'sshd' else 0}")
    command = load_role("host_sshd").value("__host_sshd_keys_command").replace("/usr/sbin/sshd", "sshd")
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "login": getpass.getuser()}
    done = subprocess.run(["bash", "-c", command], text=True, capture_output=True, check=True, env=environment)
    return [line.replace(str(folder), "~") for line in done.stdout.splitlines()]


BOTH = "authorizedkeysfile .ssh/authorized_keys %h/keys/%u\ntrustedusercakeys none\nauthorizedkeyscommand none"


def test_keys_are_found_where_sshd_looks_for_them(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    (tmp_path / "keys").mkdir()
    key = (tmp_path / "id.pub").read_text()
    (tmp_path / "keys" / getpass.getuser()).write_text(f'# ours\nfrom="10.0.0.0/8",no-pty {key}')
    found = keys(load_role, tmp_path, BOTH)
    assert found == ["place ~/.ssh/authorized_keys", f"place ~/keys/{getpass.getuser()}", "key"]


@pytest.mark.parametrize("content", [None, "", "# none yet\n", "ssh-ed25519 AAAAsomething\n"])
def test_missing_keys_are_refused(load_role: Callable[[str], Any], tmp_path: pathlib.Path, content: str | None) -> None:
    (tmp_path / ".ssh").mkdir()
    if content is not None:
        (tmp_path / ".ssh/authorized_keys").write_text(content)
    found = keys(load_role, tmp_path, BOTH)
    assert "key" not in found
    assert "other" not in found
    role = load_role("host_sshd")
    given = {"__host_sshd_keys": {"stdout_lines": found}, "__host_sshd_login": {"stdout": "deploy"}}
    assert role.refusals(**given) == []
    # the second search of a run is skipped
    assert role.refusals(host_sshd_enabled=True, __host_sshd_keys={"skipped": True}) == []
    (refusal,) = role.refusals(host_sshd_enabled=True, **given)
    assert refusal.startswith(
        "edge1: with host_sshd_enabled, deploy, the user that Ansible connects as, could no longer log in"
    )
    assert "~/.ssh/authorized_keys" in refusal
    assert "ssh-copy-id" in refusal


def test_invalid_sshd_configuration_is_reported(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    found = keys(load_role, tmp_path, "line 3: Bad configuration option: Ports", status=255)
    given = {"__host_sshd_keys": {"stdout_lines": found}, "__host_sshd_login": {"stdout": "deploy"}}
    (refusal,) = load_role("host_sshd").refusals(host_sshd_enabled=True, **given)
    assert "sshd -T says: line 3: Bad configuration option: Ports" in refusal


@pytest.mark.parametrize("setting", ["trustedusercakeys /etc/ssh/ca.pub", "authorizedkeyscommand /usr/bin/sss_keys %u"])
def test_keys_may_come_from_a_ca_or_a_command(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path, setting: str
) -> None:
    assert "other" in keys(load_role, tmp_path, f"authorizedkeysfile .ssh/authorized_keys\n{setting}")


def test_invalid_undo_time_is_refused(load_role: Callable[[str], Any]) -> None:
    known = {"__host_sshd_keys": {"stdout_lines": ["key"]}, "__host_sshd_login": {"stdout": "deploy"}}
    role = load_role("host_sshd")
    assert role.refusals(host_sshd_enabled=True, **known) == []
    assert "host_sshd_undo_seconds" in role.refusals(host_sshd_enabled=True, host_sshd_undo_seconds=1, **known)[0]
