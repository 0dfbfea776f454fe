"""Operations: maintenance, draining, rolling reboots and upgrades, logs, commands; mostly under traffic."""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.playbooks import PROJECT
from tests.support.traffic import Background, Load

from .conftest import FLEET, INVENTORY, NAME, PORT, Edge, other

pytestmark = [pytest.mark.hosts("edge1"), pytest.mark.long]
PASSWORD = "not-a-secret-of-anybody"
CONFIGURATION = "/etc/nginx/sites-enabled/links.conf"


def playbook(name: str, *options: str) -> str:
    return FLEET.succeed(f"playbooks/{name}", *options).output


def refused_playbook(name: str, *options: str) -> str:
    done = FLEET.play(f"playbooks/{name}", *options)
    assert done.status != 0, done.output
    return done.words


def drain(*servers: str, back: Sequence[str] = ()) -> dict[str, Any]:
    arguments = json.dumps({"site": "links", "drained": servers, "back": back})
    output = FLEET.ad_hoc("edge1", "baton.web.drain", arguments, "--one-line").output.partition("=>")[2]
    # until the end of the line: a warning may follow
    result: dict[str, Any] = json.loads(output.partition("\n")[0])
    return result


def traffic(fewest: int = 200) -> Background:
    """Requests without keep-alive: nginx before 1.27.4 closes kept connections at a reload without warning."""
    authority = str(INVENTORY / "tls/ca.pem")
    loads = [Load("get", "/healthz", expect="ok"), Load("get", "/readyz", expect='"schema":')]
    url = f"https://127.0.0.1:{PORT}"
    return Background(url, loads, rate=40, fewest=fewest, duration=3600, host=NAME, ca_file=authority, idle_limit=0)


def address(name: str) -> str:
    return str(other(name).ansible.get_variables()["fleet_address"])


def started(host: Any) -> str:
    """The start time of a host's PID 1, which differs after each reboot, also in a container."""
    return str(host.check_output("cut -d' ' -f22 /proc/1/stat"))


def master(host: Any) -> int:
    return int(json.loads(host.check_output("cat /run/baton/links/handover.json"))["master"]["pid"])


def asked_from(host: Any, edge: str) -> str:
    """The status line of the edge's response to a host of the fleet."""
    request = f"GET /healthz HTTP/1.1\\r\\nHost: {NAME}\\r\\nConnection: close\\r\\n\\r\\n"
    program = (
        "import socket, ssl; "
        f"s = ssl._create_unverified_context().wrap_socket(socket.create_connection(('{edge}', 443)), "
        f"server_hostname='{NAME}'); s.sendall(b'{request}'); print(s.recv(15).decode())"
    )
    return str(host.check_output(f'python3 -c "{program}"'))


def test_maintenance_finishes_running_requests_and_answers_new_ones(host: Any, edge: Edge) -> None:
    edge_address = host.ansible.get_variables()["fleet_address"]
    before = int(host.check_output("wc -l < /var/log/nginx/links-access.log"))
    with traffic() as clients, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(edge, "/api/slow?seconds=15")
        assert "Maintenance is on" in playbook("maintenance.yml", "-e", "maintenance=on")
        page, data = edge("/"), edge("/api/links", "POST", {"Accept": "application/json"}, json={"url": "x"})
        assert (page.status_code, page.headers["retry-after"]) == (503, "120")
        assert page.headers["content-type"] == "text/html"
        assert NAME in page.text
        assert (data.status_code, data.headers["retry-after"]) == (503, "120")
        assert data.json()["retry_after"] == 120
        assert len({page.headers["x-request-id"], data.headers["x-request-id"]}) == 2
        # the ACME path still reaches the application, which doesn't know the challenge
        assert edge("/.well-known/acme-challenge/x").status_code == 404
        assert edge("/.baton-maintenance/maintenance.html").status_code == 404
        assert asked_from(other("data1"), edge_address).split()[1] == "200"
        assert asked_from(other("app1"), edge_address).split()[1] == "503"
        assert slow.result().status_code == 200
        assert re.search(r"^edge1 .* maintenance", playbook("status.yml"), re.MULTILINE)
        assert "Maintenance is off" in playbook("maintenance.yml", "-e", "maintenance=off")
        assert edge("/healthz").status_code == 200
    assert set(clients.summary.failed) == {"HTTP 503"}, clients.summary
    log = host.check_output(f"tail -n +{before + 1} /var/log/nginx/links-access.log").splitlines()
    assert {line["upstream"] for line in map(json.loads, log) if line["status"] == 503} == {""}


