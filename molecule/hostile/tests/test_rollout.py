"""An application that migrates its database at startup and limits requests; a rollback that fails at first."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.support.journal import rehearsal

from .conftest import HOSTS, Hostile, host

# logs like Alembic, and answers 429, as if Baton's requests, which come from one address, exceeded its limit
MAIN = """
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import JSONResponse


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    print("INFO  [alembic.runtime.migration] Running upgrade  -> 1a2b, first", flush=True)
    time.sleep(1)
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
def read() -> JSONResponse:
    return JSONResponse({"error": "slow down"}, 429, {"Retry-After": "30"})
"""
CHECKS = "grep -c baton-check /var/log/nginx/hostile-access.log"


def current(name: str) -> str:
    """A host's current release."""
    return str(host(name).check_output("basename $(readlink /opt/hostile/current)"))


@pytest.fixture(scope="module")
def before(hostile: Hostile) -> Iterator[str]:
    """Return the release that is current before the tests, and restore its source afterwards."""
    source = (hostile.source / "main.py").read_text()
    yield current(HOSTS[0])
    (hostile.source / "main.py").write_text(source)


def test_migrating_application_is_rehearsed_on_one_host_first(hostile: Hostile, before: str) -> None:
    (hostile.source / "main.py").write_text(MAIN)
    asked = {name: int(host(name).run(CHECKS).stdout) for name in HOSTS}
    done = hostile.succeed("playbooks/deploy.yml", deploy_bake_seconds=3)
    release = current(HOSTS[0])
    assert release != before
    assert "app_service_migration_command" in done.words, done.output
    (_, first), (second, _) = (rehearsal(host(name), "hostile", release) for name in HOSTS)
    assert first <= second
    for name in HOSTS:
        assert int(host(name).run(CHECKS).stdout) - asked[name] <= 1
    assert "limited (429)" in hostile.succeed("playbooks/status.yml").words


def test_repeated_rollback_has_same_target(hostile: Hostile, before: str) -> None:
    release = current(HOSTS[0])
    with broken_setting(HOSTS[1]):
        done = hostile.play("playbooks/rollback.yml", deploy_bake_seconds=0)
    assert done.status != 0
    assert f"{HOSTS[1]}, rehearsal: Release {before} failed its rehearsal" in done.words
    assert [current(name) for name in HOSTS] == [release] * 2
    last_lines = [
        json.loads(host(name).check_output("tail -n 1 /var/lib/baton/hostile/history.jsonl")) for name in HOSTS
    ]
    assert [(line["kind"], line["release"]) for line in last_lines] == [("rollback", before)] * 2
    hostile.succeed("playbooks/rollback.yml", deploy_bake_seconds=0)
    assert [current(name) for name in HOSTS] == [before] * 2


@contextlib.contextmanager
def broken_setting(name: str) -> Iterator[None]:
    """Break gunicorn.conf.py during a block."""
    file = "/etc/hostile/gunicorn.conf.py"
    host(name).check_output(f"echo '1 / 0' >> {file}")
    try:
        yield
    finally:
        host(name).check_output(f"sed -i '/^1 .* 0$/d' {file}")
