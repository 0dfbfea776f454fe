"""Whether a worker is ready, while its successors take over."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import pytest

from tests.support.traffic import Background, Load

from .conftest import INVENTORY, NAME, PORT, other

# on the edge: ask for two pages of an app server, each on connections that are kept, until the server closes them; a
# file says when all have been answered once. Prints how each page was answered last.
KEEP = """
import http.client, json, pathlib, sys, time
pages = ["/readyz", "/healthz"] * 20
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
    time.sleep(0.1)
print(json.dumps(sorted(set(last))))
"""


@pytest.mark.hosts("app1", "app2")
def test_an_old_worker_says_that_it_goes_and_the_edge_hears_of_none(host: Any) -> None:
    edge1, address = other("edge1"), host.ansible.get_variables()["fleet_address"]
    loads = [Load("get", "/readyz", expect='"status":"ok"'), Load("get", "/api/links"), Load("get", "/healthz")]
    options = {"host": NAME, "ca_file": str(INVENTORY / "tls/ca.pem"), "rate": 40.0, "fewest": 200, "duration": 3600.0}
    edge1.check_output("rm -f /tmp/kept")
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        Background(f"https://127.0.0.1:{PORT}", loads, **options) as clients,
    ):
        kept = pool.submit(edge1.run, "timeout 300 python3 -c %s %s %s", KEEP, address, NAME)
        edge1.check_output("timeout 60 sh -c 'until test -e /tmp/kept; do sleep 0.1; done'")
        host.check_output("systemctl reload links.service")
        last = kept.result()
        host.check_output("systemctl reload links.service")
    assert clients.summary.failed == {}, clients.summary
    assert last.rc == 0, last.stderr
    assert json.loads(last.stdout) == [["/healthz", 200, "ok"], ["/readyz", 503, "draining"]]
