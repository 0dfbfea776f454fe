"""Ansible filters about certificates."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.host import certificates, untrusted

# of certbot's plugin for RFC 2136, which uses MD5 for the same words in lower case
ALGORITHMS = ("HMAC-MD5", "HMAC-SHA1", "HMAC-SHA224", "HMAC-SHA256", "HMAC-SHA384", "HMAC-SHA512")
# characters (RFC 1035)
NAME_LIMIT, LABEL_LIMIT = 253, 63
ACCOUNT_FILES = 3  # of certbot's account


def certificate_names(names: Iterable[str]) -> list[str]:
    """Return host names and addresses as in a certificate, such as DNS:a.example.org and IP:fd00::1, sorted."""
    return sorted({_alternative(name.lower()) for name in names})


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def normal_address(text: str) -> str:
    """Return an address as the resolver writes it; another text unchanged."""
    return _alternative(text).partition(":")[2]


def name_problems(names: Iterable[str]) -> list[str]:
    """Return why clients can't use names: neither an address, nor a host name with or without a wildcard."""
    return [f"{name[:80]} {why}" for name in names if (why := _name_problem(name))]


def _name_problem(name: str) -> str:
    labels = name.removeprefix("*.").split(".")
    if not not_addresses([name]):
        return ""
    if ":" in name:
        return "is neither a host name nor an address"
    if len(name) > NAME_LIMIT:
        return f"has {len(name)} characters, more than {NAME_LIMIT}"
    if (longest := max(map(len, labels))) > LABEL_LIMIT:
        return f"has a part of {longest} characters between dots, more than {LABEL_LIMIT}"
    if "" in labels:
        return "has an empty part before or after a dot"
    return "has only numbers, which clients take for an address" if all(map(str.isdigit, labels)) else ""


def covered_by_wildcards(names: Iterable[str]) -> list[str]:
    """Return the host names that a wildcard among the names covers: *.example.org covers one label."""
    given = list(names)
    known = {name.lower() for name in given}
    return [name for name in given if not name.startswith("*") and f"*.{name.lower().partition('.')[2]}" in known]


def dns_credential_problems(credentials: Mapping[str, Any], provider: str) -> list[str]:
    """Return which credentials for DNS-01 certbot would refuse, and why, without their values."""
    values = {name: "" if value is None else str(value).strip() for name, value in credentials.items()}
    wrong = [f"{name} is empty" for name, value in values.items() if not value]
    if provider != "rfc2136":
        return wrong
    if (server := values.get("server")) and not_addresses([server]):
        wrong.append("server isn't an IPv4 or IPv6 address")
    if (algorithm := values.get("algorithm")) and algorithm not in ALGORITHMS:
        wrong.append(f"algorithm isn't one of {', '.join(ALGORITHMS)}")
    if (port := values.get("port")) and not (port.isdecimal() and 0 < int(port[:6]) < 2**16):
        wrong.append("port isn't a port")
    if (secret := values.get("secret")) and not _is_base64(secret):
        wrong.append("secret isn't base64, as BIND's tsig-keygen prints it")
    return wrong


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def not_addresses(texts: Iterable[str]) -> list[str]:
    """Return those of the texts that are neither an IPv4 nor an IPv6 address."""
    return [text for text in texts if _alternative(str(text)).startswith("DNS:")]


def acme_account_holder(
    hostvars: Mapping[str, Any], hosts: Iterable[str], kept: Mapping[str, Any], pattern: str
) -> str:
    """Return the host whose ACME account the controller lacks: no complete one is kept, or a later one replaced it.

    Empty if there is none. `kept`: the files on the controller. `pattern`: of the paths on a host.
    """
    before = _digests(kept.get("files", []))
    latest = max((untrusted.number(one.get("mtime")) for one in kept.get("files", [])), default=0.0)
    found: list[tuple[float, str]] = []
    for host in hosts:
        listed = untrusted.mapping(hostvars[host].get("__tls_certificate_acme_account")).get("files", [])
        files = [one for one in untrusted.objects(listed) if re.search(pattern, untrusted.text(one.get("path")))]
        when = max((untrusted.number(one.get("mtime")) for one in files), default=0.0)
        complete = len(files) >= ACCOUNT_FILES and when > latest
        if files and _digests(files) != before and (complete or len(before) < ACCOUNT_FILES):
            found.append((when, host))
    return max(found, key=lambda one: one[0])[1] if found else ""


def _digests(files: Iterable[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    """Return the digests of an account's files, by the account's id and their names."""
    return {(*pathlib.Path(str(one["path"])).parts[-2:], str(one.get("checksum"))) for one in files}


def certificate_ends(hostvars: Mapping[str, Any], hosts: Sequence[str], show_all: bool = False) -> list[str]:
    """Return a sentence for each certificate of these hosts that ends soon, and with `show_all` one for each other.

    Hosts that have not said the ends of their certificates aren't listed.
    """
    now = time.time()
    found: dict[str, list[str]] = {}
    for host in hosts:
        said = untrusted.mapping(untrusted.mapping(hostvars[host].get("ansible_facts")).get("certificates"))
        for one in hostvars[host].get("baton_certificates_noted") or []:
            if one["path"] in said:
                validity = untrusted.mapping(said[one["path"]])
                known = {**one, **{key: validity.get(key) for key in ("begins", "expires")}}
                sentence = certificates.problem(known, now) or (certificates.end(known) if show_all else "")
                found.setdefault(sentence, []).append(host)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in found.items() if sentence]


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
            "acme_account_holder": acme_account_holder,
            "certificate_ends": certificate_ends,
            "certificate_names": certificate_names,
            "covered_by_wildcards": covered_by_wildcards,
            "dns_credential_problems": dns_credential_problems,
            "is_certificate": is_certificate,
            "is_private_key": is_private_key,
            "name_problems": name_problems,
            "normal_address": normal_address,
            "not_addresses": not_addresses,
        }
