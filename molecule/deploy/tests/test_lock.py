"""One change of the fleet at a time: two at once, somebody else's lock, one that a killed run left; what is told."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from tests.support.wait import until

from .shop import APP_SERVERS, EDGES, Fleet, host

DAY = 86400  # seconds; what lasts so long doesn't end by itself here
LOCK = "/var/lib/baton/shop/lock.json"
HISTORY = "/var/lib/baton/shop/history.jsonl"


def locked(name: str) -> bool:
    return bool(host(name).file(LOCK).exists)


def lock_by_another(name: str, seconds: float) -> None:
    """Have somebody on another controller hold a host."""
    now = time.time()
    holder = {"token": "another", "who": "eve@elsewhere", "process": "", "reason": "deploy v9", "seconds": seconds}
    text = json.dumps({**holder, "since": now, "expires": now + seconds})
    host(name).check_output(f"echo '{text}' > {LOCK}")


def test_two_at_the_same_moment_go_one_after_another(fleet: Fleet) -> None:
    before = {name: len(host(name).file(HISTORY).content_string.splitlines()) for name in APP_SERVERS}
    release = fleet.release()
    # both wait for the same lock, and are let go at once
    lock_by_another("app1", DAY)
    both = [fleet.start("playbooks/restart.yml", deploy_lock_wait=DAY, deploy_bake_seconds=0) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        assert any(f"waiting up to {DAY} s" in line for line in one.stdout)
    host("app1").check_output(f"rm {LOCK}")
    done = [fleet.finish(one) for one in both]
    assert [one.status for one in done] == [0, 0], [one.output for one in done]
    assert fleet.release() == release
    orders = set()
    for name in APP_SERVERS:
        assert not locked(name)
        lines = [json.loads(line) for line in host(name).file(HISTORY).content_string.splitlines()[before[name] :]]
        assert [line["result"] for line in lines] == ["restarted", "restarted"]
        orders.add(tuple(line["token"] for line in lines))
    # on all hosts the same one came first
    ((first, second),) = orders
    assert first != second


@pytest.mark.long
def test_when_one_host_refuses_the_others_are_given_back(fleet: Fleet) -> None:
    workers = fleet.workers()
    lock_by_another("app3", DAY)
    done = fleet.play("playbooks/restart.yml")
    assert done.status != 0
    assert "app3: shop is being changed by eve@elsewhere" in done.words, done.output
    assert "(deploy v9)" in done.words
    assert [locked(name) for name in APP_SERVERS] == [False, False, True]
    # a check takes no lock, so it has none to lose; it tells of the other one
    assert "is being changed by eve@elsewhere" in fleet.succeed("playbooks/restart.yml", "--check").words
    assert fleet.workers() == workers
    host("app3").check_output(f"rm {LOCK}")


def test_a_lock_that_may_be_alive_is_told_of_and_removed_by_force_alone(fleet: Fleet) -> None:
    lock_by_another("app3", DAY)
    told = fleet.succeed("playbooks/status.yml")
    assert "app3: locked by eve@elsewhere" in told.words, told.output
    refused = fleet.play("playbooks/unlock.yml")
    assert refused.status != 0
    assert "unlock_force=true" in refused.words
    assert locked("app3")
    assert "app3: removed the lock of eve@elsewhere" in fleet.succeed("playbooks/unlock.yml", unlock_force=True).words
    assert "app3: there was no lock." in fleet.succeed("playbooks/unlock.yml").words


@pytest.mark.long
def test_a_run_of_other_hosts_meets_the_lock_too(fleet: Fleet) -> None:
    workers = fleet.workers()
    lock_by_another("app1", DAY)
    done = fleet.play("playbooks/restart.yml", "--limit", "app2,app3")
    assert done.status != 0
    assert "app1: shop is being changed by eve@elsewhere" in done.words, done.output
    assert [locked(name) for name in APP_SERVERS] == [True, False, False]
    assert fleet.workers() == workers
    fleet.succeed("playbooks/unlock.yml", "--limit", "app1", unlock_force=True)
    fleet.succeed("playbooks/restart.yml", "--limit", "app3", deploy_bake_seconds=0)
    assert not any(locked(name) for name in APP_SERVERS)
    assert [fleet.workers()[name] == workers[name] for name in APP_SERVERS] == [True, True, False]


@pytest.mark.long
def test_an_expired_lock_is_waited_for_and_taken_over(fleet: Fleet) -> None:
    lock_by_another("app1", 60)
    done = fleet.succeed("playbooks/restart.yml", deploy_lock_wait=600, deploy_bake_seconds=0)
    assert "The lock of eve@elsewhere" in done.words, done.output
    assert not locked("app1")


@pytest.mark.long
@pytest.mark.parametrize("waits", [True, False])
def test_the_lock_of_a_run_that_was_killed_on_this_controller_is_taken_over_at_once(fleet: Fleet, waits: bool) -> None:
    first = fleet.start("playbooks/restart.yml", deploy_bake_seconds=DAY)
    until(lambda: locked("app3"), "there is no lock")
    if waits:
        second = fleet.start("playbooks/restart.yml", deploy_lock_wait=DAY, deploy_bake_seconds=0)
        assert second.stdout is not None
        assert any("waiting up to" in line for line in second.stdout)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    if not waits:
        second = fleet.start("playbooks/restart.yml", deploy_bake_seconds=0)
    done = fleet.finish(second)
    assert done.status == 0, done.output
    # as its process is gone, and not because the lock has expired
    assert "that run is no longer active" in done.words
    assert "expired" not in done.words
    assert not any(locked(name) for name in APP_SERVERS)


@pytest.mark.long
def test_history_and_status_tell_the_last_change(fleet: Fleet) -> None:
    fleet.succeed("playbooks/restart.yml", deploy_bake_seconds=0)
    told = fleet.succeed("playbooks/history.yml", history_lines=1)
    assert re.search(r" restart +[0-9a-f]{16} .* restarted +reload .* app1, app2, app3$", told.output, re.MULTILINE)
    assert "app1, app2, app3: last change: restart" in fleet.succeed("playbooks/status.yml").words


def test_a_file_that_somebody_changed_on_a_host_is_named(fleet: Fleet) -> None:
    file = "/etc/shop/gunicorn.conf.py"
    host("app2").check_output(f"cp -p {file} /root/kept && echo '# by hand' >> {file}")
    told = fleet.play("playbooks/status.yml")
    host("app2").check_output(f"cp -p /root/kept {file} && rm /root/kept")
    assert told.status != 0
    assert f"app2: {file} changed since the last handover; run playbooks/configure.yml." in told.words
    # which says it: not a second time, as what differs from the inventory
    assert "from the inventory" not in told.words
    assert "changed since" not in fleet.succeed("playbooks/status.yml").words


def test_what_differs_from_the_inventory_is_named_and_stays(fleet: Fleet) -> None:
    workers = fleet.workers()
    told = fleet.play(
        "playbooks/status.yml",
        "--diff",
        app_config_environment={"GREETING": "good evening"},
        app_config_secrets={"SIGNING_KEY": "not-to-be-shown"},
        app_service_keepalive=9,
        nginx_site_client_max_body_size="3m",
    )
    assert told.status != 0
    files = "/etc/shop/environment, /etc/shop/gunicorn.conf.py, /etc/shop/secrets/SIGNING_KEY"
    for name in APP_SERVERS:
        assert f"{name}: {files} differ from the inventory; run playbooks/configure.yml." in told.words, told.output
    for name in EDGES:
        file = "/etc/nginx/sites-enabled/shop.conf"
        assert f"{name}: {file} differs from the inventory; run site.yml." in told.words, told.output
    assert "not-to-be-shown" not in told.output
    assert "good evening" not in told.output
    assert set(told.changed) == {0}
    assert "from the inventory" not in fleet.succeed("playbooks/status.yml").words
    assert fleet.workers() == workers


@pytest.mark.long
@pytest.mark.parametrize("left", ["app1", "edge1", "app2,edge2"])
def test_a_part_of_the_fleet_is_compared_with_the_inventory_too(fleet: Fleet, left: str) -> None:
    fleet.succeed("playbooks/status.yml", "--limit", left)
