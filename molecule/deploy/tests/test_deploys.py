"""Good changes, one after another, under constant load: no request is lost."""

from __future__ import annotations

import json
import signal

import pytest

from tests.support import nginx
from tests.support.journal import rehearsal

from .shop import APP_SERVERS, EDGES, LONG, WITHOUT_REUSE, Fleet, Source, host, receipt

# no bake, which these tests don't need
QUICK = {"deploy_bake_seconds": 0}


def test_changes_lose_no_request(fleet: Fleet, source: Source) -> None:
    served = [fleet.release()]
    with fleet.traffic(fewest=500) as traffic, fleet.watched() as watched:
        for number in range(10 if LONG else 2):
            source.change()
            # an additional dependency that the server doesn't use needs no bridge
            more = [] if number else ["colorama==0.4.6"]
            fleet.deploy(app_release_extra_requirements=more, **QUICK)
            served.append(fleet.release())
            assert served[-1] != served[-2]
            (_, first), *others = (rehearsal(host(name), "shop", served[-1]) for name in APP_SERVERS)
            assert all(first <= began for began, _ in others)
        result = receipt()
        assert (result["deploy"]["result"], result["deploy"]["release"]) == ("deployed", served[-1])
        assert {outcome["method"] for outcome in result["hosts"].values()} == {"reload"}
        assert result["windows"]["during"]["requests"] > 50
        assert result["windows"]["during"]["failures"] == 0
        for _ in range(5 if LONG else 1):
            fleet.succeed("playbooks/rollback.yml", **QUICK)
            assert fleet.release() == served[-2]
            fleet.succeed("playbooks/rollback.yml", rollback_to=served[-1], **QUICK)
            assert fleet.release() == served[-1]
        masters = fleet.masters()
        if LONG:
            before = fleet.workers()
            fleet.succeed("playbooks/restart.yml", **QUICK)
            after = fleet.workers()
            assert not any(before[name] & after[name] for name in APP_SERVERS)
            fleet.succeed("playbooks/configure.yml", app_config_environment={"GREETING": "plain"}, **QUICK)
            assert fleet.greetings() == {"plain"}
            assert fleet.masters() == masters  # by reload
        turned = {"app_config_secrets": {"SIGNING_KEY": "two"}, "app_config_secrets_encryption": "host"}
        fleet.succeed("playbooks/configure.yml", **turned, **QUICK)
        for name in APP_SERVERS:
            assert host(name).check_output("ls /etc/shop/secrets") == "SIGNING_KEY.host.cred"
        # by bridge, with the inventory's other settings again
        assert {outcome["method"] for outcome in receipt()["hosts"].values()} == {"bridge"}
        assert not set(fleet.masters().values()) & set(masters.values())
        assert fleet.greetings() == {"hello"}
        fleet.succeed("playbooks/configure.yml", **QUICK)
    assert traffic.failed == {}, traffic.failures
    # at any time a worker accepted requests; the benchmark measures latency
    assert set(watched) == set(APP_SERVERS)
    for name, seen in watched.items():
        assert (seen["checks"] > 0, seen["gaps"]) == (True, 0), (name, seen)
    fleet.release()


@pytest.mark.long
def test_change_of_gunicorn_and_uvicorn_loses_no_request(fleet: Fleet, source: Source) -> None:
    older = {"gunicorn": "26.2.0", "uvicorn": "0.53.0"}
    ours = {name: fleet.status("app1")["versions"][name] for name in older}
    assert not set(older.values()) & set(ours.values())
    masters = fleet.masters()
    with fleet.traffic() as traffic:
        for wanted in (older, ours):
            pins = [f"{name}=={version}" for name, version in wanted.items()]
            fleet.deploy(app_release_extra_requirements=pins, **QUICK)
            fleet.release()
            for name in APP_SERVERS:
                runs = fleet.status(name)["versions"]
                assert {package: runs[package] for package in wanted} == wanted
            assert not set(fleet.masters().items()) & set(masters.items())
            masters = fleet.masters()
    assert traffic.failed == {}, traffic.failures
    source.change()
    fleet.deploy(**QUICK)


@pytest.mark.long
def test_nginx_reloads_lose_no_request(fleet: Fleet) -> None:
    with fleet.traffic(WITHOUT_REUSE, idle_limit=0) as traffic:
        for _ in range(3):
            for name in EDGES:
                nginx.reload(host(name))
    assert traffic.failed == {}, traffic.failures


