"""The deploy lock: concurrent changes, another controller's lock, and the lock of a killed run."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from tests.support.wait import until

from .shop import APP_SERVERS, EDGES, Fleet, host

DAY = 86400  # seconds, longer than any test
LOCK = "/var/lib/baton/shop/lock.json"
HISTORY = "/var/lib/baton/shop/history.jsonl"


def locked(name: str) -> bool:
    return bool(host(name).file(LOCK).exists)


def lock_by_another(name: str, seconds: float) -> None:
    """Lock a host as a run on another controller does."""
    now = time.time()
    holder = {"token": "another", "who": "eve@elsewhere", "process": "", "reason": "deploy v9", "seconds": seconds}
    text = json.dumps({**holder, "since": now, "expires": now + seconds})
    host(name).check_output(f"echo '{text}' > {LOCK}")


def test_simultaneous_changes_run_one_after_another(fleet: Fleet) -> None:
    before = {name: len(host(name).file(HISTORY).content_string.splitlines()) for name in APP_SERVERS}
    release = fleet.release()
    # both wait for the same lock, and continue at the same time
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
    # the same run was first on all hosts
    ((first, second),) = orders
    assert first != second


@pytest.mark.long
def test_locked_host_releases_locks_of_others(fleet: Fleet) -> None:
    workers = fleet.workers()
    lock_by_another("app3", DAY)
    done = fleet.play("playbooks/restart.yml")
    assert done.status != 0
    assert "app3: shop is being changed by eve@elsewhere" in done.words, done.output
    assert "(deploy v9)" in done.words
    assert [locked(name) for name in APP_SERVERS] == [False, False, True]
    # check mode takes no lock; it reports the other one
    assert "is being changed by eve@elsewhere" in fleet.succeed("playbooks/restart.yml", "--check").words
    assert fleet.workers() == workers
    host("app3").check_output(f"rm {LOCK}")


def test_live_lock_is_reported_and_removed_only_by_force(fleet: Fleet) -> None:
    lock_by_another("app3", DAY)
    done = fleet.succeed("playbooks/status.yml")
    assert "app3: locked by eve@elsewhere" in done.words, done.output
    refused = fleet.play("playbooks/unlock.yml")
    assert refused.status != 0
    assert "unlock_force=true" in refused.words
    assert locked("app3")
    assert "app3: removed the lock of eve@elsewhere" in fleet.succeed("playbooks/unlock.yml", unlock_force=True).words
    assert "app3: there was no lock." in fleet.succeed("playbooks/unlock.yml").words


@pytest.mark.long
def test_limited_run_respects_lock_of_first_host(fleet: Fleet) -> None:
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
def test_expired_lock_is_taken_over(fleet: Fleet) -> None:
    lock_by_another("app1", 60)
    done = fleet.succeed("playbooks/restart.yml", deploy_lock_wait=600, deploy_bake_seconds=0)
    assert "The lock of eve@elsewhere" in done.words, done.output
    assert not locked("app1")


@pytest.mark.long
@pytest.mark.parametrize("waits", [True, False])
def test_lock_of_killed_local_run_is_taken_over_immediately(fleet: Fleet, waits: bool) -> None:
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
    # because its process has ended, not because the lock has expired
    assert "that run is no longer active" in done.words
    assert "expired" not in done.words
    assert not any(locked(name) for name in APP_SERVERS)


@pytest.mark.long
def test_history_and_status_show_last_change(fleet: Fleet) -> None:
    fleet.succeed("playbooks/restart.yml", deploy_bake_seconds=0)
    done = fleet.succeed("playbooks/history.yml", history_lines=1)
    assert re.search(r" restart +[0-9a-f]{16} .* restarted +reload .* app1, app2, app3$", done.output, re.MULTILINE)
    assert "app1, app2, app3: last change: restart" in fleet.succeed("playbooks/status.yml").words


def test_status_reports_file_changed_on_host(fleet: Fleet) -> None:
    file = "/etc/shop/gunicorn.conf.py"
    host("app2").check_output(f"cp -p {file} /root/kept && echo '# by hand' >> {file}")
    done = fleet.play("playbooks/status.yml")
    host("app2").check_output(f"cp -p /root/kept {file} && rm /root/kept")
    assert done.status != 0
    assert f"app2: {file} changed since the last handover; run playbooks/configure.yml." in done.words
    # reported only once, not also as a difference from the inventory
    assert "from the inventory" not in done.words
    assert "changed since" not in fleet.succeed("playbooks/status.yml").words


def test_status_reports_difference_from_inventory(fleet: Fleet) -> None:
    workers = fleet.workers()
    done = fleet.play(
        "playbooks/status.yml",
        "--diff",
        app_config_environment={"GREETING": "good evening"},
        app_config_secrets={"SIGNING_KEY": "not-to-be-shown"},
        app_service_keepalive=9,
        nginx_site_client_max_body_size="3m",
    )
    assert done.status != 0
    files = "/etc/shop/environment, /etc/shop/gunicorn.conf.py, /etc/shop/secrets/SIGNING_KEY"
    for name in APP_SERVERS:
        assert f"{name}: {files} differ from the inventory; run playbooks/configure.yml." in done.words, done.output
    for name in EDGES:
        file = "/etc/nginx/sites-enabled/shop.conf"
        assert f"{name}: {file} differs from the inventory; run site.yml." in done.words, done.output
    assert "not-to-be-shown" not in done.output
    assert "good evening" not in done.output
    assert set(done.changed) == {0}
    assert "from the inventory" not in fleet.succeed("playbooks/status.yml").words
    assert fleet.workers() == workers


@pytest.mark.long
@pytest.mark.parametrize("left", ["app1", "edge1", "app2,edge2"])
def test_status_works_with_limit(fleet: Fleet, left: str) -> None:
    fleet.succeed("playbooks/status.yml", "--limit", left)