def test_maintenance_stays_on_after_provisioning(host: Any, tmp_path: pathlib.Path) -> None:
    site = tmp_path / "site.yml"
    site.write_text(f"""
- hosts: all
  gather_facts: false
  become: true
  vars_files: [{PROJECT}/playbooks/vars/topology.yml, {PROJECT}/playbooks/vars/wiring.yml]
  tasks:
    - ansible.builtin.import_tasks: {PROJECT}/playbooks/tasks/addresses/resolve.yml
    - ansible.builtin.include_role: {{name: baton.web.nginx_site}}
      when: inventory_hostname in baton_edges
""")
    playbook("maintenance.yml", "-e", "maintenance=on")
    again = playbook("maintenance.yml", "-e", "maintenance=on")
    set_up = FLEET.succeed(str(site)).output
    kept = host.file("/var/lib/nginx-site/links/maintenance").exists
    playbook("maintenance.yml", "-e", "maintenance=off")
    assert kept
    assert "maintenance is on and stays on" in set_up
    assert not re.search(r"changed=[1-9]", again + set_up)


@pytest.mark.parametrize(("value", "words"), [(None, "The variable maintenance is missing"), ("soon", 'is "soon"')])
def test_maintenance_needs_on_or_off(value: str | None, words: str) -> None:
    assert words in refused_playbook("maintenance.yml", *(["-e", f"maintenance={value}"] if value else []))


def test_drained_server_gets_no_new_request(host: Any, edge: Edge) -> None:
    first, second = address("app1"), address("app2")
    with traffic() as clients, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = [pool.submit(edge, "/api/slow?seconds=6") for _ in range(4)]
        time.sleep(1)
        drained = drain(first)
        before = int(host.check_output("wc -l < /var/log/nginx/links-access.log"))
        assert (drained["changed"], drained["remaining"]) == (True, 0)
        assert drain(first)["changed"] is False
        assert [answer.result().status_code for answer in slow] == [200] * 4
        log = host.check_output(f"tail -n +{before + 1} /var/log/nginx/links-access.log").splitlines()
        assert {json.loads(line)["upstream"] for line in log} == {f"{second}:8443"}
        assert drain(back=[first])["changed"] is True
    assert not clients.summary.failed, clients.summary
    assert host.run(f"grep -q ' down;' {CONFIGURATION}").rc == 1


def test_last_server_is_not_drained(host: Any) -> None:
    before = host.check_output(f"sha256sum {CONFIGURATION}")
    assert "no server of the site links would remain" in drain(address("app1"), address("app2"))["msg"]
    assert host.check_output(f"sha256sum {CONFIGURATION}") == before


def test_reboot_with_interruption_needs_confirmation() -> None:
    before = [started(other(name)) for name in ("app1", "app2", "data1", "edge1")]
    output = refused_playbook("reboot.yml")
    assert "edge1 (the only edge)" in output
    assert "data1 (the database server, the Redis server)" in output
    assert "app1 (" not in output
    assert "-e reboot_confirm=true" in output
    playbook("reboot.yml", "--limit", "app_servers", "-e", "reboot_only_if_required=true")
    assert [started(other(name)) for name in ("app1", "app2", "data1", "edge1")] == before


def test_reboot_of_app_server_loses_no_request(host: Any) -> None:
    app1 = other("app1")
    before, release = started(app1), app1.check_output("readlink /opt/links/current")
    app1.check_output("touch /run/reboot-required")
    with traffic() as clients:
        output = playbook("reboot.yml", "--limit", "app_servers", "-e", "reboot_only_if_required=true")
    assert not clients.summary.failed, clients.summary
    assert "app1 serves again" in output
    assert "app2 serves again" not in output
    assert started(app1) != before
    assert app1.check_output("readlink /opt/links/current") == release
    assert host.run(f"grep -q ' down;' {CONFIGURATION}").rc == 1


