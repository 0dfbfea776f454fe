"""Shared helpers: the fleet, and the edge as seen by a client on this machine."""

from __future__ import annotations

import json
import pathlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import testinfra

from tests.support.playbooks import Playbooks
from tests.support.wait import PATIENCE, until

SCENARIO = pathlib.Path(__file__).parents[1]
INVENTORY = SCENARIO / "inventory"
FLEET = Playbooks(INVENTORY)
NAME = "links.baton.test"
PORT = 18443
APP_SERVERS = ["app1", "app2"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a test marked `hosts` only on these hosts; testinfra itself runs every test on every host."""
    elsewhere = [item for item in items if not _belongs(item)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def _belongs(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("hosts")
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    host = parameters.get("_testinfra_host")
    return marker is None or host is None or host.backend.get_pytest_id().removeprefix("ansible://") in marker.args


def other(name: str) -> Any:
    """A host of the fleet other than the one that a test runs on."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


def status(name: str) -> Any:
    """The status of the application's master on an app server, once all its workers are ready."""

    def settled() -> Any:
        document = json.loads(other(name).check_output("cat /run/baton/links/handover.json"))
        return document if {worker["state"] for worker in document["workers"]} == {"ready"} else None

    return until(settled, f"{name} has workers that boot or drain")


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    """Trusts only the demo's authority."""
    return ssl.create_default_context(cafile=str(INVENTORY / "tls/ca.pem"))


class Edge:
    """Sends requests to the edge, with its certificate's name."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Send one request."""
        return self._client.request(
            method,
            path,
            headers={"Host": NAME, **(headers or {})},
            json=json,
            content=content,
            extensions={"sni_hostname": NAME},
        )


@pytest.fixture(scope="session")
def edge(trust: ssl.SSLContext) -> Iterator[Edge]:
    """Over HTTPS with HTTP/1.1."""
    with httpx.Client(base_url=f"https://127.0.0.1:{PORT}", verify=trust, timeout=PATIENCE) as client:
        yield Edge(client)
