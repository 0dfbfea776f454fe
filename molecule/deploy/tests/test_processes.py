"""Background processes during changes of the fleet: each job runs once, in a release that knows its task."""

from __future__ import annotations

import fnmatch
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.support.playbooks import Playbooks
from tests.support.wait import until

from .shop import APP_SERVERS, EDGES, LONG, SCENARIO, SITE, SOURCE, Fleet, Source, host

PROCESSES = {
    "worker": {
        "command": "python jobs.py work",
        "count": 3,
        "settle_seconds": 1,
        "memory_max": "200M",
        # not only settle_seconds: the time until it works depends on the machine
        "check": "python jobs.py check",
    },
    "beat": {
        "command": "python jobs.py beat",
        "hosts": "first",
        "strategy": "replace",
        "settle_seconds": 1,
        "check": 'test -n "$RELEASE_ID" && python jobs.py check',
    },
}
QUICK: dict[str, Any] = {"deploy_bake_seconds": 0, "deploy_batches": [1, "100%"], "app_processes": PROCESSES}
ON_QUEUE = "edge1"
QUEUE = "http://10.213.87.11:8900"
# its rehearsal succeeds, but it crashes on one host
CRASH = """
import pathlib
rehearsed = pathlib.Path(os.environ["STATE_DIRECTORY"], "rehearsed-" + os.environ["RELEASE_ID"])
if socket.gethostname().endswith("app2") and sys.argv[1] == "work":
    if rehearsed.exists():
        raise SystemExit("no broker at broker.example.org")
    rehearsed.touch()
"""
# the files of background processes, by their places
FILES = ("/etc/shop/processes.json", "/etc/systemd/system/*shop-worker@*", "/opt/shop/processes/*")
# its proof succeeds, but it ends, after its job, once the web processes are of its release
ENDS_LATER = """
import threading
def end_once_current():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while os.path.basename(os.readlink("/opt/shop/current")) != os.environ["RELEASE_ID"]:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
if socket.gethostname().endswith("app3") and sys.argv[1] == "work":
    threading.Thread(target=end_once_current, daemon=True).start()
"""
DEAD = "if sys.argv[1] == 'work': raise SystemExit('no broker at broker.example.org')"


def report() -> Any:
    """The queue's report on all jobs so far."""
    return json.loads(ask_queue("", None))


def ask_queue(path: str, body: bytes | None) -> str:
    ask = f"import urllib.request; print(urllib.request.urlopen('{QUEUE}/{path}', {body!r}).read().decode())"
    return str(host(ON_QUEUE).check_output(f'python3 -c "{ask}"'))


def newest_receipt() -> Any:
    return json.loads(max((SCENARIO / "inventory/receipts").glob("*.json")).read_text())


def running(name: str, process: str = "worker") -> dict[str, str]:
    """The active units of a process type on a host: `unit:pid`, and the release."""
    look = (
        f"for unit in $(systemctl list-units --plain --no-legend --state=active 'shop-{process}@*' | cut -d' ' -f1); "
        "do "
        "pid=$(systemctl show -P MainPID $unit); tr '\\0' '\\n' < /proc/$pid/environ | "
        'sed -n "s/^RELEASE_ID=/$unit:$pid /p"; done'
    )
    return dict(line.split() for line in host(name).check_output(look).splitlines())


def workers() -> dict[str, dict[str, str]]:
    return {name: running(name) for name in APP_SERVERS}


def files(name: str) -> list[str]:
    """The files of background processes on a host."""
    places = " -o ".join(f"-path '{place}'" for place in FILES)
    found: str = host(name).check_output(f"find /etc/shop /etc/systemd/system /opt/shop -maxdepth 2 {places}")
    return found.split()


