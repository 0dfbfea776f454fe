"""Bad releases, dying hosts, killed controllers: one release is served, and only a bad one loses requests: its own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.wait import until

from .shop import APP_SERVERS, EDGES, LONG, Fleet, Source, host, receipt

BAD = {
    # what is changed, what the message has to say
    "build": ({"requirement": "baton-no-such-package==1.0"}, "baton-no-such-package"),
    "migration": ({"migration": "raise SystemExit('the column is in use')"}, "the column is in use"),
    "rehearsal": ({"breakage": "import"}, "no ledger at ledger.example.org"),
    "second batch": ({"breakage": "second batch"}, "app2 has no ledger"),
}
# the step and the hosts that the summary has to name, and what it has to advise; a build fails before there is a change
SUMMARY = {
    "build": ("", "", "baton-no-such-package"),
    "migration": ("migration", "app1", "Fix the migration, then deploy again."),
    "rehearsal": ("rehearsal", "app1", "Fix the application or its settings, then run this again"),
    "second batch": ("handover", "app2", "Fix the cause, then run this again"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if kind == "build" else ()) for kind in BAD]
)
def test_a_bad_release_goes_nowhere(fleet: Fleet, source: Source, kind: str) -> None:
    before = fleet.releases()
    change, cause = BAD[kind]
    source.change(**change)
    with fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", deploy_batches=[1, 2], deploy_bake_seconds=1)
    assert done.status != 0
    # a batch of which one fails isn't watched first
    assert done.output.count("Judge the batch") == (1 if kind == "second batch" else 0), done.output
    assert cause in done.words, done.output
    step, at, remedy = SUMMARY[kind]
    if step:
        assert f"{at}, {step}: " in done.words
        assert "Serving as before the change: app1, app2, app3" in done.words
    assert remedy in done.words
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before
    unlocked(fleet)


def test_a_canary_that_answers_badly_is_stopped_and_put_back(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change(breakage="answers")
    logged = fleet.logged()
    with fleet.traffic() as traffic:
        # nobody would wait for the end of that
        done = fleet.play("playbooks/deploy.yml", deploy_bake_seconds=3600)
    assert done.status != 0
    assert "answered 5xx" in done.words, done.output
    assert "/echo" in done.words
    # its own bad answers, and nothing else
    assert set(traffic.failed) == {"HTTP 500"}, traffic.failures
    # an answer is logged when it has been sent
    until(
        lambda: sum(line["status"] == 500 for line in fleet.answered(logged)) == traffic.failed["HTTP 500"],
        "the edges have logged other answers than their clients had",
    )
    bad = [line for line in fleet.answered(logged) if line["status"] == 500]
    assert {line["upstream"] for line in bad} == {f"{fleet.address('app1')}:8000"}
    assert fleet.releases() == before
    told = receipt()
    assert told["deploy"]["result"] == "reverted"
    # an old worker may answer what it had when the way back is done
    during = told["windows"]["during"]
    assert during["failures"] == sum(during["since"] <= line["msec"] < during["until"] for line in bad) > 0
    assert [name for name, outcome in told["hosts"].items() if outcome["reverted"]] == ["app1"]
    unlocked(fleet)
    if LONG:
        # its own failures of a moment ago are no excuse for it
        with fleet.traffic():
            again = fleet.play("playbooks/deploy.yml", deploy_bake_seconds=3600)
        assert "answered 5xx" in again.words, again.output
        assert fleet.releases() == before


@pytest.mark.long
def test_a_batch_that_answers_badly_is_put_back_with_those_before_it(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change(breakage="answers in the second batch")
    with fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", deploy_batches=[1, 2], deploy_bake_seconds=20)
    assert done.status != 0
    assert "answered 5xx" in done.words, done.output
    assert set(traffic.failed) == {"HTTP 500"}, traffic.failures
    assert fleet.releases() == before
    unlocked(fleet)


@pytest.mark.long
def test_a_full_disk_stops_a_deploy_before_anything_is_switched(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    # where archives are put; it has them only while a release is staged
    upload = "/var/lib/baton/shop/upload"
    host("app3").check_output(f"mkdir -p {upload} && mount -t tmpfs -o size=64k tmpfs {upload}")
    try:
        with fleet.traffic() as traffic:
            done = fleet.play("playbooks/deploy.yml")
    finally:
        host("app3").check_output(f"umount {upload}")
    assert done.status != 0
    assert "app3" in done.words
    assert "free" in done.words, done.output
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before
    unlocked(fleet)


@pytest.mark.long
def test_a_disk_that_is_full_when_a_host_is_to_switch_puts_all_back(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    state = "/var/lib/baton/shop"
    # the same, with little room
    host("app3").check_output(
        f"mkdir /mnt/little && mount -t tmpfs -o size=200m,mode=0755 tmpfs /mnt/little"
        f" && cp -a {state}/. /mnt/little && mount --bind /mnt/little {state}"
    )
    try:
        with fleet.traffic() as traffic:
            running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=3)
            until(lambda: fleet.current("app1") != before["app1"], "the canary has not been switched")
            host("app3").run(f"head -c 300M /dev/zero > {state}/filled")
            done = fleet.finish(running)
    finally:
        host("app3").check_output(f"umount {state} /mnt/little && rmdir /mnt/little")
    assert done.status != 0
    assert "No space left on device" in done.words, done.output
    assert "Check that disk" in done.words
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before
    assert fleet.play("playbooks/unlock.yml").status == 0
    fleet.deploy()
    assert fleet.release() not in before.values()


@pytest.mark.long
def test_where_an_edge_does_not_drain_nobody_of_the_batch_is_handed_over(fleet: Fleet, source: Source) -> None:
    before, masters, workers = fleet.releases(), fleet.masters(), fleet.workers()
    source.change()
    broken = "/etc/nginx/conf.d/broken.conf"
    host("edge2").check_output(f"echo nonsense > {broken}")
    try:
        done = fleet.play("playbooks/deploy.yml", deploy_drain=True, deploy_batches=[2, 1], deploy_bake_seconds=0)
    finally:
        # what nginx runs is as new as its files again
        host("edge2").check_output(f"rm {broken} && systemctl reload nginx")
    assert done.status != 0
    assert "handover: nginx rejects the new configuration, so it wasn't changed" in done.words, done.output
    assert "nothing was activated there" in done.words
    assert (fleet.releases(), fleet.masters(), fleet.workers()) == (before, masters, workers)
    assert not drained()


@pytest.mark.long
def test_a_host_that_dies_in_the_middle_leaves_one_release(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=1)
    until(lambda: fleet.current("app1") != before["app1"], "the canary has not been switched")
    with away("app3"):
        done = fleet.finish(running)
    assert done.status != 0
    assert "app3" in done.words
    assert fleet.releases() == before
    fleet.deploy()
    assert fleet.release() not in before.values()


@pytest.mark.long
def test_a_host_that_is_lost_after_its_handover_is_told(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    with contextlib.ExitStack() as held:
        held.enter_context(fleet.shut("app3"))
        running = fleet.start("playbooks/deploy.yml", deploy_batches=[1, 1, 1], deploy_bake_seconds=1)
        until(lambda: fleet.boots("app3", before["app3"]), "the last host does not boot the release")
        with away("app1"):
            held.close()
            done = fleet.finish(running)
    assert done.status != 0
    assert "app1 was activated but no longer serves: what it serves is unknown" in done.words, done.output
    assert fleet.release() not in before.values()
    # the lock that it has kept is a dead run's
    workers = fleet.workers()
    fleet.deploy()
    assert fleet.workers() == workers


@pytest.mark.long
def test_an_edge_that_is_down_and_left_out_is_no_obstacle(fleet: Fleet, source: Source, tmp_path: pathlib.Path) -> None:
    before = fleet.releases()
    source.change()
    known = tmp_path / "addresses"
    known.write_text(f"edge2 private_address={fleet.address('edge2')}\n")
    with away("edge2"):
        words = ["-i", str(known), "--limit", "all:!edge2"]
        done = fleet.succeed("playbooks/deploy.yml", *words, deploy_drain=True, deploy_bake_seconds=1)
    assert "edge2 can't be reached" in done.words
    assert "The run goes on without it." in done.words
    assert fleet.release() not in before.values()
    assert not drained()


@pytest.mark.long
def test_who_was_drained_by_a_killed_run_is_put_back_by_the_next(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    with fleet.shut("app1"):
        running = fleet.start("playbooks/deploy.yml", deploy_drain=True, deploy_bake_seconds=0)
        until(lambda: fleet.boots("app1", before["app1"]), "the canary does not boot the release")
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    until(lambda: settled(fleet), "not settled")
    assert drained() == list(EDGES)
    fleet.deploy(deploy_drain=True, deploy_bake_seconds=0)
    assert not drained()
    assert fleet.release() not in before.values()


def drained() -> list[str]:
    """The edges that have an app server drained."""
    site = "/etc/nginx/sites-enabled/shop.conf"
    return [name for name in EDGES if host(name).run(f"grep -q ' down;' {site}").rc == 0]


@contextlib.contextmanager
def away(name: str) -> Iterator[None]:
    """A host that can't be reached by SSH, and goes on serving."""

    def on_it(script: str) -> None:
        subprocess.run(["podman", "exec", f"baton-deploy-{name}", "sh", "-c", script], check=True)

    # and the sessions that are open, which the service leaves alone
    on_it("systemctl stop ssh; pkill sshd")
    try:
        yield
    finally:
        on_it("systemctl start ssh")


