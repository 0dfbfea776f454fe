"""Whether a worker is ready, while its successors take over."""

from __future__ import annotations

import concurrent.futures
import json
import os
import threading
from typing import Any

import pytest

from tests.support.traffic import Background, Load

from .conftest import INVENTORY, NAME, PORT, Edge

# on an app server: ask it for two pages, each on connections that are kept, until the server closes them; a
# file says when all have been answered once. Prints how each page was answered last.
KEEP = """
import http.client, json, pathlib, sys, time
pages = ["/readyz", "/healthz"] * 5
kept = {http.client.HTTPConnection(sys.argv[1], 8000, timeout=120): page for page in pages}
last = []
while kept:
    for connection, path in list(kept.items()):
        connection.request("GET", path, headers={"Host": sys.argv[2]})
        answer = connection.getresponse()
        says = json.loads(answer.read())["status"]
        if answer.getheader("Connection") == "close":
            last.append((path, answer.status, says))
            del kept[connection]
    pathlib.Path("/tmp/kept").touch()
    # less than a server keeps a connection, and no load that boots would wait for
    time.sleep(0.5)
print(json.dumps(sorted(set(last))))
"""


# both Debian releases in the long form
@pytest.mark.hosts(*(("app1", "app2") if os.environ.get("BATON_TEST_LONG") else ("app2",)))
def test_an_old_worker_says_that_it_goes_and_the_edge_hears_of_none(host: Any, edge: Edge) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    options: dict[str, Any] = {
        "host": NAME,
        "ca_file": str(INVENTORY / "tls/ca.pem"),
        "rate": 20.0,
        "fewest": 100,
        "duration": 3600.0,
    }
    host.check_output("rm -f /tmp/kept")
    said: set[str] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.1):
            # the database may be slow on a busy machine, which is none of this
            said.add(edge("/readyz").json()["status"])

    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        Background(f"https://127.0.0.1:{PORT}", [Load("get", "/healthz", expect="ok")], **options) as clients,
    ):
        asking = pool.submit(ask)
        try:
            kept = pool.submit(host.run, "timeout 1800 python3 -c %s %s %s", KEEP, address, NAME)
            host.check_output("timeout 60 sh -c 'until test -e /tmp/kept; do sleep 0.1; done'")
            host.check_output("systemctl reload links.service")
            last = kept.result()
            host.check_output("systemctl reload links.service")
        finally:
            ended.set()
        asking.result()
    assert clients.summary.failed == {}, clients.summary
    assert said <= {"ok", "unavailable"}
    assert "ok" in said
    assert last.rc == 0, last.stderr
    assert json.loads(last.stdout) == [["/healthz", 200, "ok"], ["/readyz", 503, "draining"]]
