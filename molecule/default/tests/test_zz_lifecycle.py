"""What operators do: look, check, stop, reboot. Last, because it stops what the others look at."""

from __future__ import annotations

import concurrent.futures
import re
import time
from typing import Any

import pytest

from .conftest import FLEET, Edge, other

# on the edge: count the events of a stream, and leave a file once the first is there
LISTEN = """
import pathlib, sys, urllib.request
seen = 0
for line in urllib.request.urlopen(sys.argv[1], timeout=20):
    seen += line.startswith(b"data:")
    if seen == 1:
        pathlib.Path(sys.argv[2]).touch()
print(seen)
"""


def url(host: Any, path: str) -> str:
    """A page of an app server, as the edge reaches it."""
    return f"http://{host.ansible.get_variables()['fleet_address']}:8000{path}"


@pytest.mark.hosts("edge1")
def test_a_check_of_the_converged_fleet_reports_no_change() -> None:
    assert FLEET.succeed("site.yml", "--check", "--diff").changed == [0] * 4


@pytest.mark.hosts("app1", "app2")
def test_a_stop_lets_a_running_request_end(host: Any) -> None:
    edge1 = other("edge1")
    edge1.check_output("rm -f /tmp/running")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stream = pool.submit(edge1.run, "python3 -c %s %s /tmp/running", LISTEN, url(host, "/api/events?count=8"))
        edge1.check_output("timeout 60 sh -c 'until test -e /tmp/running; do sleep 0.1; done'")
        host.check_output("systemctl stop links.socket links.service")
        answer = stream.result()
    host.check_output("systemctl start links.socket links.service")
    assert answer.stdout == "8\n", answer.stderr


@pytest.mark.hosts("app1")
def test_status_is_a_table_and_names_what_is_wrong(host: Any) -> None:
    well = FLEET.succeed("playbooks/status.yml")
    assert re.search(r"^app1 +[0-9a-f]{16} .* 5/5 .* ok", well.output, re.MULTILINE)
    host.check_output("systemctl stop links.socket links.service")
    ill = FLEET.play("playbooks/status.yml")
    host.check_output("systemctl start links.socket links.service")
    assert ill.status != 0
    assert "app1: the service is inactive" in ill.output


@pytest.mark.hosts("app1", "app2")
def test_a_host_comes_back_from_a_reboot_serving(host: Any, edge: Edge) -> None:
    release = host.check_output("readlink /opt/links/current")
    before = host.check_output("cat /proc/1/stat").split()[21]
    host.run("systemctl reboot")
    deadline = time.monotonic() + 60
    while True:
        # never 255, which testinfra takes for an SSH failure of its own
        try:
            state = host.run("systemctl is-active links.service; cut -d' ' -f22 /proc/1/stat").stdout.split()
        except RuntimeError:
            state = []
        if state[:1] == ["active"] and state[1] != before:
            break
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(1)
    assert host.check_output("readlink /opt/links/current") == release
    # by the way that the edge takes, so through the firewall that was loaded at boot; and the edge still knows it
    ask = f"import urllib.request as r; print(r.urlopen('{url(host, '/readyz')}', timeout=20).status)"
    assert other("edge1").check_output("python3 -c %s", ask) == "200"
    assert edge("/readyz").status_code == 200
