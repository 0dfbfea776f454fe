"""Ansible filters about certificates."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any


def certificate_names(names: Iterable[str]) -> list[str]:
    """Return host names and addresses as in a certificate, such as DNS:a.example.org and IP:fd00::1, sorted."""
    return sorted({_alternative(name.lower()) for name in names})


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in roles."""
        return {"certificate_names": certificate_names}
