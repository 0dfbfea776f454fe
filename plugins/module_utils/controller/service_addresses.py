"""Check that the addresses of backing services in an application's settings fit the services' ports and TLS."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence

# for addresses without a port
DEFAULT_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379}
# values of sslmode (libpq) that require encryption
ENCRYPTED = ("require", "verify-ca", "verify-full")


@dataclasses.dataclass(frozen=True)
class Service:
    """A backing service on a host, as clients reach it."""

    name: str
    hosts: frozenset[str]  # names and addresses, in lower case
    ports: Mapping[str, int]  # the open ones, by the scheme of an address


def problems(addresses: Mapping[str, object], services: Sequence[Service], tls: str, ca_file: str) -> list[str]:
    """Return a sentence for each address that can't reach its service, or that would silently skip verification.

    `addresses`: settings and secrets by name; values that aren't addresses of `services` are ignored. `tls`:
    backing_services_tls. `ca_file`: path of the authority's certificate for the application. Sentences contain no
    values, which may be secret.
    """
    if not services:
        return []
    found = []
    for name, value in addresses.items():
        if not isinstance(value, str):
            continue
        if tls == "disabled" and ca_file in value:
            found.append(
                f"{name} names {ca_file}, which exists only with TLS. Set backing_services_tls to offered or required."
            )
            continue
        try:
            address = urllib.parse.urlsplit(value)
            host, port = address.hostname, address.port
        except ValueError:
            continue  # several hosts, or not an address
        # SQLAlchemy adds the driver: postgresql+asyncpg
        scheme = address.scheme.partition("+")[0]
        scheme = "postgresql" if scheme == "postgres" else scheme
        port = port or DEFAULT_PORTS.get(scheme, 0)
        for service in services:
            if host in service.hosts and _is_meant(service, scheme):
                if int(service.ports.get(scheme, 0)) != port:
                    found.append(f"{name}: {_wrong_address(service, scheme, port, tls)}")
                elif scheme == "postgresql" and tls == "required" and not _is_encrypted(address.query, addresses):
                    found.append(f"{name}: {_unverified(service)}")
    return found


def _is_meant(service: Service, scheme: str) -> bool:
    """Whether an address with this scheme refers to the service, for example redis:// if only rediss:// is open."""
    return any(known in service.ports for known in (scheme, f"{scheme}s", scheme.removesuffix("s")))


def _wrong_address(service: Service, scheme: str, port: int, tls: str) -> str:
    addresses = " or ".join(f"{open_}://…:{number}" for open_, number in service.ports.items())
    return f"{service.name} isn't at {scheme}://…:{port} with backing_services_tls: {tls}. Give {addresses}."


def _is_encrypted(query: str, environment: Mapping[str, object]) -> bool:
    given = dict(urllib.parse.parse_qsl(query))
    return given.get("sslmode", given.get("ssl", environment.get("PGSSLMODE"))) in ENCRYPTED


def _unverified(service: Service) -> str:
    return (
        f"TLS is required, but the address doesn't say whether to verify {service.name}. Add "
        "?sslmode=verify-full&sslrootcert={{ services_ca_file }}, or set PGSSLMODE and PGSSLROOTCERT in "
        "app_config_environment. sslmode=require encrypts without verification."
    )
