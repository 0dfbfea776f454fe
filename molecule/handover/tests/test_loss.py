"""Operations that must not lose a request, under every kind of request, on both hosts at the same time."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.support import nginx

from .conftest import COPY
from .support import FLEET, LONG, PORTS, SCENARIO, Traffic, act, both, host, in_parallel

RELOADS, BRIDGES = (100, 20) if LONG else (8, 2)


def test_reloads_and_bridges_lose_no_request(good: str) -> None:
    with Traffic(fewest=500) as traffic:
        reloads = both("reload", count=RELOADS)
        # another release each time, with the module activate
        turns = [both("activate", release=release) for release in (COPY, good)]
        bridges = both("activate", bridge=True, count=BRIDGES)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert [done["rc"] for done in reloads[name]] == [0] * RELOADS, reloads[name]
        # all workers are new, and as many as before
        assert [(done["kept"], done["ready"]) for done in reloads[name]] == [([], 2)] * RELOADS
        assert [turn[name][0]["method"] for turn in turns] == ["reload", "reload"]
        assert [done["method"] for done in bridges[name]] == ["bridge"] * BRIDGES, bridges[name]


def test_restart_and_resize_lose_no_request() -> None:
    with Traffic(fewest=100) as traffic:
        sizes = both("resize", up=1, down=1)
        restarts = both("restart")
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert sizes[name]["counts"] == [3, 2]
        assert restarts[name] == {"rc": 0, "ready": 2}


def test_max_requests_loses_no_request() -> None:
    set_up = both("recycle", requests=150)
    before = {name: state["pids"] for name, state in both("state").items()}
    with Traffic(fewest=150) as traffic:
        in_parallel(lambda name: act(name, "wait_until_recycled", pids=before[name]))
    put_back = both("recycle", requests=0)
    assert {done["rc"] for done in (*set_up.values(), *put_back.values())} == {0}
    assert traffic.failed == {}, traffic.failures


# Without keep-alive: before 1.27.4, nginx closes kept HTTP/1.1 connections at a reload without warning, and a client
# that sends a request at that moment must retry it.
WITHOUT_REUSE = (
    "get,path=/,share=6",
    "post,path=/echo,share=4,size=20000,expect=20000",
    "upload,path=/echo,share=1,size=400000,wait=1.5,expect=400000",
    "get,path=/slow?seconds=3,share=1,wait=3",
    "sse,path=/events?count=20&interval=0.1,share=1",
    "websocket,path=/ws,share=1,wait=2",
)


def serial(name: str) -> Any:
    return host(name).check_output("openssl x509 -noout -serial -in /etc/ssl/baton/bench/fullchain.pem")


def test_new_certificate_and_nginx_reloads_lose_no_request() -> None:
    before = {name: serial(name) for name in PORTS}
    with Traffic(WITHOUT_REUSE, fewest=100, idle_limit=0) as traffic:
        for _ in range(20 if LONG else 3):
            in_parallel(lambda name: nginx.reload(host(name)))
        FLEET.succeed(f"{SCENARIO}/certificate.yml")
    assert traffic.failed == {}, traffic.failures
    assert set(traffic.codes) == {"1000"}
    for name, old in before.items():
        assert serial(name) != old


@pytest.mark.parametrize("name", PORTS)
def test_invalid_nginx_configuration_changes_nothing(name: str) -> None:
    on = host(name)
    nginx.settle(on)
    workers = nginx.workers(on)
    word = f"nonsense{secrets.token_hex(4)}"
    on.check_output(f"echo '{word};' > /etc/nginx/conf.d/zz-broken.conf")
    try:
        assert on.run("systemctl reload nginx || exit 3").rc == 3
    finally:
        on.check_output("rm /etc/nginx/conf.d/zz-broken.conf")
    assert nginx.workers(on) == workers
    assert word in on.check_output("journalctl --sync; journalctl -u nginx -o cat --no-pager")
    nginx.reload(on)
