"""Shared helpers: the fleet, and the edge as seen by a client on this machine."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
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
# on the edge: ask an app server for a page by TLS; prints the protocol and the status, or what came in their place
ASK = """
import socket, ssl, sys
address, name, ca, *pair = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if pair:
    context.load_cert_chain(*pair)
try:
    plain = socket.create_connection((address, 8443), 60)
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.sendall(b"GET /readyz HTTP/1.1\\r\\nHost: links.baton.test\\r\\nConnection: close\\r\\n\\r\\n")
        print(tls.version(), tls.recv(12).decode() or "closed")
except OSError as error:
    print(type(error).__name__, error)
"""
APP_NAME = "links.app-servers.baton.internal"
EDGE_CERTIFICATE = tuple(f"/etc/ssl/baton-transport/links-client/{file}.pem" for file in ("fullchain", "privkey"))


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


def request_over_tls(host: Any, certificate: tuple[str, ...] = EDGE_CERTIFICATE, name: str = APP_NAME) -> str:
    """Return an app server's response to the edge, with a client certificate or without one."""
    words = [host.ansible.get_variables()["fleet_address"], name, "/etc/nginx/upstream-ca/links.pem", *certificate]
    return str(other("edge1").check_output(f"python3 -Ic {shlex.quote(ASK)} {shlex.join(words)}"))


def status(name: str) -> Any:
    """The status of the application's master on an app server, once all its workers are ready."""

    def settled() -> Any:
        document = json.loads(other(name).check_output("cat /run/baton/links/handover.json"))
        return document if {worker["state"] for worker in document["workers"]} == {"ready"} else None

    return until(settled, f"{name} has workers that boot or drain")


def enqueue_pauses(seconds: float, times: int = 1) -> set[str]:
    """Ask Celery's workers to pause; return the ids of these tasks."""
    enqueue = f"app.send_task('links.jobs.pause', args=[{seconds}]).id for _ in range({times})"
    command = shlex.join(["python", "-c", f"from links.jobs import app; print(*({enqueue}))"])
    done = FLEET.succeed("playbooks/exec.yml", command=command)
    ids = re.findall(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", done.output)
    assert len(ids) == times, done.output
    return set(ids)


def journal(units: str, since: float, words: str) -> list[dict[str, Any]]:
    """Entries of the app servers' journals since a time, in seconds since the epoch, whose messages match a pattern."""
    options = f"--quiet --no-pager -o json --since=@{int(since)} -u '{units}' --grep {shlex.quote(words)}"
    look = f"journalctl --sync; journalctl {options}"
    return [json.loads(line) for name in APP_SERVERS for line in other(name).run(look).stdout.splitlines()]


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