def assert_all_run(release: str) -> None:
    """Assert that all processes are of a release, in the right number, and enabled at boot."""
    for name, found in workers().items():
        assert len(found) == 3, (name, found)
        assert set(found.values()) == {release}, (name, found)
        enabled = host(name).check_output("ls /etc/systemd/system/multi-user.target.wants")
        units = {unit.partition(":")[0] for unit in found}
        assert {unit for unit in enabled.split() if unit.startswith("shop-worker@")} == units, name
    beats = {name: running(name, "beat") for name in APP_SERVERS}
    assert list(beats["app1"].values()) == [release], beats
    assert not beats["app2"], beats
    assert not beats["app3"], beats


def active_versions() -> set[int]:
    """The versions that have enqueued a job of their own, and whose beat has reported."""
    result = report()
    return {number for number in result["ticked"] if f"task{number}" in result["tasks"]}


def assert_receipt_lists_workers(before: dict[str, dict[str, str]]) -> None:
    """Assert that the newest receipt has the old and new workers of each host, and that no old one was killed."""
    now = workers()
    for name, about in newest_receipt()["hosts"].items():
        result = about["processes"]["worker"]
        old, new = ({int(one.partition(":")[2]) for one in found[name]} for found in (before, now))
        assert {one["pid"] for one in result["old"]} == old, (result, old)
        assert set(result["new"]) == new, (result, new)
        assert {one["state"] for one in result["old"]} <= {"drained", "draining"}, result


def until_all_done() -> None:
    """Wait until all jobs are done. If some never are, show who took them, and what they and the queue logged."""

    def details() -> str:
        look = "journalctl --quiet --no-pager --lines=100 -u 'shop-worker@*' -u job-queue"
        logged = "\n".join(host(name).run(look).stdout for name in (ON_QUEUE, *APP_SERVERS))
        return f": {report()['missing']}\n{logged}"

    until(lambda: not report()["missing"], "jobs are left", details)


class Clients:
    """Clients at both edges that make the application enqueue jobs during a block."""

    def __init__(self) -> None:
        self.enqueued: list[int] = []
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[port]) for port in EDGES.values()]

    def _ask(self, port: int) -> None:
        context = ssl.create_default_context(cafile=str(SCENARIO / "inventory/tls/ca.pem"))
        while not self._ended.wait(0.15):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                plain = socket.create_connection(("127.0.0.1", port), timeout=60)
                connection.sock = context.wrap_socket(plain, server_hostname=SITE)
                connection.request("POST", "/job", headers={"Host": SITE})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.enqueued.append(json.loads(body)["id"])
                else:
                    self.failures.append(f"{answer.status} {body[:200]!r}")
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


pytestmark = pytest.mark.usefixtures("processes")


@pytest.fixture(scope="module")
def processes(fleet: Fleet) -> Iterator[None]:
    """The fleet with a queue and background processes; removes both at the end."""
    script = (SCENARIO / "tests/on_host/job_queue.py").read_text()
    host(ON_QUEUE).run_test(f"cat > /root/job_queue.py <<'END'\n{script}\nEND")
    begin = "systemd-run --unit=job-queue --collect python3 /root/job_queue.py 10.213.87.11 8900"
    host(ON_QUEUE).check_output(f"systemctl stop job-queue 2>/dev/null; {begin}")
    until(
        lambda: (
            host(ON_QUEUE).run("python3 -c 'import socket; socket.create_connection((\"10.213.87.11\", 8900))'").rc == 0
        ),
        "no queue",
    )
    try:
        fleet.succeed("playbooks/configure.yml", **QUICK)
        assert_all_run(fleet.release())
        # proves that each place is searched
        for name in APP_SERVERS:
            assert [place for place in FILES if not fnmatch.filter(files(name), place)] == [], name
        yield
    finally:
        fleet.play("playbooks/configure.yml", deploy_bake_seconds=0)
        host(ON_QUEUE).check_output("systemctl stop job-queue")
    until(lambda: not any(workers().values()), "there are still workers")
    for name in APP_SERVERS:
        assert files(name) == []


