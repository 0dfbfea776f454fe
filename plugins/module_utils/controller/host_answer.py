"""The facts that a host returns: a compromised host can return others, with other types."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..host import untrusted

LARGEST = 2**31 - 1  # of counts and sizes
MOST_CORES = 8192  # of a Linux kernel; the edges derive limits from their number


def wrong(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts that the module host_facts wouldn't return like this, sorted."""
    return sorted(name for name, is_right in FACTS.items() if name in facts and not is_right(facts[name]))


def _is_text(found: Any) -> bool:
    return isinstance(found, str) and len(found) <= untrusted.TEXT


def _is_name(found: Any) -> bool:
    """Whether it may be part of a path."""
    return isinstance(found, str) and re.fullmatch("[A-Za-z0-9_]{1,64}", found) is not None


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(map(_is_text, found))


def _is_boolean(found: Any) -> bool:
    return isinstance(found, bool)


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= LARGEST


def _are_counts(found: Any) -> bool:
    return isinstance(found, Mapping) and all(map(_is_text, found)) and all(map(_is_count, found.values()))


def _are_cores(found: Any) -> bool:
    return _is_count(found) and found <= MOST_CORES


def _is_time(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < untrusted.LATEST


def _is_address(found: Any, kind: Callable[[str], Any] = ipaddress.IPv4Address) -> bool:
    """Whether it has an IPv4 address, or none; it goes into the settings of other hosts."""
    if not isinstance(found, Mapping):
        return False
    try:
        return not found or (isinstance(found["address"], str) and bool(kind(found["address"])))
    except (KeyError, ValueError):
        return False


def _is_python(found: Any) -> bool:
    version = untrusted.mapping(untrusted.mapping(found).get("version"))
    return all(_is_count(version.get(part)) for part in ("major", "minor", "micro"))


def _is_transport(found: Any) -> bool:
    about = untrusted.mapping(found)
    return (
        _is_text(about.get("sends"))
        and _is_boolean(about.get("takes_tls"))
        and _is_boolean(about.get("takes_plain"))
        and _are_texts(about.get("trusted"))
    )


def _are_certificates(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        _is_text(path)
        and isinstance(about, Mapping)
        and all(about.get(key) is None or _is_time(about[key]) for key in ("begins", "expires"))
        for path, about in found.items()
    )


FACTS: Mapping[str, Callable[[Any], bool]] = {
    "app_before_web": _is_boolean,
    "app_calendar_problems": _are_texts,
    "app_first_host": _is_text,
    "app_foreign_units": _are_texts,
    "app_prepared": _is_boolean,
    "app_release": _is_text,
    "app_runs": _are_texts,
    "app_starts_at_boot": _are_texts,
    "app_stop_timeouts": _are_counts,
    "app_transport": _is_transport,
    "architecture": _is_name,
    "certificates": _are_certificates,
    "clock": _is_time,
    "default_ipv4": _is_address,
    "default_ipv6": lambda found: _is_address(found, ipaddress.IPv6Address),
    "distribution": _is_text,
    "distribution_major_version": _is_text,
    "distribution_release": _is_text,
    "distribution_version": _is_text,
    "memtotal_mb": _is_count,
    "nameservers": _are_texts,
    "package_lists_age": lambda found: found is None or _is_time(found),
    "packages": _are_texts,
    "postgresql_max_connections": _is_count,
    "processor_vcpus": _are_cores,
    "python": _is_python,
    "service_mgr": _is_text,
    "virtualization_role": _is_text,
    "virtualization_type": _is_text,
}