@pytest.mark.long
def test_draining_loses_no_request_and_skips_unchanged_hosts(fleet: Fleet, source: Source) -> None:
    source.change()
    with fleet.traffic(WITHOUT_REUSE, idle_limit=0) as traffic:
        fleet.deploy(deploy_drain=True, **QUICK)
    assert traffic.failed == {}, traffic.failures
    fleet.release()
    before = edges()
    assert not any("down" in upstreams for upstreams, _ in before.values())
    assert set(fleet.deploy(deploy_drain=True).changed) == {0}
    assert edges() == before


def edges() -> dict[str, tuple[str, set[int]]]:
    """Each edge's upstream servers, and its nginx workers, which a reload replaces."""
    look = "grep -E '^ *server .*:8000' /etc/nginx/sites-enabled/shop.conf"
    return {name: (host(name).check_output(look), nginx.workers(host(name))) for name in EDGES}


def test_unchanged_release_is_not_deployed_again(fleet: Fleet) -> None:
    fleet.deploy()  # fills the module cache, which bare hosts don't have yet for the first modules of site.yml
    before = (fleet.workers(), modules())
    assert set(fleet.deploy().changed) == {0}
    assert (fleet.workers(), modules()) == before
    assert all("baton.web.release-" in kept for kept in before[1].values())


def modules() -> dict[str, str]:
    """The modules in a host's cache with their inodes: a module that is sent again is a new file."""
    look = "find /var/cache/baton/modules -type f -printf '%i %f\\n' | sort"
    return {name: host(name).check_output(look) for name in APP_SERVERS}


@pytest.mark.parametrize(
    "playbook",
    ["deploy", *(pytest.param(name, marks=pytest.mark.long) for name in ("rollback", "restart", "configure"))],
)
def test_check_mode_shows_changes_and_changes_nothing(fleet: Fleet, source: Source, playbook: str) -> None:
    source.change()
    for name in APP_SERVERS:
        host(name).check_output("find /var/cache/baton/modules -type f -delete")
    before = (fleet.releases(), fleet.workers(), files())
    result = fleet.succeed(f"playbooks/{playbook}.yml", "--check", "--diff")
    assert (fleet.releases(), fleet.workers(), files()) == before
    if playbook in ("deploy", "rollback"):
        (serving,) = set(before[0].values())
        for name in APP_SERVERS:
            assert f"changed: [{name}]" in result.output, result.output
        assert result.output.count(f"-{serving}") == len(APP_SERVERS), result.output


def files() -> dict[str, str]:
    """The application's files on a host with their times, so that any change shows."""
    script = "find /opt/shop/releases -maxdepth 1 -printf '%p %T@\\n'; "
    # without lock files, which are also touched to read the lock's holder
    script += "find /etc/shop /var/lib/baton/shop /var/cache/baton -type f ! -name '*.lock' -printf '%p %T@\\n'"
    return {name: host(name).check_output(f"{{ {script}; }} | sort") for name in APP_SERVERS}


def test_history_lists_changes(fleet: Fleet) -> None:
    result = fleet.succeed("playbooks/history.yml").output
    for word in ("deploy", "rollback", "configure", fleet.release()):
        assert word in result
    assert fleet.play("playbooks/status.yml").status == 0


def test_interrupt_reverts_change(fleet: Fleet, source: Source) -> None:
    before = fleet.releases()
    source.change()
    # longer than the test
    running = fleet.start("playbooks/deploy.yml", deploy_bake_seconds=3600)
    assert running.stdout is not None
    lines = []
    with fleet.traffic() as traffic:
        for line in running.stdout:
            lines.append(line)
            if "Evaluate the batch" in line:
                break
        running.send_signal(signal.SIGINT)
        lines += running.stdout.readlines()
    assert running.wait() != 0
    assert "Interrupted by the operator" in "".join(lines)
    assert traffic.failed == {}, traffic.failures
    assert fleet.releases() == before


def test_new_app_server_gets_no_request_before_it_serves(fleet: Fleet) -> None:
    server = json.dumps({"site": "shop", "drained": [fleet.address("app3")]})
    for name in EDGES:
        assert fleet.ad_hoc(name, "baton.web.drain", server).status == 0
    # make app3 look like a new host
    host("app3").check_output(
        "systemctl disable --now shop.socket shop.service && "
        "rm -rf /opt/shop /etc/shop /run/shop /run/baton/shop /var/lib/shop /var/lib/baton/shop "
        "/etc/systemd/system/shop* /etc/tmpfiles.d/shop.conf"
    )
    with fleet.traffic(WITHOUT_REUSE, idle_limit=0) as traffic:
        fleet.succeed("site.yml", **QUICK)
    assert traffic.failed == {}, traffic.failures
    fleet.release()
    assert not any("down" in upstreams for upstreams, _ in edges().values())