def test_jobs_run_once_in_a_release_that_knows_them(fleet: Fleet, source: Source) -> None:
    served, numbers, swaps = [fleet.release()], [], []
    before = workers()
    ask_queue("measure", b"{}")
    with Clients() as clients, fleet.traffic() as traffic:
        for _ in range(10 if LONG else 1):
            numbers.append(source.change())
            fleet.deploy(**QUICK)
            swaps.append(newest_receipt()["hosts"]["app1"]["processes"]["beat"]["seconds"])
            served.append(fleet.release())
            assert_all_run(served[-1])
            until(lambda: active_versions() >= set(numbers), "a release has no job or no beat of its own")
            if len(served) == 2:
                assert_receipt_lists_workers(before)
        # by its id: the history may not have an entry for a release whose controller was killed
        fleet.succeed("playbooks/rollback.yml", rollback_to=served[-2], **QUICK)
        swaps.append(newest_receipt()["hosts"]["app1"]["processes"]["beat"]["seconds"])
        # Stop, start and check, whose check succeeds only after the first report. The old one's last report before the
        # stop, and its answer, may take as long as any other.
        pauses = report()["pauses"]
        assert 0 < pauses["change"] <= max(swaps) + 2 * pauses["own"], (pauses, swaps)
        assert fleet.release() == served[-2]
        assert_all_run(served[-2])
        if LONG:
            again = workers()
            environment = {"GREETING": "hello", "QUEUE": QUEUE, "MORE": "1"}
            fleet.succeed("playbooks/configure.yml", app_config_environment=environment, **QUICK)
            assert_all_run(served[-2])
            for name in APP_SERVERS:
                assert not again[name].keys() & workers()[name].keys()
                assert not again[name].keys() & before[name].keys()
    assert clients.failures == []
    until_all_done()
    result = report()
    assert traffic.failed == {}, traffic.failures
    assert result["added"] == len(clients.enqueued) > 0
    assert (result["missing"], result["twice"], result["unknown"]) == ({}, [], [])
    # each release enqueued jobs of its own
    assert {f"task{number}" for number in numbers} <= set(result["tasks"])
    until(lambda: report()["beats"], "nobody says that it is the one of its kind")
    result = report()
    assert (result["most_beats"], len(result["beats"])) == (1, 1)


@pytest.mark.long
def test_unchanged_processes_keep_running(fleet: Fleet) -> None:
    fleet.succeed("playbooks/configure.yml", **QUICK)
    before = workers()
    assert set(fleet.deploy(**QUICK).changed) == {0}
    assert workers() == before


def test_status_and_logs_show_processes(fleet: Fleet) -> None:
    result = fleet.succeed("playbooks/status.yml", app_processes=PROCESSES)
    assert "worker" in result.output
    assert "beat" in result.output
    logged = fleet.succeed(
        "playbooks/logs.yml", process="worker", lines=5000, since="1 hour ago", app_processes=PROCESSES
    )
    assert "work of version" in logged.output
    assert "beat of version" not in logged.output
    everything = fleet.succeed("playbooks/logs.yml", lines=20000, since="1 hour ago", app_processes=PROCESSES)
    assert "work of version" in everything.output
    assert "beat of version" in everything.output


@pytest.mark.parametrize("where", [pytest.param("rehearsal", marks=pytest.mark.long), "processes"])
def test_worker_that_crashes_at_start_is_reverted(
    fleet: Fleet,
    source: Source,
    where: str,
) -> None:
    before = (fleet.releases(), workers())
    source.change(jobs=CRASH if where == "processes" else DEAD)
    with Clients() as clients, fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", **QUICK)
    assert done.status != 0
    at = "app1" if where == "rehearsal" else "app2"
    assert f"{at}, {where}: " in done.words, done.output
    assert "shop-worker@" in done.words
    assert "no broker at broker.example.org" in done.words, done.output
    assert "Serving as before the change: app1, app2, app3" in done.words
    assert clients.failures == []
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before[0]
    after = workers()
    # app2's workers were not replaced; the other hosts have workers of the same release again
    assert after["app2"] == before[1]["app2"]
    for name in APP_SERVERS:
        assert sorted(after[name].values()) == sorted(before[1][name].values()), name
    if where == "rehearsal":
        assert after == before[1]
    until_all_done()
    result = report()
    assert (result["twice"], result["unknown"], result["most_beats"]) == ([], [], 1)


