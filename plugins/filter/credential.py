"""Ansible filters about the files that systemd hands to a unit as credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.host import credential


def files(secrets: Mapping[str, Any], folder: str, key: str) -> list[dict[str, str]]:
    """The files of secrets in a folder, as the module files takes them; `key` is by which they are encrypted."""
    return [
        {"path": str(credential.place(folder, token, key)), "content": str(value), "mode": "0600"}
        for token, value in secrets.items()
    ]


def directive(token: str, folder: str, key: str) -> str:
    """The line of a unit that loads the secret from there."""
    return credential.property_of(credential.place(folder, token, key))


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in roles."""
        return {"credential_files": files, "credential_directive": directive}
