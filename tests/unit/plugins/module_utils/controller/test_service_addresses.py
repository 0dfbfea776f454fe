"""Addresses that a backing service would refuse, or that verify no certificate, are reported by preflight."""

from __future__ import annotations

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import service_addresses

CA = "/etc/links/services-ca.pem"
HOSTS = frozenset({"data1", "10.0.0.31"})
POSTGRESQL = service_addresses.Service("PostgreSQL", HOSTS, {"postgresql": 5432})
REDIS = {
    "disabled": {"redis": 6379},
    "offered": {"redis": 6379, "rediss": 6380},
    "required": {"rediss": 6380},
}
VERIFIED = f"postgresql://links:hidden@10.0.0.31:5432/links?sslmode=verify-full&sslrootcert={CA}"


def problems(tls: str, **addresses: object) -> list[str]:
    services = [POSTGRESQL, service_addresses.Service("Redis", HOSTS, REDIS[tls])]
    return service_addresses.problems(addresses, services, tls, CA)


@pytest.mark.parametrize(
    ("tls", "address"),
    [
        ("disabled", "postgresql://links:hidden@10.0.0.31:5432/links"),
        ("disabled", "redis://links:hidden@10.0.0.31/0"),
        ("offered", "redis://links:hidden@10.0.0.31:6379/0"),
        ("offered", "rediss://links:hidden@DATA1:6380/0"),
        ("offered", "postgres://links:hidden@data1/links?sslmode=disable"),
        ("required", "rediss://links:hidden@10.0.0.31:6380/0"),
        ("required", VERIFIED),
        ("required", VERIFIED.replace("postgresql:", "postgresql+asyncpg:").replace("sslmode", "ssl")),
        ("required", "postgresql://data1/links?sslmode=require"),
        # addresses of other services
        ("required", "redis://10.0.0.99:6379/0"),
        ("required", "postgresql://10.0.0.99/links?sslmode=disable"),
        ("required", "https://10.0.0.31/"),
        # addresses that can't be evaluated
        ("required", "postgresql://10.0.0.31:5432,10.0.0.32:5432/links"),
        ("required", "http://[::1"),
        ("required", "not an address"),
        ("required", True),
    ],
)
def test_valid_addresses_are_accepted(tls: str, address: object) -> None:
    assert problems(tls, ADDRESS=address) == []


@pytest.mark.parametrize(
    ("tls", "address", "words"),
    [
        ("disabled", "rediss://:hidden@data1:6380/0", ["isn't at rediss://…:6380", "Give redis://…:6379."]),
        ("required", "redis://:hidden@10.0.0.31:6379/0", ["isn't at redis://…:6379", "Give rediss://…:6380."]),
        ("required", "rediss://:hidden@10.0.0.31/0", ["isn't at rediss://…:6379", "Give rediss://…:6380."]),
        ("offered", "redis://:hidden@data1:6380/0", ["redis://…:6379 or rediss://…:6380"]),
        ("offered", "postgresql://:hidden@data1:5433/links", ["isn't at postgresql://…:5433"]),
        ("required", "postgresql://:hidden@data1/links", ["whether to verify PostgreSQL", "sslmode=verify-full"]),
        ("required", "postgresql://:hidden@data1/links?sslmode=prefer", ["whether to verify PostgreSQL"]),
        ("required", "postgresql+psycopg://:hidden@data1/links?sslmode=disable", ["whether to verify PostgreSQL"]),
        ("disabled", VERIFIED, [CA, "offered or required"]),
    ],
)
def test_invalid_address_is_reported_without_its_password(tls: str, address: str, words: list[str]) -> None:
    (message,) = problems(tls, ADDRESS=address)
    assert message.startswith("ADDRESS")
    for word in words:
        assert word in message
    assert "hidden" not in message


def test_tls_mode_may_be_set_in_the_environment() -> None:
    address = "postgresql://10.0.0.31/links"
    assert problems("required", DATABASE_URL=address, PGSSLMODE="verify-full", PGSSLROOTCERT=CA) == []
    assert len(problems("required", DATABASE_URL=address, PGSSLMODE="prefer")) == 1
    # the address takes precedence, as with libpq
    assert len(problems("required", DATABASE_URL=f"{address}?sslmode=disable", PGSSLMODE="verify-full")) == 1


@pytest.mark.parametrize(
    ("address", "allowed", "host"),
    [
        ("postgresql+asyncpg://links:hidden@10.0.0.31:5432/links", ["10.0.0.32"], "10.0.0.31"),
        ("redis://:hidden@DATA1/0", ["10.0.0.32"], "data1"),
        # a server of others
        ("rediss://192.0.2.7:6380/0", ["10.0.0.0/8"], "192.0.2.7"),
        ("postgres://[2001:db8::7]/links", ["10.0.0.0/8"], "2001:db8::7"),
        # several servers
        ("postgresql:///links?host=10.0.0.31", ["10.0.0.32"], "10.0.0.31"),
        ("postgresql://links:hidden@10.0.0.31:5432,10.0.0.32:5432/links", ["10.0.0.31"], "10.0.0.32"),
    ],
)
def test_denied_address_of_a_service_is_reported(address: str, allowed: list[str], host: str) -> None:
    services = [service_addresses.Service("Redis", HOSTS | {"localhost", "127.0.0.1"}, {})]
    (message,) = service_addresses.unreachable({"ADDRESS": address}, services, allowed)
    assert message.startswith(f"ADDRESS: {host} isn't in app_service_allowed_addresses")
    assert f"Add {'10.0.0.31' if host == 'data1' else host} there" in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://links@10.0.0.31:5432/links",
        "redis://data1/0",
        # the host itself, and a unix socket
        "redis://localhost/0",
        "redis://127.0.0.1/0",
        "redis://[::1]/0",
        "postgresql:///links?host=/run/postgresql",
        # unknown names are resolved by the host
        "postgresql://db.example.org/links",
        # no database: may be only a link
        "https://192.0.2.7/",
        "not an address",
        "redis://[::1",
        5,
    ],
)
def test_allowed_and_unknown_addresses_are_accepted(address: object) -> None:
    services = [service_addresses.Service("Redis", HOSTS | {"localhost", "127.0.0.1"}, {})]
    assert service_addresses.unreachable({"ADDRESS": address}, services, ["10.0.0.0/24", "*", "any"]) == []


def test_addresses_without_a_backing_service_are_not_checked() -> None:
    assert service_addresses.problems({"DATABASE_URL": VERIFIED}, [], "disabled", CA) == []
