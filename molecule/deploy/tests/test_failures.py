"""Bad releases, crashing hosts, killed controllers: the fleet serves one release, and loses no request to another."""

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
    # what is changed, and words in the message
    "build": ({"requirement": "baton-no-such-package==1.0"}, "baton-no-such-package"),
    "migration": ({"migration": "raise SystemExit('the column is in use')"}, "the column is in use"),
    "rehearsal": ({"breakage": "import"}, "no ledger at ledger.example.org"),
    "second batch": ({"breakage": "second batch"}, "app2 has no ledger"),
}
# step, hosts and advice that the summary must contain; a build fails before the change starts
SUMMARY = {
    "build": ("", "", "baton-no-such-package"),
    "migration": ("migration", "app1", "Fix the migration, then deploy again."),
    "rehearsal": ("rehearsal", "app1", "Fix the application or its settings, then run this again"),
    "second batch": ("handover", "app2", "Fix the cause, then run this again"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if kind == "build" else ()) for kind in BAD]
)
def test_bad_release_changes_nothing(fleet: Fleet, source: Source, kind: str) -> None:
    before = fleet.releases()
    change, cause = BAD[kind]
    source.change(**change)
    with fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", deploy_batches=[1, 2], deploy_bake_seconds=1)
    assert done.status != 0
    # a batch with a failed host isn't baked
    assert done.output.count("Evaluate the batch") == (1 if kind == "second batch" else 0), done.output
    assert cause in done.words, done.output
    step, at, remedy = SUMMARY[kind]
    if step:
        assert f"{at}, {step}: " in done.words
        assert "Serving as before the change: app1, app2, app3" in done.words
    assert remedy in done.words
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before
    assert_unlocked(fleet)


