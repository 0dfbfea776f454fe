"""Why a host can't be reached or managed, and what to do about it. On the controller alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Parts of what ssh and sudo say, and the fix. ssh names a changed key and then says the same as of an unknown one.
_SSH = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "The host has another key than the one that is known here. If it was installed anew, forget the old one: "
        "`ssh-keygen -R '{known_as}'`; otherwise find out who answers there."
    ),
    "Host key verification failed": (
        "The host's key isn't known here. Compare it with the one that the host's console shows, and keep it: "
        "`ssh-keyscan -p {port} {address} >> ~/.ssh/known_hosts`."
    ),
    "Permission denied": (
        "The host doesn't accept this user with the keys that are offered. Check ansible_user and "
        "ansible_ssh_private_key_file, and try `ssh -p {port} {user}@{address}`."
    ),
    "Could not resolve hostname": "Nothing is known by that name here. Correct ansible_host in the inventory.",
    "Connection refused": "Nothing answers on that port. Check ansible_port, and that sshd runs there.",
}
_SUDO = {
    "Missing sudo password": (
        "sudo asks {user} for a password. Give it with -K, or as ansible_become_password in a vault, or let the user "
        "use sudo without one."
    ),
    "a password is required": (
        "sudo asks {user} for a password. Give it with -K, or as ansible_become_password in a vault, or let the user "
        "use sudo without one."
    ),
    "Incorrect sudo password": "Give {user}'s right password with -K, or correct ansible_become_password.",
    "must have a tty": "Take `requiretty` out of the host's sudoers for {user}: Defaults:{user} !requiretty.",
    "not in the sudoers file": "Let {user} use sudo on the host, or log in as another user (ansible_user).",
    "not allowed to execute": "Let {user} run everything by sudo there, or log in as another user (ansible_user).",
    "unable to resolve host": "Name the host in its own /etc/hosts.",
}


def lost(error: object, variables: Mapping[str, Any]) -> str:
    """Of a host that no connection leads to."""
    otherwise = "Check that the host is up, and that `ssh` with this user and port works from here"
    return f"can't be reached: {_told(str(error), _SSH, otherwise, variables)}"


def unmanaged(words: str, variables: Mapping[str, Any]) -> str:
    """Of a host that answers, and on which no module runs: above all for sudo."""
    otherwise = "Check that this user may use sudo there, and that neither it nor the login says anything by itself"
    return f"was reached, but can't be managed: {_told(words, _SUDO, otherwise, variables)}"


def said(result: Mapping[str, Any]) -> str:
    """What came in place of a module's answer; empty where a module has answered."""
    lines = "\n".join(str(result.get(key) or "") for key in ("module_stderr", "module_stdout")).splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


def _told(why: str, fixes: Mapping[str, str], otherwise: str, variables: Mapping[str, Any]) -> str:
    address = str(variables.get("ansible_host") or variables.get("inventory_hostname", ""))
    port = str(variables.get("ansible_port") or 22)
    place = {
        "address": address,
        "port": port,
        "user": str(variables.get("ansible_user") or "the user"),
        "known_as": address if port == "22" else f"[{address}]:{port}",
    }
    fix = next((fix.format(**place) for part, fix in fixes.items() if part in why), f"{otherwise}.")
    return f"{why.strip().rstrip('.')}. {fix}"
