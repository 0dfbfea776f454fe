"""Reads systemd's unit files."""

from __future__ import annotations


def directives(text: str) -> dict[str, list[str]]:
    """All values of each directive."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def service_section(text: str) -> dict[str, list[str]]:
    """All values of each directive in the section [Service]."""
    return directives(text.partition("[Service]")[2].partition("[Install]")[0])