@pytest.mark.long
def test_workers_that_end_after_their_proof_are_reverted(fleet: Fleet, source: Source) -> None:
    before = (fleet.releases(), workers())
    source.change(jobs=ENDS_LATER)
    # no clients of jobs: those that the new web processes would enqueue are unknown to the previous workers
    with fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", **QUICK)
    assert done.status != 0
    assert "app3, processes: shop-worker@" in done.words, done.output
    assert "Serving as before the change: app1, app2, app3; reverted: app1, app2, app3." in done.words
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before[0]
    for name, found in workers().items():
        assert sorted(found.values()) == sorted(before[1][name].values()), name


def _workers_of(release: str, *, other: bool) -> int:
    """How many active workers of all hosts run this release, or another one."""
    return sum((one != release) is other for found in workers().values() for one in found.values())


def _beats_of(release: str, *, other: bool) -> int:
    return sum((one != release) is other for one in running("app1", "beat").values())


def _hosts_of_other(fleet: Fleet, release: str) -> int:
    return sum(fleet.current(name) != release for name in APP_SERVERS)


def _new_workers(count: int) -> Callable[[Fleet, str], bool]:
    return lambda _fleet, old: _workers_of(old, other=True) >= count


def _old_workers_left(count: int) -> Callable[[Fleet, str], bool]:
    return lambda _fleet, old: _workers_of(old, other=False) <= count


# The moments at which the controller is killed: by name, a condition that tells whether the deploy has reached it.
# `old`: the previous release.
MOMENTS: dict[str, Callable[[Fleet, str], bool]] = {
    "begins": lambda _fleet, _old: True,
    **{f"{count} new workers": _new_workers(count) for count in range(1, 10)},
    **{f"{count} old workers left": _old_workers_left(count) for count in (8, 6, 5, 3, 2, 0)},
    "first batch": lambda fleet, old: _hosts_of_other(fleet, old) >= 1,
    "old beat stops": lambda _fleet, old: not _beats_of(old, other=False),
    "new beat runs": lambda _fleet, old: bool(_beats_of(old, other=True)),
    "second batch": lambda fleet, old: _hosts_of_other(fleet, old) >= 2,
}


def kill_controller(fleet: Fleet, kind: str, step: str, condition: Callable[[], bool] = lambda: True) -> None:
    """Kill the controller of a change once it has begun a step and a condition is met; wait for what hosts complete."""
    change = fleet.start(f"playbooks/{kind}.yml", **QUICK)
    assert change.stdout is not None
    for line in change.stdout:
        if step in line:
            break
    until(condition, "the moment to kill the controller doesn't come")
    assert change.poll() is None, "it ended before"
    os.killpg(change.pid, signal.SIGKILL)
    change.communicate()
    until(
        lambda: all(len(found) == 3 and len(set(found.values())) == 1 for found in workers().values()),
        "not every host has all its workers, of one release",
    )
    until(lambda: len(running("app1", "beat")) == 1, "not one beat")


@pytest.mark.parametrize(
    "moment", [one if one == "old beat stops" else pytest.param(one, marks=pytest.mark.long) for one in MOMENTS]
)
def test_killed_controller_leaves_one_release_per_host(fleet: Fleet, source: Source, moment: str) -> None:
    old = fleet.release()
    source.change()
    with fleet.units_watched("shop-worker@*") as watched:
        kill_controller(fleet, "deploy", "Activate the background processes", lambda: MOMENTS[moment](fleet, old))
        fleet.deploy(**QUICK)
    # old ones stop once the new ones are proven
    for name, found in watched.items():
        assert found["checks"] > 10, name
        assert found["fewest"] >= 3, (name, found)
    new = fleet.release()
    assert new != old
    assert_all_run(new)
    assert report()["most_beats"] == 1


