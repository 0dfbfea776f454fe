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


def is_certificate(text: str) -> bool:
    """Whether a text begins with a certificate in PEM."""
    from cryptography import x509

    try:
        x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        return False
    return True


def is_private_key(text: str) -> bool:
    """Whether a text is a private key in PEM without a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        serialization.load_pem_private_key(text.encode(), None)
    except (TypeError, UnsupportedAlgorithm, ValueError):
        return False
    return True


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in roles."""
        return {
            "certificate_names": certificate_names,
            "is_certificate": is_certificate,
            "is_private_key": is_private_key,
        }