def test_app_server_that_fails_after_reboot_stays_drained(host: Any) -> None:
    app1, app2 = other("app1"), other("app2")
    untouched = started(app2)
    units = "links.socket links.service"
    app1.check_output(f"systemctl disable {units}")
    with traffic() as clients:
        output = refused_playbook("reboot.yml", "--limit", "app_servers", "-e", "reboot_ready_timeout=10")
    app1.check_output(f"systemctl enable --now {units}")
    assert not clients.summary.failed, clients.summary
    assert "the deploy lock is released. app1 gets no requests from the edges." in output
    assert started(app2) == untouched
    assert not any(app.file("/var/lib/baton/links/lock.json").exists for app in (app1, app2))
    assert host.run(f"grep -q ' down;' {CONFIGURATION}").rc == 0
    playbook("reboot.yml", "--limit", "app1")
    assert host.run(f"grep -q ' down;' {CONFIGURATION}").rc == 1


def test_interrupt_ends_reboot_after_current_host(host: Any) -> None:
    app1, app2 = other("app1"), other("app2")
    before, untouched = started(app1), started(app2)
    running = FLEET.start("playbooks/reboot.yml", "--limit", "app_servers")
    assert running.stdout is not None
    for line in running.stdout:
        if "Drain or restore app servers" in line:
            break
    running.send_signal(signal.SIGINT)
    output = " ".join(running.stdout.read().split())
    assert running.wait() != 0
    assert (
        "Interrupted by the operator. app2 and the hosts after it stay unchanged, and the deploy lock is released"
        in output
    )
    assert started(app1) != before
    assert started(app2) == untouched
    assert not any(app.file("/var/lib/baton/links/lock.json").exists for app in (app1, app2))
    assert host.run(f"grep -q ' down;' {CONFIGURATION}").rc == 1


PACKAGE = r"""
set -e
for version in 1 2; do
  mkdir -p /srv/probe/$version/DEBIAN
  printf 'Package: baton-probe\nVersion: %s\nArchitecture: all\nMaintainer: nobody\nDescription: probe\n' $version \
    > /srv/probe/$version/DEBIAN/control
done
# replaces Python's executable, like an upgrade of Python
cat > /srv/probe/2/DEBIAN/postinst <<'END'
#!/bin/sh
python=$(readlink -f /usr/bin/python3)
cp -p $python $python.new && mv $python.new $python
END
chmod 755 /srv/probe/2/DEBIAN/postinst
for version in 1 2; do dpkg-deb -b /srv/probe/$version /srv/probe >/dev/null; done
dpkg -i /srv/probe/baton-probe_1_all.deb >/dev/null
cd /srv/probe && rm baton-probe_1_all.deb
printf 'Package: baton-probe\nVersion: 2\nArchitecture: all\nMaintainer: nobody\nDescription: probe\n' > Packages
printf 'Filename: ./baton-probe_2_all.deb\nSize: %s\nSHA256: %s\n' \
  $(stat -c %s baton-probe_2_all.deb) $(sha256sum < baton-probe_2_all.deb | cut -d' ' -f1) >> Packages
echo 'deb [trusted=yes] file:/srv/probe ./' > /etc/apt/sources.list.d/baton-probe.list
apt-get update -qq -o Dir::Etc::SourceList=/etc/apt/sources.list.d/baton-probe.list -o Dir::Etc::SourceParts=-
"""


def test_upgrade_loses_no_request() -> None:
    app2 = other("app2")
    app2.check_output(PACKAGE)
    before = master(app2)
    with traffic() as clients:
        output = playbook("upgrade_system.yml", "--limit", "app2", "-e", "upgrade_reboot=false")
        after = master(app2)
        again = playbook("upgrade_system.yml", "--limit", "app2", "-e", "upgrade_reboot=false")
    app2.check_output("rm -r /srv/probe /etc/apt/sources.list.d/baton-probe.list; dpkg --purge baton-probe")
    assert not clients.summary.failed, clients.summary
    assert "baton-probe 1 -> 2" in output
    assert after != before
    assert "(deleted)" not in app2.check_output(f"readlink /proc/{after}/exe")
    assert not re.search(r"changed=[1-9]", again)


