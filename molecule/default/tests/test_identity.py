"""The client's identity in the application, behind an edge that uses TCP; molecule/acme tests Unix sockets."""

from __future__ import annotations

import json

import pytest

from tests.support import curl

from .conftest import NAME, other

EDGE = "10.213.81.11"
CLIENT = "198.51.100.7"
FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Real-IP": "6.6.6.6",
    "True-Client-IP": "6.6.6.6",
    "CF-Connecting-IP": "6.6.6.6",
    "Remote-User": "mallory",
    "X-Forwarded-User": "mallory",
    "X-SSL-Client-Verify": "SUCCESS-mallory",
    "X-SSL-Client-S-DN": "CN=mallory",
    "X_Forwarded_User": "mallory",
}


@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
def test_client_cannot_forge_its_identity(protocol: str) -> None:
    client = other("app1")
    curl.install(client)
    forged = [f"-H{name}: {value}" for name, value in FORGED.items()]
    seen = curl.seen(client, NAME, EDGE, "/api/whoami", protocol, *forged)
    assert seen["client"] == client.ansible.get_variables()["fleet_address"]
    assert "6.6.6.6" not in json.dumps(seen["headers"])
    assert "mallory" not in json.dumps(seen["headers"])


@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
def test_trusted_proxy_sets_client_and_user(protocol: str) -> None:
    proxy = other("data1")
    curl.install(proxy)
    forged = [f"-H{name}: {value}" for name, value in FORGED.items() if "Forwarded" not in name]
    trusted = [f"-HX-Forwarded-For: 6.6.6.6, {CLIENT}", "-HX-Forwarded-User: alice"]
    seen = curl.seen(proxy, NAME, EDGE, "/api/whoami", protocol, *forged, *trusted)
    assert seen["client"] == CLIENT
    assert seen["headers"]["x-forwarded-for"] == [CLIENT]
    assert seen["headers"]["x-forwarded-user"] == ["alice"]
    # headers that the proxy isn't declared to set
    assert "6.6.6.6" not in json.dumps(seen["headers"])
    assert "mallory" not in json.dumps(seen["headers"])
