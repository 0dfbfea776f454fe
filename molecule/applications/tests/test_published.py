"""A published server without source or lock, whose import takes more than a second."""

from __future__ import annotations

import pytest

from .conftest import Deployed
from .support import SOLO, Traffic

pytestmark = pytest.mark.long


def test_missing_lock_causes_warning(published: Deployed) -> None:
    assert "not locked" in published.first.words


@pytest.mark.parametrize("name", SOLO)
def test_published_server_is_served(published: Deployed, name: str) -> None:
    assert published.get_json(name, "/healthz")["versions"]["titiler"] == "2.4.0"
    assert published.release(name)["locked"] is False


def test_restart_of_slow_server_loses_no_request(published: Deployed) -> None:
    before = {name: published.workers(name) for name in SOLO}
    with Traffic(published, rate=10, path="/healthz", fewest=20) as traffic:
        published.succeed("playbooks/restart.yml")
    assert traffic.failed == {}
    assert traffic.sent > 20
    assert not any(before[name] & published.workers(name) for name in SOLO)


def test_unavailable_python_is_reported_and_changes_nothing(published: Deployed) -> None:
    before = {name: published.workers(name) for name in SOLO}
    done = published.play("site.yml", python_runtime_version="3.12", python_runtime_mirror="http://127.0.0.1:9")
    assert done.status != 0
    for word in ("solo1", "3.12", "http://127.0.0.1:9", "python_runtime_mirror"):
        assert word in done.words, done.output
    assert {name: published.workers(name) for name in SOLO} == before


def test_deploy_does_not_affect_other_application(published: Deployed, plain: Deployed) -> None:
    before = {name: (plain.current(name), plain.workers(name)) for name in SOLO}
    with Traffic(plain) as traffic:
        released = {name: published.current(name) for name in SOLO}
        published.deploy(app_release_files=[{"path": "note.txt", "content": "another release"}])
    assert all(published.current(name) != released[name] for name in SOLO)
    assert traffic.failed == {}
    assert {name: (plain.current(name), plain.workers(name)) for name in SOLO} == before