def test_replaced_library_is_reported_until_its_services_are_restarted() -> None:
    """As after an automatic update, for which no package is left to upgrade."""
    library = "/usr/lib/*-linux-gnu/libssl.so.3"
    other("data1").check_output(f"for file in {library}; do cp -p $file $file.new && mv $file.new $file; done")
    found = re.findall(r"data1: (\S+) still executes what an upgrade replaced: ", refused_playbook("status.yml"))
    assert {unit.partition("@")[0] for unit in found} == {"postgresql", "redis-server"}
    assert "data1 (the database server, the Redis server)" in refused_playbook("upgrade_system.yml", "--limit", "data1")
    playbook("upgrade_system.yml", "--limit", "data1", "-e", "upgrade_confirm=true", "-e", "upgrade_reboot=false")
    playbook("status.yml")
    again = playbook("upgrade_system.yml", "--limit", "data1", "-e", "upgrade_reboot=false")
    assert not re.search(r"changed=[1-9]", again)


def test_reload_that_nginx_refuses_fails_with_the_fix(host: Any, edge: Edge) -> None:
    """`nginx -t` accepts another key of a zone; only the running nginx refuses it."""
    extra = "/etc/nginx/conf.d/of-test.conf"
    host.check_output(f"echo 'limit_req_zone $uri zone=one:1m rate=1r/s;' > {extra} && systemctl reload nginx")
    host.check_output(f"sed -i 's/$uri/$host/' {extra} && nginx -t")
    try:
        done = FLEET.play("site.yml", "--limit", "edge1")
        assert edge("/healthz").status_code == 200
    finally:
        host.check_output(f"rm {extra} && systemctl reload nginx")
    assert done.status != 0
    words = done.words
    assert "nginx can't load its files:" in words
    assert 'limit_req "one" uses the "$host" key while previously it used the "$uri" key' in words
    assert "Give the zone another name, or run `systemctl restart nginx` in a maintenance window" in words


def test_logs_of_all_hosts_are_found_by_request_id(edge: Edge) -> None:
    answers = [edge("/healthz") for _ in range(6)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    output = playbook("logs.yml", "-e", "since='2 min ago'", "-e", f"grep='{'|'.join(ids)}'")
    lines = [line for line in output.splitlines() if re.match(r"app[12] \| \d{4}-\d\d-\d\d \d\d:\d\d", line)]
    assert [line.rpartition("[")[2].strip("]") for line in lines] == ids
    assert {line.split()[0] for line in lines} == {"app1", "app2"}
    assert all("GET /healthz 200" in line for line in lines)


def test_logs_can_be_followed(edge: Edge) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        follower = pool.submit(playbook, "logs.yml", "-e", "since=now", "-e", "follow=10", "-e", "grep=/healthz")
        ids = set()
        while not follower.done():
            ids.add(edge("/healthz").headers["x-request-id"])
            time.sleep(1)
    assert len([one for one in ids if one in follower.result()]) >= 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["since=whenever"], 'such as "10 min ago"'),
        (["level=loud"], 'level is "loud"'),
        (["lines=0"], 'lines is "0"'),
        (["follow=5", "--forks=1"], "Add --forks 2"),
    ],
)
def test_invalid_log_options_are_refused(options: list[str], words: str) -> None:
    assert words in refused_playbook("logs.yml", "-e", *options)


def test_command_has_environment_of_service_without_listed_secrets() -> None:
    command = "id -un; pwd; python -c 'import links; print(5)'; touch /etc/x; printenv DATABASE_URL | wc -c; sleep 3"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.submit(playbook, "exec.yml", "-e", json.dumps({"command": command}))
        listed = []
        while not done.done():
            listed.append(other("app1").check_output("ps axww"))
            time.sleep(0.3)
    output = done.result()
    assert [listing for listing in listed if "sleep 3" in listing]
    assert not [listing for listing in listed if PASSWORD in listing]
    assert "app1: exit code 0" in output
    assert "app2" not in output.split("PLAY RECAP")[0]
    assert re.search(
        r"^links\n/opt/links/releases/[0-9a-f]{16}/src\n5\ntouch: .*Read-only.*\n\d{2,3}$", output, re.MULTILINE
    )


def test_exit_code_of_command_is_reported() -> None:
    assert "Exit code 3 in release" in refused_playbook(
        "exec.yml", "-e", json.dumps({"command": "exit 3"}), "--limit", "app2"
    )
    assert "Give the command with" in refused_playbook("exec.yml")
