"""The module flush_edge: after it, no request of nginx's former configuration is yet to be forwarded."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from ansible_collections.baton.web.plugins.module_utils.host import systemd
from ansible_collections.baton.web.plugins.modules import flush_edge

from tests.support import modules
from tests.support.clock import Clock

SERVER, CLIENT = "10.0.0.21:8000", "192.0.2.9:50000"
OLD, NEW, OLDER = 12, 13, 11
UPLOAD = upstream.Connection(OLD, CLIENT)


class Nginx:
    """An nginx whose worker process has an upload; after a reload, a new one accepts connections."""

    def __init__(self) -> None:
        # one is left from an earlier reload, with a WebSocket
        self.workers = {OLD: False, OLDER: True}
        self.open = [UPLOAD, upstream.Connection(OLDER, CLIENT), upstream.Connection(OLDER, SERVER)]
        self.events: list[str] = []
        self.forwarded_after = 6  # pauses
        self.clock = Clock(self.pause)

    def reload(self, verb: str, unit: str, timeout: float) -> None:
        self.events.append(f"{verb} {unit} {timeout:g}")
        self.workers |= {OLD: True, NEW: False}

    def pause(self) -> None:
        if len(self.clock.pauses) == self.forwarded_after:
            self.open.append(upstream.Connection(OLD, SERVER))
            self.events.append("forwarded")


@pytest.fixture
def nginx(monkeypatch: pytest.MonkeyPatch) -> Nginx:
    fake = Nginx()
    monkeypatch.setattr(upstream, "time", fake.clock)
    monkeypatch.setattr(upstream, "workers", lambda: dict(fake.workers))
    monkeypatch.setattr(upstream, "connections", lambda: list(fake.open))
    monkeypatch.setattr(systemd, "change", fake.reload)
    return fake


def flush(**given: Any) -> dict[str, Any]:
    return modules.run(flush_edge, servers=[SERVER], **given)


def test_requests_of_the_former_configuration_are_forwarded_first(nginx: Nginx) -> None:
    result = flush()
    assert (result["changed"], result["remaining"]) == (True, 0)
    assert nginx.events == ["reload nginx.service 60", "forwarded"]


def test_upload_that_does_not_end_is_reported(nginx: Nginx) -> None:
    nginx.forwarded_after = 10**6
    began = nginx.clock.now
    assert flush(timeout=7)["remaining"] == 1
    assert 7 < nginx.clock.now - began < 8
    nginx.workers, nginx.open = {OLD: False}, [UPLOAD]
    nginx.clock.pauses.clear()
    began = nginx.clock.now
    assert flush()["remaining"] == 1
    assert 30 < nginx.clock.now - began < 31


def test_failed_reload_is_reported(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise systemd.UnitError("nginx: [emerg] unknown directive")

    monkeypatch.setattr(systemd, "change", refuse)
    assert flush()["msg"] == "nginx: [emerg] unknown directive"
    assert nginx.clock.pauses == []


def test_check_mode_reloads_nothing(nginx: Nginx) -> None:
    result = flush(check=True)
    assert (result["changed"], result["remaining"]) == (True, 0)
    assert nginx.events == []
