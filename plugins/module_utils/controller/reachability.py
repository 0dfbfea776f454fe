"""Messages about hosts that can't be reached or managed, with the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..host import untrusted

# Parts of the messages of ssh and sudo, and the fix. For a changed key, ssh also prints the message of an unknown one.
_SSH = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "The host's key differs from the one in known_hosts. If the host was reinstalled, remove the old key: "
        "`ssh-keygen -R '{known_as}'`; otherwise find out which machine answers at this address."
    ),
    "Host key verification failed": (
        "The host's key isn't in known_hosts. Compare it with the one that the host's console shows, and add it: "
        "`ssh-keyscan -p {port} {address} >> ~/.ssh/known_hosts`."
    ),
    "Permission denied": (
        "The host doesn't accept this user with the offered keys. Check ansible_user and "
        "ansible_ssh_private_key_file, and try `ssh {identity}-p {port} {user}@{address}`."
    ),
    "Could not resolve hostname": "The name can't be resolved. Correct it, or set ansible_host in the inventory.",
    "Connection refused": "Nothing listens on that port. Check ansible_port, and that sshd runs there.",
}
# what Ansible puts before the message of ssh
_ANSIBLE = re.compile(r'^Data could not be sent to remote host "[^"]*"\. Make sure this host can be reached over ssh: ')
_SUDO = {
    "Missing sudo password": (
        "sudo asks {user} for a password. Give it with -K, or as ansible_become_password in a vault, or let the user "
        "use sudo without one."
    ),
    "a password is required": (
        "sudo asks {user} for a password. Give it with -K, or as ansible_become_password in a vault, or let the user "
        "use sudo without one."
    ),
    "Incorrect sudo password": "Give {user}'s correct password with -K, or correct ansible_become_password.",
    "must have a tty": "Disable `requiretty` in the host's sudoers for {user}: Defaults:{user} !requiretty.",
    "not in the sudoers file": "Let {user} use sudo on the host, or log in as another user (ansible_user).",
    "not allowed to execute": "Let {user} run all commands with sudo there, or log in as another user (ansible_user).",
    "unable to resolve host": "Add the host's name to its own /etc/hosts.",
}


def lost(error: object, variables: Mapping[str, Any]) -> str:
    """Return the message about a host to which the connection failed, without the host's name."""
    otherwise = "Check that the host is up, and that `ssh` with this user and port works from the controller"
    return f"can't be reached: {_with_fix(_ANSIBLE.sub('', str(error)), _SSH, otherwise, variables)}"


def unmanaged(output: str, variables: Mapping[str, Any]) -> str:
    """Return the message about a host that can be reached but can't run modules, mostly because of sudo."""
    otherwise = "Check that this user may use sudo there, and that neither sudo nor the login prints anything"
    return f"was reached, but can't be managed: {_with_fix(output, _SUDO, otherwise, variables)}"


def unexpected_output(result: Mapping[str, Any]) -> str:
    """Return the output that came instead of a module's result; empty if there was a result."""
    lines = "\n".join(str(result.get(key) or "") for key in ("module_stderr", "module_stdout")).splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


def _with_fix(why: str, fixes: Mapping[str, str], otherwise: str, variables: Mapping[str, Any]) -> str:
    address = str(variables.get("ansible_host") or variables.get("inventory_hostname", ""))
    port = str(variables.get("ansible_port") or 22)
    key = variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file")
    place = {
        "identity": f"-i {key} " if key else "",
        "address": address,
        "port": port,
        "user": str(variables.get("ansible_user") or "the user"),
        "known_as": address if port == "22" else f"[{address}]:{port}",
    }
    fix = next((fix.format(**place) for part, fix in fixes.items() if part in why), f"{otherwise}.")
    return f"{untrusted.text(why.strip()).rstrip('.')}. {fix}"