@pytest.mark.long
@pytest.mark.parametrize("killed", ["rollback", "deploy"])
def test_rollback_goes_no_further_than_the_change_that_was_killed_between_its_processes(
    fleet: Fleet, source: Source, killed: str
) -> None:
    """The web processes are of the wanted release everywhere, but not all workers."""
    source.change()
    fleet.deploy(**QUICK)
    wanted = fleet.release()
    source.change()
    if killed == "rollback":
        fleet.deploy(**QUICK)
        kill_controller(fleet, "rollback", "Wait for the old web processes")
        assert _workers_of(wanted, other=True) == 9
    else:
        kill_controller(
            fleet, "deploy", "Activate the background processes", lambda: _workers_of(wanted, other=True) > 0
        )
        assert _workers_of(wanted, other=True) > 0
    assert fleet.release() == wanted
    done = fleet.succeed("playbooks/rollback.yml", **QUICK)
    assert "It is current already, but an interrupted change left worker unfinished." in done.words
    assert fleet.release() == wanted
    assert_all_run(wanted)
    assert report()["most_beats"] == 1


def test_command_that_the_release_lacks_is_refused_before_anything_stops(fleet: Fleet) -> None:
    before = (fleet.releases(), workers(), running("app1", "beat"))
    misspelt = {**PROCESSES, "beat": {**PROCESSES["beat"], "command": "python jbos.py beat"}}
    schedules = {"cleanup": {"command": "python -m shop.cleanup", "calendar": "*-*-* 03:00"}}
    done = fleet.play("playbooks/configure.yml", **{**QUICK, "app_processes": misspelt, "app_schedules": schedules})
    assert done.status != 0
    assert "app1, rehearsal: " in done.words, done.output
    assert "app_processes.beat.command runs the file jbos.py, which the host and this release don't have" in done.words
    assert "app_schedules.cleanup.command runs the module shop.cleanup, " in done.words
    assert (fleet.releases(), workers(), running("app1", "beat")) == before


def started_at_boot(name: str, pattern: str) -> list[str]:
    """The units that match a pattern and that systemd starts when the host boots."""
    wanted = host(name).check_output("systemctl daemon-reload && systemctl show -P Wants multi-user.target").split()
    return fnmatch.filter(wanted, pattern)


