"""Why a host can't be reached or managed: a specific fix for each cause."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import reachability

HOST: dict[str, Any] = {
    "inventory_hostname": "app1",
    "ansible_host": "192.0.2.1",
    "ansible_port": 2222,
    "ansible_user": "ann",
}


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("Host key verification failed.", "`ssh-keyscan -p 2222 192.0.2.1 >> ~/.ssh/known_hosts`"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "`ssh-keygen -R '[192.0.2.1]:2222'`",
        ),
        ("ann@192.0.2.1: Permission denied (publickey).", "ansible_ssh_private_key_file"),
        ("ssh: Could not resolve hostname app1", "ansible_host"),
        ("connect to host 192.0.2.1 port 2222: Connection refused", "ansible_port"),
        ("Connection timed out", "Check that the host is up"),
    ],
)
def test_lost_connection_names_the_fix(message: str, fix: str) -> None:
    words = reachability.lost(message, HOST)
    assert words.startswith("can't be reached: ")
    assert fix in words


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("Missing sudo password", "with -K"),
        ("sudo: a password is required", "with -K"),
        ("Incorrect sudo password", "ann's correct password"),
        ("sudo: sorry, you must have a tty to run sudo", "Defaults:ann !requiretty"),
        ("ann is not in the sudoers file.", "Let ann use sudo"),
        ("Authorized uses only", "neither sudo nor the login prints anything"),
    ],
)
def test_failed_sudo_names_the_fix(message: str, fix: str) -> None:
    words = reachability.unmanaged(message, HOST)
    assert words.startswith("was reached, but can't be managed: ")
    assert fix in words


def test_message_begins_with_that_of_ssh() -> None:
    refused = "ann@192.0.2.1: Permission denied (publickey)."
    ansible = 'Data could not be sent to remote host "192.0.2.1". Make sure this host can be reached over ssh: '
    assert reachability.lost(ansible + refused, HOST) == reachability.lost(refused, HOST)


def test_suggested_login_uses_the_same_key() -> None:
    refused = "ann@192.0.2.1: Permission denied (publickey)."
    assert "try `ssh -p 2222 ann@192.0.2.1`." in reachability.lost(refused, HOST)
    for name in ("ansible_ssh_private_key_file", "ansible_private_key_file"):
        words = reachability.lost(refused, {**HOST, name: "~/.ssh/fleet"})
        assert "try `ssh -i ~/.ssh/fleet -p 2222 ann@192.0.2.1`." in words


def test_inventory_name_is_the_default_address() -> None:
    assert "ssh-keyscan -p 22 app1 " in reachability.lost(
        "Host key verification failed.", {"inventory_hostname": "app1"}
    )


def test_module_result_is_no_connection_error() -> None:
    assert reachability.unexpected_output({"failed": True, "msg": "no"}) == ""


def test_long_output_of_a_host_is_cut() -> None:
    """A login message has no limit."""
    assert len(reachability.unmanaged("x" * 10_000_000, {})) < 70_000