# plays of a deploy, the phases that a death can strike; the last one holds at the gate of the canary
PHASES = [
    *("Build the artifact", "Stage", "Migrate", "Rehearse on the first host", "Rehearse on the next hosts"),
    *("Roll out to the other hosts", "Finish", "Activate the first batch"),
]


@pytest.mark.parametrize("workers_too", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("phase", [*(pytest.param(name, marks=pytest.mark.long) for name in PHASES[:-1]), PHASES[-1]])
def test_a_killed_controller_leaves_old_or_new_and_a_rerun_converges(
    fleet: Fleet, source: Source, phase: str, workers_too: bool
) -> None:
    before = fleet.releases()
    source.change()
    with fleet.traffic() as traffic, contextlib.ExitStack() as held:
        if phase == PHASES[-1]:
            held.enter_context(fleet.shut("app1"))
        running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=1)
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if begins(phase, line):
                break
        if phase == PHASES[-1]:
            until(lambda: fleet.boots("app1", before["app1"]), "the canary does not boot the release")
        # its workers lead sessions of their own, and go with it or live on for a task
        workers = descendants(running.pid)
        for pid in [running.pid, *(workers if workers_too else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        said += running.stdout.readlines()
        running.wait()
        struck = [name for line in said for name in PHASES if begins(name, line)]
        assert struck[-1:] == [phase], said[-20:]
        held.close()
        until(lambda: not any(map(works, workers)), "a worker lives on")
        until(lambda: not begun(fleet), "what had been sent to a host runs on")
        # what was begun on a host comes to its end there
        until(lambda: settled(fleet), "not settled")
        middle = fleet.releases()
        done = fleet.deploy(deploy_bake_seconds=1)
        new = fleet.release()
        assert new not in before.values(), done.output
        for name in APP_SERVERS:
            assert middle[name] in (before[name], new)
        # what had been begun there came to its end
        assert (middle["app1"] == new) is (phase in PHASES[-3:]), middle
    assert traffic.failed == {}, traffic.failures
    again = fleet.succeed("site.yml")
    assert set(again.changed) == {0}, again.output


def begins(play: str, line: str) -> bool:
    """Whether a line of a run's output says that a play begins."""
    return line.rstrip() == play or line.startswith(f"{play}: ")


def descendants(pid: int) -> list[int]:
    """The processes that a process has begun, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], text=True, capture_output=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def works(pid: int) -> bool:
    """Whether a process is one of Ansible's, or sends a command to a host and waits for its end; the connections that
    are left to later runs are neither."""
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"ansible-playbook" in words or words.startswith((b"ssh\0", b"sshpass\0"))


def begun(fleet: Fleet) -> bool:
    """Whether a module runs on an app server. Asked by the connection of the killed run, behind what that had sent."""
    # which reads it from its standard input
    look = "pgrep -u root -xf /usr/bin/python3 || true"
    told = fleet.ad_hoc("app_servers", "ansible.builtin.raw", look).check_status()
    return bool(re.search(r"^\d+\s*$", told.output, re.MULTILINE))


def settled(fleet: Fleet) -> bool:
    """Whether no handover is under way on any host."""
    free = "flock --nonblock /var/lib/baton/shop/activation.lock true"
    return all(host(name).run(free).rc == 0 and not fleet.status(name)["reload_under_way"] for name in APP_SERVERS)


@pytest.mark.long
def test_a_second_deploy_is_told_who_is_at_it(fleet: Fleet, source: Source) -> None:
    source.change()
    first = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=8)
    until(lambda: host("app1").file("/var/lib/baton/shop/lock.json").exists, "there is no lock")
    second = fleet.play("playbooks/deploy.yml")
    done = fleet.finish(first)
    assert done.status == 0, done.output
    assert second.status != 0
    assert "deploy_lock_wait" in second.words, second.output
    fleet.release()
    unlocked(fleet)


def unlocked(fleet: Fleet) -> None:
    """A failed deploy leaves no lock behind."""
    for name in APP_SERVERS:
        assert not host(name).file("/var/lib/baton/shop/lock.json").exists
    assert fleet.play("playbooks/unlock.yml").status == 0