@pytest.mark.long
def test_printed_commands_stop_a_process_on_a_host_that_left_the_group(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "inventory"
    shutil.copytree(SCENARIO / "inventory", folder)
    inventory = yaml.safe_load((folder / "hosts.yml").read_text())
    del inventory["app_servers"]["hosts"]["app1"]
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    without = Playbooks(folder, fleet.environment)
    assert started_at_boot("app1", "shop-beat@*")
    done = without.play("playbooks/configure.yml", **QUICK)
    assert done.status != 0
    found = re.search(
        r"app1 runs app_processes.beat \(.*which must not run on app2 .* Stop it there as root: `(.+?)`\.", done.words
    )
    assert found, done.output
    host("app1").check_output(found[1])
    assert running("app1", "beat") == {}
    assert started_at_boot("app1", "shop-beat@*") == []
    assert "beat" not in host("app1").check_output("ls /opt/shop/processes")
    assert "must not run on" not in without.play("playbooks/configure.yml", "--check", **QUICK).words
    fleet.succeed("playbooks/configure.yml", **QUICK)
    assert_all_run(fleet.release())


@pytest.mark.long
def test_name_moves_between_process_types_and_schedules(fleet: Fleet) -> None:
    schedules = {"beat": {"command": "true", "calendar": "*-*-* 03:00"}}
    types = {"worker": PROCESSES["worker"]}
    try:
        fleet.succeed("playbooks/configure.yml", **{**QUICK, "app_processes": types, "app_schedules": schedules})
        assert running("app1", "beat") == {}
        assert started_at_boot("app1", "shop-beat*") == ["shop-beat.timer"]
        assert host("app1").check_output("systemctl is-active shop-beat.timer") == "active"
    finally:
        fleet.succeed("playbooks/configure.yml", **QUICK)
    assert_all_run(fleet.release())
    (unit,) = started_at_boot("app1", "shop-beat*")
    assert unit.startswith("shop-beat@")
    assert host("app1").run("systemctl is-active shop-beat.timer").rc != 0


@pytest.mark.long
def test_process_that_has_ended_does_not_start_at_boot_after_its_type_moved(fleet: Fleet) -> None:
    (unit,) = (one.partition(":")[0] for one in running("app1", "beat"))
    host("app1").check_output(f"systemctl stop {unit}")
    done = fleet.play("playbooks/configure.yml", app_first_host="app2", **QUICK)
    assert done.status != 0
    assert "app1 runs app_processes.beat (now, or after its next boot), which must not run on app2" in done.words
    try:
        fleet.succeed("playbooks/configure.yml", app_first_host="none", **QUICK)
        assert started_at_boot("app1", "shop-beat*") == []
    finally:
        fleet.succeed("playbooks/configure.yml", app_first_host="app1", **QUICK)
    assert_all_run(fleet.release())


@pytest.mark.long
def test_release_without_a_program_of_its_commands_is_refused_before_the_migration(
    fleet: Fleet, source: Source
) -> None:
    source.change()
    assert "Run the migration" in fleet.deploy(**QUICK).output
    before = (fleet.releases(), workers(), running("app1", "beat"))
    source.change()
    (SOURCE / "jobs.py").unlink()
    done = fleet.play("playbooks/deploy.yml", app_service_rehearsal=False, **QUICK)
    assert done.status != 0
    assert ", staging: app_processes.worker.command runs the file jobs.py, which" in done.words, done.output
    assert "Run the migration" not in done.output
    assert (fleet.releases(), workers(), running("app1", "beat")) == before


@pytest.mark.long
def test_rollback_to_other_process_types_needs_their_settings(fleet: Fleet, source: Source) -> None:
    first = fleet.release()
    source.change()
    # both types renamed; the second one must not run twice under both names
    types = {"tasks": PROCESSES["worker"], "ticker": PROCESSES["beat"]}
    with Clients() as clients, fleet.traffic() as traffic:
        fleet.succeed("site.yml", **{**QUICK, "app_processes": types})
        second = fleet.release()
        assert second != first
        assert not any(workers().values())
        assert (running("app1", "beat"), list(running("app1", "ticker").values())) == ({}, [second])
        before = {name: running(name, "tasks") for name in APP_SERVERS}
        done = fleet.play("playbooks/rollback.yml", rollback_to=first, deploy_bake_seconds=0)
        assert done.status != 0
        assert f"Release {first} served with other process types or schedules than the hosts have now" in done.words
        for words in (
            "app_processes.tasks was added since",
            "app_processes.ticker was added since",
            "app_processes.worker was removed since",
            "app_processes.beat was removed since",
            "-e rollback_configure=true",
        ):
            assert words in done.words, words
        assert {name: running(name, "tasks") for name in APP_SERVERS} == before
        fleet.succeed("playbooks/rollback.yml", rollback_to=first, rollback_configure=True, **QUICK)
        assert fleet.release() == first
        assert_all_run(first)
        assert not any(running(name, process) for name in APP_SERVERS for process in ("tasks", "ticker"))
    assert clients.failures == []
    assert traffic.failed == {}, traffic.failures
    until(lambda: report()["done"] + len(report()["unknown"]) >= report()["added"], "jobs are left")
    # a rollback's workers may get jobs that they don't know; none was lost or run twice
    assert report()["twice"] == []
    assert report()["most_beats"] == 1
