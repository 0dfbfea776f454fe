"""The readiness page during a handover."""

from __future__ import annotations

import concurrent.futures
import json
import os
import threading
from typing import Any

import pytest

from tests.support.traffic import Background, Load

from .conftest import INVENTORY, NAME, PORT, Edge

# on an app server: request two of its pages on kept connections, until the server closes them; create a file when
# all have been answered once. Prints the last response for each page.
KEEP = """
import http.client, json, pathlib, sys, time
pages = ["/readyz", "/healthz"] * 5
kept = {http.client.HTTPConnection(sys.argv[1], 8000, timeout=120): page for page in pages}
last = []
while kept:
    for connection, path in list(kept.items()):
        connection.request("GET", path, headers={"Host": sys.argv[2]})
        answer = connection.getresponse()
        state = json.loads(answer.read())["status"]
        if answer.getheader("Connection") == "close":
            last.append((path, answer.status, state))
            del kept[connection]
    pathlib.Path("/tmp/kept").touch()
    # shorter than the server's keep-alive, and no load that would slow down booting workers
    time.sleep(0.5)
print(json.dumps(sorted(set(last))))
"""


# both Debian releases in `make test-long`
@pytest.mark.hosts(*(("app1", "app2") if os.environ.get("BATON_TEST_LONG") else ("app2",)))
def test_draining_worker_is_not_ready_only_on_kept_connections(host: Any, edge: Edge) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    options: dict[str, Any] = {
        "host": NAME,
        "ca_file": str(INVENTORY / "tls/ca.pem"),
        "rate": 20.0,
        "fewest": 100,
        "duration": 3600.0,
    }
    host.check_output("rm -f /tmp/kept")
    states: set[str] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.1):
            # "unavailable" is allowed: the database may be slow on a busy machine
            states.add(edge("/readyz").json()["status"])

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
    assert states <= {"ok", "unavailable"}
    assert "ok" in states
    assert last.rc == 0, last.stderr
    # what was in progress when the drain began gets its own answer
    in_progress = ["/readyz", 200, "ok"]
    answers = [answer for answer in json.loads(last.stdout) if answer != in_progress]
    assert answers == [["/healthz", 200, "ok"], ["/readyz", 503, "draining"]]
