"""Check that the addresses of backing services in an application's settings fit the services' ports and TLS."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from ..edge import limits

# for addresses without a port
DEFAULT_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379}
LOOPBACK = ("127.0.0.0/8", "::1")
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
        scheme = _scheme(address)
        port = port or DEFAULT_PORTS.get(scheme, 0)
        for service in services:
            if host in service.hosts and _is_meant(service, scheme):
                if int(service.ports.get(scheme, 0)) != port:
                    found.append(f"{name}: {_wrong_address(service, scheme, port, tls)}")
                elif scheme == "postgresql" and tls == "required" and not _is_encrypted(address.query, addresses):
                    found.append(f"{name}: {_unverified(service)}")
    return found


def _scheme(address: urllib.parse.SplitResult) -> str:
    # SQLAlchemy adds the driver: postgresql+asyncpg
    scheme = address.scheme.partition("+")[0]
    return "postgresql" if scheme == "postgres" else scheme


def unreachable(addresses: Mapping[str, object], services: Sequence[Service], allowed: Sequence[str]) -> list[str]:
    """Return a sentence for each address of a database or Redis that the application's units deny.

    `allowed`: the addresses and networks that they allow besides the host itself. Names of other hosts than those of
    `services` aren't resolved: only the application's host knows their addresses.
    """
    networks = [*LOOPBACK, *limits.addresses(allowed)]
    found = []
    for name, value in addresses.items():
        for host in _hosts(value):
            own = limits.addresses([host]) or _addresses(host, services)
            if own and not limits.within(own, networks):
                found.append(
                    f"{name}: {host} isn't in app_service_allowed_addresses, so the application couldn't connect to "
                    f"it. Add {own[0]} there."
                )
    return found


def _addresses(name: str, services: Sequence[Service]) -> list[str]:
    """Return the addresses of the services' host with this name, as other hosts reach it."""
    hosts = [sorted(service.hosts) for service in services if name in service.hosts and name != "localhost"]
    return [one for host in hosts for one in limits.addresses(host) if not limits.within([one], LOOPBACK)]


def _hosts(value: object) -> Iterator[str]:
    """Yield the hosts of a database's or Redis's address, in lower case."""
    if not isinstance(value, str):
        return
    try:
        address = urllib.parse.urlsplit(value)
        if _scheme(address) in DEFAULT_PORTS:
            # libpq accepts several, also as a parameter, and paths of sockets
            given = dict(urllib.parse.parse_qsl(address.query)).get("host") or address.netloc.rpartition("@")[2]
            for one in given.split(","):
                yield urllib.parse.urlsplit(f"//{one}").hostname or "localhost"
    except ValueError:
        return


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
