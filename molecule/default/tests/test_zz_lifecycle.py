"""Status, check mode, stops, reboots and memory leaks. Runs last, because it stops services that other tests need."""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import until

from .conftest import EDGE_CERTIFICATE, FLEET, Edge, other, request_over_tls

# on the edge: count the events of a stream, and create a file after the first one
LISTEN = """
import pathlib, sys, urllib.request
seen = 0
for line in urllib.request.urlopen(sys.argv[1], timeout=600):
    seen += line.startswith(b"data:")
    if seen == 1:
        pathlib.Path(sys.argv[2]).touch()
print(seen)
"""

# added to the application: a page that leaks memory
LEAK = """
import os
LEAKED = []
@app.get("/leak/now")
async def leak() -> int:
    LEAKED.append(bytearray(os.urandom(1024)) * 1024 * 25)
    return os.getpid()
"""
# on an app server: call the page on one connection, so of one worker, until that is killed; prints its pid
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
    """The URL of a page of an app server, for nginx on the same host."""
    return f"http://{host.ansible.get_variables()['fleet_address']}:8000{path}"


@pytest.mark.hosts("edge1")
def test_check_mode_of_converged_fleet_reports_no_change() -> None:
    assert FLEET.succeed("site.yml", "--check", "--diff").changed == [0] * 4


@pytest.mark.hosts("app1", "app2")
def test_stop_finishes_running_request(host: Any) -> None:
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
    """nginx without its sandbox and its newest certificate, and a Redis started before its drop-in was written."""
    edge1, data1 = other("edge1"), other("data1")
    nginx, redis = (f"/etc/systemd/system/{unit}.service.d/baton.conf" for unit in ("nginx", "redis-server@links"))
    edge1.check_output(
        f"mv {nginx} /run/kept && systemctl daemon-reload && systemctl restart nginx; mv /run/kept {nginx}; "
        "systemctl daemon-reload"
    )
    certificate = "/etc/ssl/baton/links/fullchain.pem"
    edge1.check_output(f"cp -p {certificate} /run/kept.pem && cat {EDGE_CERTIFICATE[0]} > {certificate}")
    data1.check_output(f"touch {redis}; systemctl daemon-reload")
    yield
    edge1.check_output(f"cp -p /run/kept.pem {certificate}")
    edge1.check_output("systemctl restart nginx")
    # older than the service's start
    data1.check_output(f"touch -d @0 {redis}; systemctl daemon-reload")


@pytest.mark.hosts("app1")
def test_status_reports_problems(host: Any, request: pytest.FixtureRequest) -> None:
    healthy = FLEET.succeed("playbooks/status.yml")
    assert re.search(r"^app1 +[0-9a-f]{16} .* (\d+)/\1 .* ok", healthy.output, re.MULTILINE)
    assert "was started before" not in healthy.words
    request.getfixturevalue("started_too_early")
    host.check_output("systemctl stop links.socket links.service")
    failing = FLEET.play("playbooks/status.yml")
    host.check_output("systemctl start links.socket links.service")
    assert failing.status != 0
    assert "app1: the service is inactive" in failing.output
    assert "edge1: nginx.service runs without its sandbox" in failing.words
    assert "edge1: nginx doesn't serve the certificate /etc/ssl/baton/links/fullchain.pem" in failing.words
    assert "data1: redis-server@links.service was started before /etc/systemd/system/redis-server@" in failing.words


def reboot(host: Any) -> None:
    """Reboot an app server, and wait until its application runs."""
    before = host.check_output("cat /proc/1/stat").split()[21]
    host.run("systemctl reboot")

    def back() -> bool:
        # testinfra takes status 255 for an SSH failure
        try:
            state = host.run("systemctl is-active links.service; cut -d' ' -f22 /proc/1/stat").stdout.split()
        except RuntimeError:
            return False
        return bool(state[:1] == ["active"] and state[1] != before)

    until(back, "it did not come back")


@pytest.mark.hosts("app1", "app2")
def test_host_serves_after_reboot(host: Any, edge: Edge) -> None:
    release = host.check_output("readlink /opt/links/current")
    reboot(host)
    assert host.check_output("readlink /opt/links/current") == release
    # from the edge, so through the firewall that was loaded at boot; and through the edge
    until(lambda: request_over_tls(host) == "TLSv1.3 HTTP/1.1 200", "it doesn't serve")
    assert edge("/readyz").status_code == 200


@pytest.mark.hosts("app1")
def test_missed_run_is_caught_up_once_after_reboot_or_suspension(host: Any) -> None:
    suspend, resume = (
        ("playbooks/schedule.yml", "-e", "schedule=spanning", "-e", f"schedule_action={action}")
        for action in ("suspend", "resume")
    )
    folder, nightly, spanning = "/var/lib/links", "links-nightly.timer", "links-spanning.timer"
    release = host.check_output("basename $(readlink /opt/links/current)")

    def ran(name: str) -> str:
        return str(host.run(f"cat {folder}/{name}").stdout)

    host.check_output(f"rm -f {folder}/nightly {folder}/spanning; touch {folder}/spanning-end")
    FLEET.succeed(*suspend)
    # the host was down for long, as far as systemd can tell
    host.check_output(f"cd /var/lib/systemd/timers && touch -d '3 years ago' stamp-{nightly} stamp-{spanning}")
    reboot(host)
    until(lambda: ran("nightly"), "the missed run doesn't start")
    states = [host.run(f"systemctl is-active {timer}").stdout.strip() for timer in (nightly, spanning)]
    assert (states, ran("spanning")) == (["active", "inactive"], "")
    FLEET.succeed(*resume)
    until(lambda: "end" in ran("spanning"), "the missed run doesn't start once it is resumed")
    host.check_output(f"test -L /etc/systemd/system/multi-user.target.wants/{spanning}")
    assert ran("spanning") == f"begin {release}\nend {release}\n"
    assert ran("nightly") == f"nightly of {release}\n"


def ready(host: Any) -> tuple[int, set[int]]:
    """The pids of the master and of its serving workers."""
    output = json.loads(host.check_output("cat /run/baton/links/handover.json"))
    return output["master"]["pid"], {worker["pid"] for worker in output["workers"] if worker["state"] == "ready"}


@pytest.fixture
def leaking(host: Any) -> Iterator[None]:
    """An application that leaks, in a unit limited to 250 MiB more than it uses, instead of 85 % of the host."""
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
def test_leaking_worker_is_killed_alone(host: Any, edge: Edge) -> None:
    master, before = ready(host)
    output = host.check_output("python3 -c %s %s", GROW, host.ansible.get_variables()["fleet_address"]).split()
    assert output.pop() == "gone"
    (leaker,) = set(map(int, output))

    def replaced() -> bool:
        assert edge("/healthz").status_code == 200
        now = ready(host)[1]
        return len(now) == len(before) and leaker not in now

    until(replaced, "it was not replaced")
    assert ready(host)[0] == master
    assert before - ready(host)[1] == {leaker}
    assert host.check_output("systemctl show -P NRestarts links.service") == "0"