def test_canary_with_errors_is_reverted(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change(breakage="answers")
    logged = fleet.logged()
    with fleet.traffic() as traffic:
        # longer than the test
        done = fleet.play("playbooks/deploy.yml", deploy_bake_seconds=3600)
    assert done.status != 0
    assert "answered 5xx" in done.words, done.output
    assert "/echo" in done.words
    # only its own bad responses
    assert set(traffic.failed) == {"HTTP 500"}, traffic.failures
    # a response is logged after it has been sent
    until(
        lambda: sum(line["status"] == 500 for line in fleet.answered(logged)) == traffic.failed["HTTP 500"],
        "the edges have logged other responses than their clients got",
    )
    bad = [line for line in fleet.answered(logged) if line["status"] == 500]
    assert {line["upstream"] for line in bad} == {f"{fleet.address('app1')}:8000"}
    assert fleet.releases() == before
    result = receipt()
    assert result["deploy"]["result"] == "reverted"
    # a worker of the bad release may still answer its requests after the revert
    during = result["windows"]["during"]
    assert during["failures"] == sum(during["since"] <= line["msec"] < during["until"] for line in bad) > 0
    assert [name for name, outcome in result["hosts"].items() if outcome["reverted"]] == ["app1"]
    assert_unlocked(fleet)
    if LONG:
        # its own recent failures don't count as the baseline
        with fleet.traffic():
            again = fleet.play("playbooks/deploy.yml", deploy_bake_seconds=3600)
        assert "answered 5xx" in again.words, again.output
        assert fleet.releases() == before


@pytest.mark.long
def test_batch_with_errors_reverts_all_batches(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change(breakage="answers in the second batch")
    with fleet.traffic() as traffic:
        done = fleet.play("playbooks/deploy.yml", deploy_batches=[1, 2], deploy_bake_seconds=20)
    assert done.status != 0
    assert "answered 5xx" in done.words, done.output
    assert set(traffic.failed) == {"HTTP 500"}, traffic.failures
    assert fleet.releases() == before
    assert_unlocked(fleet)


@pytest.mark.long
def test_full_disk_while_staging_changes_nothing(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    # the folder for archives, which is used only while a release is staged
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
    assert_unlocked(fleet)


@pytest.mark.long
def test_full_disk_at_activation_reverts_all_hosts(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    state = "/var/lib/baton/shop"
    # a copy of the state folder on a small tmpfs
    host("app3").check_output(
        f"mkdir /mnt/little && mount -t tmpfs -o size=200m,mode=0755 tmpfs /mnt/little"
        f" && cp -a {state}/. /mnt/little && mount --bind /mnt/little {state}"
    )
    try:
        with fleet.traffic() as traffic:
            running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=3)
            until(lambda: fleet.current("app1") != before["app1"], "the canary has not been activated")
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
def test_failed_drain_prevents_activation_of_batch(fleet: Fleet, source: Source) -> None:
    before, masters, workers = fleet.releases(), fleet.masters(), fleet.workers()
    source.change()
    broken = "/etc/nginx/conf.d/broken.conf"
    host("edge2").check_output(f"echo nonsense > {broken}")
    try:
        done = fleet.play("playbooks/deploy.yml", deploy_drain=True, deploy_batches=[2, 1], deploy_bake_seconds=0)
    finally:
        # reload, so that nginx runs its current files
        host("edge2").check_output(f"rm {broken} && systemctl reload nginx")
    assert done.status != 0
    assert "handover: nginx rejects the new configuration, so it wasn't changed" in done.words, done.output
    assert "nothing was activated there" in done.words
    assert (fleet.releases(), fleet.masters(), fleet.workers()) == (before, masters, workers)
    assert not drained()


@pytest.mark.long
def test_host_lost_during_rollout_reverts_to_one_release(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=1)
    until(lambda: fleet.current("app1") != before["app1"], "the canary has not been activated")
    with unreachable("app3"):
        done = fleet.finish(running)
    assert done.status != 0
    assert "app3" in done.words
    assert fleet.releases() == before
    fleet.deploy()
    assert fleet.release() not in before.values()


@pytest.mark.long
def test_host_lost_after_activation_is_reported(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    with contextlib.ExitStack() as held:
        held.enter_context(fleet.boots_held("app3"))
        running = fleet.start("playbooks/deploy.yml", deploy_batches=[1, 1, 1], deploy_bake_seconds=1)
        until(lambda: fleet.boots("app3", before["app3"]), "the last host does not boot the release")
        with unreachable("app1"):
            held.close()
            done = fleet.finish(running)
    assert done.status != 0
    message = "app1 was activated, but doesn't serve as it should now: what it serves is unknown"
    assert message in done.words, done.output
    assert fleet.release() not in before.values()
    # the lost host still has the lock of that run, which has ended
    workers = fleet.workers()
    fleet.deploy()
    assert fleet.workers() == workers


@pytest.mark.long
def test_excluded_unreachable_edge_does_not_stop_deploy(fleet: Fleet, source: Source, tmp_path: pathlib.Path) -> None:
    before = fleet.releases()
    source.change()
    known = tmp_path / "addresses"
    known.write_text(f"edge2 private_address={fleet.address('edge2')}\n")
    with unreachable("edge2"):
        words = ["-i", str(known), "--limit", "all:!edge2"]
        done = fleet.succeed("playbooks/deploy.yml", *words, deploy_drain=True, deploy_bake_seconds=1)
    assert "edge2 can't be reached" in done.words
    assert "The run goes on without it." in done.words
    assert fleet.release() not in before.values()
    assert not drained()


@pytest.mark.long
def test_next_run_restores_server_drained_by_killed_run(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    with fleet.boots_held("app1"):
        running = fleet.start("playbooks/deploy.yml", deploy_drain=True, deploy_bake_seconds=0)
        until(lambda: fleet.boots("app1", before["app1"]), "the canary does not boot the release")
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    until(lambda: settled(fleet), "a handover is still in progress")
    assert drained() == list(EDGES)
    fleet.deploy(deploy_drain=True, deploy_bake_seconds=0)
    assert not drained()
    assert fleet.release() not in before.values()


def drained() -> list[str]:
    """The edges that have drained an app server."""
    site = "/etc/nginx/sites-enabled/shop.conf"
    return [name for name in EDGES if host(name).run(f"grep -q ' down;' {site}").rc == 0]


@contextlib.contextmanager
def unreachable(name: str) -> Iterator[None]:
    """During a block, a host can't be reached by SSH, but continues to serve."""

    def on_it(script: str) -> None:
        subprocess.run(["podman", "exec", f"baton-deploy-{name}", "sh", "-c", script], check=True)

    # also the open sessions, which stopping the service doesn't end
    on_it("systemctl stop ssh; pkill sshd")
    try:
        yield
    finally:
        on_it("systemctl start ssh")


# plays of a deploy in which the controller is killed; in the last one the canary is held while it boots
PHASES = [
    *("Build the artifact", "Stage", "Migrate", "Rehearse on the first host", "Rehearse on the next hosts"),
    *("Roll out to the other hosts", "Finish", "Activate the first batch"),
]


# the short form: test_killed_controller_leaves_one_release_per_host
@pytest.mark.long
@pytest.mark.parametrize("workers_too", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_rerun_converges_after_killed_controller(fleet: Fleet, source: Source, phase: str, workers_too: bool) -> None:
    before = fleet.releases()
    # proves that a module would be found
    assert module_runs(fleet, CANARY)
    source.change()
    with fleet.traffic() as traffic, contextlib.ExitStack() as held:
        if phase == PHASES[-1]:
            held.enter_context(fleet.boots_held("app1"))
        running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=1)
        assert running.stdout is not None
        output_lines = []
        for line in running.stdout:
            output_lines.append(line)
            if is_start_of(phase, line):
                break
        if phase == PHASES[-1]:
            until(lambda: fleet.boots("app1", before["app1"]), "the canary does not boot the release")
        # Ansible's workers have sessions of their own, and may outlive it for the duration of a task
        workers = descendants(running.pid)
        for pid in [running.pid, *(workers if workers_too else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output_lines += running.stdout.readlines()
        running.wait()
        struck = [name for line in output_lines for name in PHASES if is_start_of(name, line)]
        assert struck[-1:] == [phase], output_lines[-20:]
        held.close()
        until(lambda: not any(map(is_ansible, workers)), "one of Ansible's workers is still running")
        until(lambda: not module_runs(fleet), "a module is still running on a host")
        # an activation that has started on a host is completed there
        until(lambda: settled(fleet), "a handover is still in progress")
        middle = fleet.releases()
        done = fleet.deploy(deploy_bake_seconds=1)
        new = fleet.release()
        assert new not in before.values(), done.output
        for name in APP_SERVERS:
            assert middle[name] in (before[name], new)
        # the activation that had started was completed
        assert (middle["app1"] == new) is (phase in PHASES[-3:]), middle
    assert traffic.failed == {}, traffic.failures
    again = fleet.succeed("site.yml")
    assert set(again.changed) == {0}, again.output


def is_start_of(play: str, line: str) -> bool:
    """Whether a line of a run's output is the start of a play."""
    return line.rstrip() == play or line.startswith(f"{play}: ")


def descendants(pid: int) -> list[int]:
    """The descendants of a process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], text=True, capture_output=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def is_ansible(pid: int) -> bool:
    """Whether a process is one of Ansible's, or an SSH command in progress; not a persistent connection that is kept
    for later runs."""
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"ansible-playbook" in words or words.startswith((b"ssh\0", b"sshpass\0"))


# Python reads a module from its standard input
LOOK = "pgrep -u root -xf /usr/bin/python3"
# such a process, until it is found
CANARY = f"""sleep 99 2> /dev/null | /usr/bin/python3 > /dev/null 2>&1 &
timeout 60 sh -c 'until {LOOK}; do sleep 0.1; done'; kill $!"""


def module_runs(fleet: Fleet, look: str = f"{LOOK} || test $? = 1") -> bool:
    """Whether a module runs on an app server. The check uses the killed run's connection, after what that had sent."""
    result = fleet.ad_hoc("app_servers", "ansible.builtin.raw", look).check_status()
    return bool(re.search(r"^\d+\s*$", result.output, re.MULTILINE))


def settled(fleet: Fleet) -> bool:
    """Whether no handover is in progress on any host."""
    free = "flock --nonblock /var/lib/baton/shop/activation.lock true"
    return all(host(name).run(free).rc == 0 and not fleet.status(name)["reload_under_way"] for name in APP_SERVERS)


@pytest.mark.long
def test_concurrent_deploy_is_refused(fleet: Fleet, source: Source) -> None:
    source.change()
    first = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=8)
    until(lambda: host("app1").file("/var/lib/baton/shop/lock.json").exists, "there is no lock")
    second = fleet.play("playbooks/deploy.yml")
    done = fleet.finish(first)
    assert done.status == 0, done.output
    assert second.status != 0
    assert "deploy_lock_wait" in second.words, second.output
    fleet.release()
    assert_unlocked(fleet)


def assert_unlocked(fleet: Fleet) -> None:
    """Assert that no host is locked."""
    for name in APP_SERVERS:
        assert not host(name).file("/var/lib/baton/shop/lock.json").exists
    assert fleet.play("playbooks/unlock.yml").status == 0
