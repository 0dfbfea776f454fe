"""Ansible filters for the files that systemd passes to units as credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.host import credential


def files(secrets: Mapping[str, Any], folder: str, key: str) -> list[dict[str, str]]:
    """Return the files of secrets in a folder, for the module `files`. `key`: that which encrypts them, or "none"."""
    return [
        {"path": str(credential.place(folder, token, key)), "content": str(value), "mode": "0600"}
        for token, value in secrets.items()
    ]


def directive(token: str, folder: str, key: str) -> str:
    """Return the unit's directive that loads the secret from its file."""
    return credential.property_of(credential.place(folder, token, key))


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in roles."""
        return {"credential_files": files, "credential_directive": directive}
