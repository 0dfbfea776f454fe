"""Ansible filters about networks, and filters that validate an edge's settings about clients."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from ansible_collections.baton.web.plugins.module_utils.edge import limits, syntax

# The widest prefixes, by IP version, that can belong to one operator or CDN; wider ones contain foreign addresses.
WIDEST = {4: 8, 6: 16}
PRESETS = pathlib.Path(__file__).parents[2] / "roles/nginx_site/files/proxy_presets.yml"
LOCAL = ipaddress.IPv6Network("fc00::/7")
# Seconds; required by hstspreload.org.
PRELOAD_MAX_AGE = 31536000
YEAR = datetime.timedelta(days=366)
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def wrong_networks(networks: Sequence[Any], *, allow_wide: bool = True) -> list[str]:
    """Return sentences about values that are neither an address nor a network in CIDR notation.

    Without `allow_wide`, networks too wide to belong to one operator are invalid too.
    """
    sentences = []
    for text in map(str, networks):
        try:
            network = limits.network(text)
        except ValueError:
            sentences.append(_why_no_network(text))
            continue
        if not allow_wide and network.prefixlen < WIDEST[network.version] and not _is_local(network):
            widest = WIDEST[network.version]
            sentences.append(f"{text} contains foreign addresses (no range wider than /{widest} is trusted).")
    return sentences


def _is_local(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return isinstance(network, ipaddress.IPv6Network) and LOCAL.supernet_of(network)


def _why_no_network(text: str) -> str:
    try:
        whole = limits.network(text, strict=False)
    except ValueError:
        return f'"{text}" is not an address or a network such as 203.0.113.0/24.'
    return f"{text} has bits set beyond its prefix: write {whole}, or the address alone."


def wrong_hsts(max_age: int, *, subdomains: bool, preload: bool) -> list[str]:
    """Return sentences about HSTS settings that the browsers' preload list would refuse; `max_age` in seconds."""
    if not preload:
        return []
    sentences = []
    if max_age < PRELOAD_MAX_AGE:
        sentences.append(f"nginx_site_hsts_max_age is {max_age} and must be at least {PRELOAD_MAX_AGE} (a year).")
    if not subdomains:
        sentences.append("nginx_site_hsts_include_subdomains must be true.")
    return sentences


def wrong_authorities(text: str) -> list[str]:
    """Return sentences about a PEM file that should contain the authorities of client certificates."""
    from cryptography import x509

    if "PRIVATE KEY-----" in text:
        return ["it contains a private key, which no server needs."]
    found = CERTIFICATE.findall(text)
    if not found:
        return ['it contains no "-----BEGIN CERTIFICATE-----" block.']
    sentences = []
    for number, block in enumerate(found, 1):
        try:
            certificate = x509.load_pem_x509_certificate(block.encode())
            name = certificate.subject.rfc4514_string() or f"number {number}"
            is_authority = _is_authority(certificate)
        except ValueError:
            sentences.append(f"its certificate number {number} can't be read.")
            continue
        if not is_authority:
            sentences.append(f"{name} isn't a certificate authority (basicConstraints CA:TRUE).")
        elif certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
            sentences.append(f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}.")
    return sentences


def _is_authority(certificate: Any) -> bool:
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def proxy_networks(proxies: Sequence[str], presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the networks of proxies without duplicates, with names of presets replaced by their networks."""
    named = [presets[proxy]["networks"] if proxy in presets else [proxy] for proxy in proxies]
    return list(dict.fromkeys(network for networks in named for network in networks))


def unlimited_networks(clients: Sequence[Any], proxies: Sequence[Any]) -> list[str]:
    """Return the networks of clients and proxies to which an edge's limits for a client don't apply.

    Leaves out what is no network: nginx_site refuses it with a message about its own setting.
    """
    # parsed only where it is needed: the rules are evaluated in many tasks
    presets: dict[str, Any] = yaml.safe_load(PRESETS.read_text(encoding="utf-8")) if proxies else {}
    found = []
    for text in [*map(str, clients), *proxy_networks([*map(str, proxies)], presets)]:
        with contextlib.suppress(ValueError):
            found.append(str(limits.network(text, strict=False)))
    return list(dict.fromkeys(found))


def old_presets(proxies: Sequence[str], presets: Mapping[str, Mapping[str, Any]], today: str) -> list[str]:
    """Return a sentence for each of these presets whose list is older than a year. `today`: date in ISO format."""
    oldest = datetime.date.fromisoformat(today) - YEAR
    return [
        f"The list of {name}'s networks is of {presets[name]['date']}."
        for name in dict.fromkeys(proxies)
        if name in presets and datetime.date.fromisoformat(presets[name]["date"]) < oldest
    ]


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "wrong_networks": wrong_networks,
            "wrong_hsts": wrong_hsts,
            "wrong_authorities": wrong_authorities,
            "old_presets": old_presets,
            "proxy_networks": proxy_networks,
            "unlimited_networks": unlimited_networks,
            "within": limits.within,
            "nginx_syntax_problem": syntax.problem,
        }
