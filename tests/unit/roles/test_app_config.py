"""The files of settings and secrets: which are wanted, and who may read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_secrets_are_root_s_alone_and_others_are_removed(load_role: Callable[[str], Any]) -> None:
    files = load_role("app_config").value(
        "__app_config_secret_files",
        app_name="links",
        app_config_secrets={"TOKEN": "a\nb", "PIN": 12},
        app_config_migration_secrets={"ADMIN": "x"},
    )
    assert [(item["path"], item["mode"], item.get("content")) for item in files] == [
        ("/etc/links/secrets", "0700", None),
        ("/etc/links/secrets/TOKEN", "0600", "a\nb"),
        ("/etc/links/secrets/PIN", "0600", "12"),
        ("/etc/links/migration-secrets", "0700", None),
        ("/etc/links/migration-secrets/ADMIN", "0600", "x"),
    ]
    assert [item["path"] for item in files if item.get("purge")] == [item["path"] for item in files if "state" in item]
