"""The addresses of backing services that an application is given: whether they fit the TLS of these services."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence

# where an address names no port
DEFAULT_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379}
# what libpq and its like may be told for an encrypted connection
ENCRYPTED = ("require", "verify-ca", "verify-full")


@dataclasses.dataclass(frozen=True)
class Service:
    """A backing service on a host, as clients reach it."""

    name: str
    hosts: frozenset[str]  # names and addresses, in lower case
    ports: Mapping[str, int]  # the open ones, by the scheme of an address


def problems(addresses: Mapping[str, object], services: Sequence[Service], tls: str, ca_file: str) -> list[str]:
    """A sentence for each address under which its service can't be reached, or would be unverified without being asked.

    `addresses` are settings and secrets by name; what is no address of one of `services` is passed over. `tls` is
    backing_services_tls, `ca_file` where the application finds the authority's certificate. No sentence has a value.
    """
    if not services:
        return []
    found = []
    for name, value in addresses.items():
        if not isinstance(value, str):
            continue
        if tls == "disabled" and ca_file in value:
            found.append(
                f"{name} names {ca_file}, which is there with backing_services_tls alone. "
                "Set that to offered or required."
            )
            continue
        try:
            address = urllib.parse.urlsplit(value)
            host, port = address.hostname, address.port
        except ValueError:
            continue  # several hosts, or nothing that can be read
        # SQLAlchemy has the driver in it: postgresql+asyncpg
        scheme = address.scheme.partition("+")[0]
        scheme = "postgresql" if scheme == "postgres" else scheme
        port = port or DEFAULT_PORTS.get(scheme, 0)
        for service in services:
            if host in service.hosts and _is_meant(service, scheme):
                if int(service.ports.get(scheme, 0)) != port:
                    found.append(f"{name}: {_elsewhere(service, scheme, port, tls)}")
                elif scheme == "postgresql" and tls == "required" and not _is_encrypted(address.query, addresses):
                    found.append(f"{name}: {_unverified(service)}")
    return found


def _is_meant(service: Service, scheme: str) -> bool:
    """Whether an address with this scheme is one of the service: redis:// also where rediss:// alone is open."""
    return any(known in service.ports for known in (scheme, f"{scheme}s", scheme.removesuffix("s")))


def _elsewhere(service: Service, scheme: str, port: int, tls: str) -> str:
    ways = " or ".join(f"{open_}://…:{number}" for open_, number in service.ports.items())
    return f"{service.name} isn't at {scheme}://…:{port} with backing_services_tls: {tls}. Give {ways}."


def _is_encrypted(query: str, environment: Mapping[str, object]) -> bool:
    given = dict(urllib.parse.parse_qsl(query))
    return given.get("sslmode", given.get("ssl", environment.get("PGSSLMODE"))) in ENCRYPTED


def _unverified(service: Service) -> str:
    return (
        f"TLS is required, and nothing says that {service.name} is to be verified. Add "
        "?sslmode=verify-full&sslrootcert={{ services_ca_file }}, or set PGSSLMODE and PGSSLROOTCERT in "
        "app_config_environment. sslmode=require encrypts and verifies nothing."
    )
