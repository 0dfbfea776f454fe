"""What operators do: look, check, stop, reboot. Last, because it stops what the others look at."""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import until

from .conftest import FLEET, Edge, asked_by_tls, other

# on the edge: count the events of a stream, and leave a file once the first is there
LISTEN = """
import pathlib, sys, urllib.request
seen = 0
for line in urllib.request.urlopen(sys.argv[1], timeout=600):
    seen += line.startswith(b"data:")
    if seen == 1:
        pathlib.Path(sys.argv[2]).touch()
print(seen)
"""

# what an application may be wrong in
LEAK = """
import os
LEAKED = []
@app.get("/leak/now")
async def leak() -> int:
    LEAKED.append(bytearray(os.urandom(1024)) * 1024 * 25)
    return os.getpid()
"""
# on an app server: ask one worker, by one connection, until it goes; then who it was
GROW = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 8000, timeout=60)
try:
    for _ in range(40):
        connection.request("GET", "/leak/now")
        print(connection.getresponse().read().decode())
except (OSError, http.client.HTTPException):
    print("gone")
"""


def url(host: Any, path: str) -> str:
    """A page of an app server, as nginx on the same host reaches it."""
    return f"http://{host.ansible.get_variables()['fleet_address']}:8000{path}"


@pytest.mark.hosts("edge1")
def test_a_check_of_the_converged_fleet_reports_no_change() -> None:
    assert FLEET.succeed("site.yml", "--check", "--diff").changed == [0] * 4


@pytest.mark.hosts("app1", "app2")
def test_a_stop_lets_a_running_request_end(host: Any) -> None:
    host.check_output("rm -f /tmp/running")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stream = pool.submit(host.run, "python3 -c %s %s /tmp/running", LISTEN, url(host, "/api/events?count=8"))
        host.check_output("timeout 600 sh -c 'until test -e /tmp/running; do sleep 0.1; done'")
        host.check_output("systemctl stop links.socket links.service")
        answer = stream.result()
    host.check_output("systemctl start links.socket links.service")
    assert answer.stdout == "8\n", answer.stderr


@pytest.fixture
def started_too_early() -> Iterator[None]:
    """nginx without its sandbox, and a Redis that is older than its drop-in."""
    edge1, data1 = other("edge1"), other("data1")
    nginx, redis = (f"/etc/systemd/system/{unit}.service.d/baton.conf" for unit in ("nginx", "redis-server@links"))
    edge1.check_output(
        f"mv {nginx} /run/kept && systemctl daemon-reload && systemctl restart nginx; mv /run/kept {nginx}; "
        "systemctl daemon-reload"
    )
    data1.check_output(f"touch {redis}; systemctl daemon-reload")
    yield
    edge1.check_output("systemctl restart nginx")
    # older than any start
    data1.check_output(f"touch -d @0 {redis}; systemctl daemon-reload")


@pytest.mark.hosts("app1")
def test_status_is_a_table_and_names_what_is_wrong(host: Any, request: pytest.FixtureRequest) -> None:
    well = FLEET.succeed("playbooks/status.yml")
    assert re.search(r"^app1 +[0-9a-f]{16} .* (\d+)/\1 .* ok", well.output, re.MULTILINE)
    assert "was started before" not in well.words
    request.getfixturevalue("started_too_early")
    host.check_output("systemctl stop links.socket links.service")
    ill = FLEET.play("playbooks/status.yml")
    host.check_output("systemctl start links.socket links.service")
    assert ill.status != 0
    assert "app1: the service is inactive" in ill.output
    assert "edge1: nginx.service runs without its sandbox" in ill.words
    assert "data1: redis-server@links.service was started before /etc/systemd/system/redis-server@" in ill.words


@pytest.mark.hosts("app1", "app2")
def test_a_host_comes_back_from_a_reboot_serving(host: Any, edge: Edge) -> None:
    release = host.check_output("readlink /opt/links/current")
    before = host.check_output("cat /proc/1/stat").split()[21]
    host.run("systemctl reboot")

    def back() -> bool:
        # never 255, which testinfra takes for an SSH failure of its own
        try:
            state = host.run("systemctl is-active links.service; cut -d' ' -f22 /proc/1/stat").stdout.split()
        except RuntimeError:
            return False
        return bool(state[:1] == ["active"] and state[1] != before)

    until(back, "it did not come back")
    assert host.check_output("readlink /opt/links/current") == release
    # by the way that the edge takes, so through the firewall that was loaded at boot; and the edge still knows it
    until(lambda: asked_by_tls(host) == "TLSv1.3 HTTP/1.1 200", "it doesn't serve")
    assert edge("/readyz").status_code == 200


def ready(host: Any) -> tuple[int, set[int]]:
    """The master, and its workers that serve."""
    said = json.loads(host.check_output("cat /run/baton/links/handover.json"))
    return said["master"]["pid"], {worker["pid"] for worker in said["workers"] if worker["state"] == "ready"}


@pytest.fixture
def leaking(host: Any) -> Iterator[None]:
    """An application that leaks, in a unit that may take 250 MiB more than it has, instead of 85 % of the host."""
    main = "/opt/links/current/src/links/main.py"
    host.run_test(f"cp -p {main} /run/main.py && cat >> {main} <<'END'\n{LEAK}\nEND")
    host.check_output("systemctl restart links.service")
    now = int(host.check_output("systemctl show -P MemoryCurrent links.service"))
    host.check_output(f"systemctl set-property --runtime links.service MemoryMax={now + 250 * 2**20}")
    yield
    host.check_output(f"cp -p /run/main.py {main}; rm -r /run/systemd/system.control/links.service.d")
    host.check_output("systemctl daemon-reload && systemctl restart links.service")


@pytest.mark.hosts("app1", "app2")
@pytest.mark.usefixtures("leaking")
def test_a_worker_that_leaks_goes_alone(host: Any, edge: Edge) -> None:
    master, before = ready(host)
    said = host.check_output("python3 -c %s %s", GROW, host.ansible.get_variables()["fleet_address"]).split()
    assert said.pop() == "gone"
    (leaker,) = set(map(int, said))

    def replaced() -> bool:
        assert edge("/healthz").status_code == 200
        now = ready(host)[1]
        return len(now) == len(before) and leaker not in now

    until(replaced, "it was not replaced")
    assert ready(host)[0] == master
    assert before - ready(host)[1] == {leaker}
    assert host.check_output("systemctl show -P NRestarts links.service") == "0"
