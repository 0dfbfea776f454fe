"""How a change reaches the processes, and what counts as proof."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import (
    activation,
    detached,
    digests,
    handover,
    snapshot,
)
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout, server_status
from ansible_collections.baton.web.plugins.module_utils.host import atomic_file, systemd

from tests.support.clock import Clock


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    """A host's tree with the releases aaaa and bbbb; aaaa is current."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        folder = application.release(release)
        folder.mkdir(parents=True)
        about = {"id": release, "python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0"}}
        (folder / "release.json").write_text(json.dumps(about))
    for path, text in {
        "etc/machine-id": "1234",
        "etc/links/gunicorn.conf.py": "workers = 2",
        "etc/links/environment": 'A="1"',
        "etc/links/secrets/TOKEN": "secret",
        "etc/systemd/system/links.service": "[Service]",
        "etc/systemd/system/links.socket": "[Socket]",
        "run/baton/links/.keep": "",
        "var/lib/baton/links/.keep": "",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    layout.switch_current(application, "aaaa")
    return application


@pytest.fixture
def served(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """The same, with aaaa activated and its service active."""
    record = {"digests": dataclasses.asdict(digests.digests(app, "aaaa"))}
    app.record.write_text(json.dumps(record))
    says(app)
    monkeypatch.setattr(systemd, "is_active", lambda unit: unit == app.service)
    return app


HELD = "venv/lib/gunicorn/arbiter.py"


def says(app: layout.Application, *releases: str, **changed: Any) -> None:
    """Write the status of a master that holds one module, which both releases have."""
    for release in ("aaaa", "bbbb"):
        module, python = (app.release(release) / name for name in (HELD, "venv/bin/python"))
        for file in (module, python):
            file.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("the arbiter")
        if not python.exists():
            python.symlink_to(sys.executable)
    binary = pathlib.Path(os.path.realpath(sys.executable))
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    fingerprint = {
        "python": {"executable": str(binary), "executable_sha256": digest, **changed},
        "files": {HELD: hashlib.sha256(b"the arbiter").hexdigest()},
    }
    workers = [{"pid": 1, "state": "ready", "release": release} for release in releases or ["aaaa"]]
    app.status_file(app.service).write_text(json.dumps({"fingerprint": fingerprint, "workers": workers}))


def keep(app: layout.Application) -> None:
    """As an activation does when it has gone well."""
    with snapshot.replaced_folder(app.kept) as scratch:
        snapshot.keep(app, scratch)


def change(app: layout.Application, path: str, text: str) -> None:
    app.path(path).write_text(text)


def test_nothing_is_done_when_nothing_changed(served: layout.Application) -> None:
    assert digests.choose(served, digests.digests(served, "aaaa")) == "none"


def test_a_new_release_of_the_same_server_goes_by_reload(served: layout.Application) -> None:
    assert digests.choose(served, digests.digests(served, "bbbb")) == "reload"


@pytest.mark.parametrize(
    ("path", "text", "way"),
    [
        ("etc/links/environment", 'A="2"', "reload"),
        ("etc/links/gunicorn.conf.py", "workers = 3", "reload"),
        ("etc/links/services-ca.pem", "another authority", "reload"),
        ("etc/links/secrets/TOKEN", "another", "bridge"),
        ("etc/links/secrets/NEW", "secret", "bridge"),
        ("etc/systemd/system/links.service", "[Service]\nNice=1", "bridge"),
        ("etc/systemd/system/links.service", "[Service]\nEnvironment=A=1 \\\n  B=2", "bridge"),
        # systemd's own, and what nobody reads
        ("etc/systemd/system/links.service", "[Service]\nTimeoutStopSec=99\nMemoryMax=2G\nRestartSec=2", "reload"),
        ("etc/systemd/system/links.service", "# another hand\n\n[Service]\n; Nice=1", "reload"),
        ("etc/systemd/system/links.socket", "# another hand\n[Socket]\nDescription=It", "reload"),
        ("etc/systemd/system/links.socket", "[Socket]\nBacklog=1", "reopen"),
    ],
)
def test_what_changed_decides_the_way(served: layout.Application, path: str, text: str, way: str) -> None:
    change(served, path, text)
    assert digests.choose(served, digests.digests(served, "aaaa")) == way


@pytest.mark.parametrize(
    ("about", "way"),
    [
        ({"python": "3.12.1", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0"}}, "bridge"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.2", "fastapi": "0.165.0"}}, "bridge"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.166.0"}}, "reload"),
        # what only a worker imports
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0", "websockets": "17"}}, "reload"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0", "click": "8"}}, "bridge"),
        # a reload would leave the old ones on the master's path
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1"}, "import_paths": ["src"]}, "bridge"),
    ],
)
def test_a_server_that_the_master_holds_in_memory_goes_by_bridge(
    served: layout.Application, about: dict[str, Any], way: str
) -> None:
    (served.release("bbbb") / "release.json").write_text(json.dumps({"id": "bbbb", **about}))
    assert digests.choose(served, digests.digests(served, "bbbb")) == way


def test_another_launcher_of_the_same_version_goes_by_bridge(served: layout.Application) -> None:
    record = served.release("bbbb") / "server/gunicorn_handover-0.1.0.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("gunicorn_handover/cli.py,sha256=abc,1")
    assert digests.choose(served, digests.digests(served, "bbbb")) == "bridge"


def test_what_the_installer_notes_beside_the_launcher_is_no_change(served: layout.Application) -> None:
    for release, noted in (("aaaa", "one"), ("bbbb", "another")):
        record = served.release(release) / "server/gunicorn_handover-0.1.0.dist-info/RECORD"
        record.parent.mkdir(parents=True)
        record.write_text(
            f"bin/gunicorn-handover,sha256={noted},1\n"
            f"gunicorn_handover/cli.py,sha256=abc,1\ngunicorn_handover-0.1.0.dist-info/x,sha256={noted},1\n"
        )
    before, after = (digests.digests(served, release).restart for release in ("aaaa", "bbbb"))
    assert before == after


@pytest.mark.parametrize("digest", [{"executable_sha256": "of another build"}, {"executable": "/usr/bin/python3.9"}])
def test_a_python_that_was_replaced_goes_by_bridge(served: layout.Application, digest: dict[str, str]) -> None:
    says(served, **digest)
    assert digests.choose(served, digests.digests(served, "aaaa")) == "bridge"


def test_a_module_that_the_master_imported_goes_by_bridge_when_it_changed(served: layout.Application) -> None:
    (served.release("bbbb") / HELD).write_text("another arbiter of the same version")
    assert digests.choose(served, digests.digests(served, "aaaa")) == "none"
    assert digests.choose(served, digests.digests(served, "bbbb")) == "bridge"


@pytest.mark.parametrize(
    ("held", "there", "way"),
    [
        ({"a.pth": "import a"}, {"a.pth": "import a"}, "reload"),
        ({}, {"a.py": "more that only a worker imports"}, "reload"),
        ({"a.pth": "import a"}, {"a.pth": "import b"}, "bridge"),
        ({"a.pth": "import a"}, {}, "bridge"),
        ({}, {"a.pth": "import a"}, "bridge"),
    ],
)
def test_what_python_executes_only_when_it_starts_goes_by_bridge_when_it_changed(
    served: layout.Application, held: dict[str, str], there: dict[str, str], way: str
) -> None:
    said = server_status.read(served, served.service)
    startup = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in held.items()}
    said["fingerprint"]["startup"] = {"venv/lib/site-packages": startup}
    served.status_file(served.service).write_text(json.dumps(said))
    folder = served.release("bbbb") / "venv/lib/site-packages"
    folder.mkdir(parents=True)
    for name, text in there.items():
        (folder / name).write_text(text)
    assert digests.choose(served, digests.digests(served, "bbbb")) == way


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": {"python": []}, "workers": []}'])
def test_a_master_that_does_not_say_what_it_holds_goes_by_bridge(served: layout.Application, text: str) -> None:
    served.status_file(served.service).write_text(text)
    assert digests.choose(served, digests.digests(served, "aaaa")) == "bridge"


def test_what_a_master_claims_to_hold_is_not_read_blindly(served: layout.Application) -> None:
    said = json.loads(served.status_file(served.service).read_text())
    said["fingerprint"]["files"] = {"/dev/zero": "0"}
    assert digests.outdated(served, "aaaa", said)


@pytest.mark.parametrize("kind", ["pipe", "endless", "not a mapping", "workers of another kind", "bytes"])
def test_what_the_application_may_have_put_in_the_status_s_place_is_no_status(
    served: layout.Application, kind: str
) -> None:
    file = served.status_file(served.service)
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        texts = {"not a mapping": b"[]", "workers of another kind": b'{"workers": [1]}', "bytes": b"\xff"}
        file.write_bytes(texts[kind])
    assert server_status.read(served, served.service) == {}


def test_a_page_that_comes_in_drops_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(ord("."))):
                    connection.send(bytes([byte]))
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert health_check.check(health_check.Health("/", address, "links", timeout=0.5)).startswith("does not answer")


class Page(http.server.BaseHTTPRequestHandler):
    """Answers as it was told to, the last time for ever: status and Retry-After."""

    answers: ClassVar[list[tuple[int, str]]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, wait = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        if wait:
            self.send_header("Retry-After", wait)
        self.end_headers()
        self.wfile.write(b"body")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def page() -> Iterator[health_check.Health]:
    """A page that answers what a test puts into Page.answers."""
    Page.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield health_check.Health("/", f"127.0.0.1:{server.server_port}", "links")
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "why", "pauses"),
    [
        ([(200, "")], "", []),
        ([(503, ""), (503, ""), (200, "")], "", [0.25, 0.5]),
        ([(429, ""), (200, "")], "", [0.25]),
        ([(429, "1"), (200, "")], "", [1]),
        # it serves, and there is no time to learn more
        ([(429, "60")], "", []),
        ([(429, "")], "", [0.25, 0.5, 1]),
        ([(503, "60")], "answers 503: body", [0.25, 0.5, 1, 0.75]),
    ],
)
def test_a_page_is_asked_ever_less_often_and_a_limit_is_no_failure(
    page: health_check.Health,
    answers: list[tuple[int, str]],
    why: str,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Page.answers = answers
    clock = Clock()
    monkeypatch.setattr(health_check, "time", clock)
    assert health_check.wait_healthy(page, 2.5) == why
    assert len(Page.asked) == len(pauses) + 1
    assert clock.pauses == pytest.approx(pauses, abs=0.001)


@pytest.mark.parametrize(("status", "why"), [(200, ""), (429, ""), (404, "answers 404: body")])
def test_a_page_that_is_asked_once_is_not_failing_for_a_limit(page: health_check.Health, status: int, why: str) -> None:
    Page.answers = [(status, "")]
    assert health_check.check(page) == why
    assert health_check.answer_of(page).limited == (status == 429)


def test_whatever_goes_wrong_in_a_handover_puts_back_what_served(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_(*_: Any) -> None:
        raise KeyError("began_monotonic")

    monkeypatch.setattr(handover.Handover, "_reload", break_)
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    monkeypatch.setattr(systemd, "change", lambda *_: None)
    with pytest.raises(layout.ActivationError, match=r"KeyError: 'began_monotonic'\n.*aaaa serves, as before"):
        activation.Activation(served, "bbbb", 1).execute()
    assert layout.current(served) == "aaaa"


def test_a_bridge_that_a_killed_handover_left_is_ended(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(systemd, "is_active", lambda _: True)
    monkeypatch.setattr(systemd, "change", lambda verb, unit, _: done.append((verb, unit)))
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    activation.Activation(served, "bbbb", 1).execute()
    assert done == [("reload", served.service), ("stop", served.bridge)]
    done.clear()
    change(served, "etc/links/secrets/TOKEN", "another")
    activation.Activation(served, "bbbb", 1).execute()
    assert done[0] == ("stop", served.bridge)


@pytest.mark.parametrize(("age", "told"), [(-1, True), (1, False)])
def test_the_master_s_own_reason_comes_first_unless_it_is_of_an_earlier_reload(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch, age: float, told: bool
) -> None:
    said = json.loads(served.status_file(served.service).read_text())
    reason = "not ready after 60 s (handover_boot_timeout)"
    said["reload"] = {"error": reason, "began_monotonic": time.monotonic() - age}
    served.status_file(served.service).write_text(json.dumps(said))

    def refuse(*_: Any) -> None:
        raise systemd.UnitError("much that it logged")

    monkeypatch.setattr(systemd, "change", refuse)
    with pytest.raises(layout.ActivationError) as raised:
        activation.Activation(served, "bbbb", 1).execute()
    expected = "not ready after 60 s (app_service_boot_timeout). It logged last:\nmuch that it logged"
    assert (f"(reload): {expected}" in str(raised.value)) == told
    assert "much that it logged" in str(raised.value)


def test_a_service_that_does_not_run_is_started(served: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "is_active", lambda _: False)
    assert digests.choose(served, digests.digests(served, "aaaa")) == "start"


def test_without_a_record_nothing_is_assumed_of_the_master(served: layout.Application) -> None:
    served.record.write_text("{")
    assert digests.choose(served, digests.digests(served, "aaaa")) == "bridge"


def test_a_pointer_moved_by_hand_is_noticed(served: layout.Application) -> None:
    layout.switch_current(served, "bbbb")
    assert digests.choose(served, digests.digests(served, "aaaa")) == "reload"


def test_a_worker_of_another_release_is_noticed(served: layout.Application) -> None:
    says(served, "bbbb")
    assert digests.choose(served, digests.digests(served, "aaaa")) == "reload"


def test_an_incomplete_release_is_refused(app: layout.Application) -> None:
    (app.release("bbbb") / "release.json").unlink()
    with pytest.raises(layout.ActivationError, match="not a complete release"):
        digests.digests(app, "bbbb")


def test_the_pointer_moves_without_a_moment_in_between(app: layout.Application) -> None:
    inode = os.lstat(app.current).st_ino
    layout.switch_current(app, "bbbb")
    assert layout.current(app) == "bbbb"
    assert os.lstat(app.current).st_ino != inode  # renamed over, not rewritten
    assert os.readlink(app.current) == "releases/bbbb"


def said(**changed: Any) -> dict[str, Any]:
    worker = {"pid": os.getpid(), "state": "ready", "release": "bbbb"}
    return {"master": {"pid": 7}, "workers_wanted": 1, "workers": [worker | changed.pop("worker", {})]} | changed


def test_a_ready_worker_of_the_release_under_the_unit_s_master_is_proof() -> None:
    assert server_status.unproven(said(), "bbbb", 7) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "hasn't written its status"),
        (said(master={"pid": 8}), "hasn't written its status"),
        (said(workers_wanted=2), "1 of 2 workers serve"),
        (said(worker={"state": "booting"}), "is booting"),
        (said(worker={"release": "aaaa"}), "serves release aaaa, not bbbb"),
        (said(worker={"pid": 2**22 + 1}), "is gone"),
    ],
)
def test_anything_less_is_no_proof(status: dict[str, Any], words: str) -> None:
    assert words in server_status.unproven(status, "bbbb", 7)


def test_draining_workers_of_the_old_release_do_not_count() -> None:
    status = said()
    status["workers"].append({"pid": os.getpid(), "state": "draining", "release": "aaaa"})
    assert server_status.unproven(status, "bbbb", 7) == ""


def test_work_goes_on_to_its_end_when_the_caller_is_killed(tmp_path: pathlib.Path) -> None:
    started, go, done = tmp_path / "started", tmp_path / "go", tmp_path / "done"

    def work() -> str | None:
        started.touch()
        wait_for(go)
        done.touch()
        return None

    caller = os.fork()
    if caller == 0:
        os.setpgid(0, 0)
        detached.run_detached(work)
        os._exit(0)
    wait_for(started)
    os.killpg(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    assert not done.exists()
    go.touch()
    wait_for(done)


def wait_for(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_the_failure_of_the_work_reaches_the_caller() -> None:
    def work() -> str | None:
        raise layout.ActivationError("no module named x")

    with pytest.raises(layout.ActivationError, match="no module named x"):
        detached.run_detached(work)


def test_work_that_is_killed_itself_is_no_success() -> None:
    with pytest.raises(layout.ActivationError, match="was killed"):
        detached.run_detached(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_only_one_handover_at_a_time(app: layout.Application) -> None:
    with (
        detached.exclusive(app, 1),
        pytest.raises(layout.ActivationError, match="Another handover of links is under way"),
        detached.exclusive(app, 0),
    ):
        pass
    with detached.exclusive(app, 0):
        pass


def test_workers_are_renewed_on_demand_alone(served: layout.Application) -> None:
    assert activation.Activation(served, "aaaa", 1).way == "none"
    assert activation.Activation(served, "aaaa", 1, renew=True).way == "reload"


def test_the_configuration_that_served_can_be_put_back(app: layout.Application) -> None:
    keep(app)
    change(app, "etc/links/environment", 'A="broken"')
    change(app, "etc/links/secrets/NEW", "secret")
    change(app, "etc/links/services-ca.pem", "another authority")
    app.path("etc/links/secrets/TOKEN").unlink()
    snapshot.restore(app, app.kept)
    assert app.path("etc/links/environment").read_text() == 'A="1"'
    assert not app.path("etc/links/services-ca.pem").exists()
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_secrets_go_when_the_units_that_load_them_are_others(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever moment a way back ends in, each unit finds what it loads."""
    unit, old, new = "etc/systemd/system/links.service", "etc/links/secrets/TOKEN", "etc/links/secrets/TOKEN.host.cred"
    change(app, unit, "LoadCredential=TOKEN:/etc/links/secrets/TOKEN")
    keep(app)
    app.path(old).unlink()
    change(app, new, "encrypted")
    change(app, unit, "LoadCredentialEncrypted=TOKEN:/etc/links/secrets/TOKEN.host.cred")
    really, seen = atomic_file.write, []

    def look(path: pathlib.Path, *given: Any, **more: Any) -> None:
        really(path, *given, **more)
        seen.append(app.path(app.path(unit).read_text().partition(":")[2].lstrip("/")).exists())

    monkeypatch.setattr(atomic_file, "write", look)
    snapshot.restore(app, app.kept)
    assert seen
    assert all(seen)
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_the_migration_s_unit_and_secrets_are_put_back(app: layout.Application) -> None:
    unit, secret = "etc/systemd/system/links-migration@.service", "etc/links/migration-secrets/ADMIN"
    # a copy of a version that kept nothing of it
    keep(app)
    for name in (unit, secret):
        app.path(name).parent.mkdir(parents=True, exist_ok=True)
        change(app, name, "as it was")
    snapshot.restore(app, app.kept)
    assert app.path(secret).read_text() == "as it was"
    keep(app)
    for name in (unit, secret, f"{secret}.host.cred"):
        change(app, name, "another")
    snapshot.restore(app, app.kept)
    assert app.path(unit).read_text() == "as it was"
    assert app.path(secret).read_text() == "as it was"
    assert not app.path(f"{secret}.host.cred").exists()


def test_kept_secrets_are_for_root_alone(app: layout.Application) -> None:
    app.path("etc/links/secrets/TOKEN").chmod(0o600)
    keep(app)
    keep(app)  # over an older copy
    kept = app.kept
    assert kept.stat().st_mode & 0o777 == 0o700
    assert (kept / "etc/links/secrets/TOKEN").stat().st_mode & 0o777 == 0o600


def test_nothing_is_put_back_where_nothing_was_kept(app: layout.Application) -> None:
    change(app, "etc/links/environment", 'A="2"')
    snapshot.restore(app, app.kept)
    assert app.path("etc/links/environment").read_text() == 'A="2"'


def test_what_took_over_is_recorded_the_last_one_first(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: activation.Activation) -> None:
        raise layout.ActivationError("it doesn't boot")

    monkeypatch.setattr(handover.Handover, "_reload", lambda _: None)
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    activation.Activation(served, "bbbb", 1).execute()
    activation.Activation(served, "aaaa", 1).execute()
    assert layout.served(served) == ["aaaa", "bbbb"]
    monkeypatch.setattr(handover.Handover, "_reload", refuse)
    with pytest.raises(layout.ActivationError):
        activation.Activation(served, "bbbb", 1).execute()
    assert layout.served(served) == ["aaaa", "bbbb"]


def test_the_answer_of_the_work_reaches_the_caller() -> None:
    assert detached.run_detached(lambda: "reload") == "reload"


@pytest.fixture
def switching(served: layout.Application, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """The same, on a host whose units do what they are told."""
    for way in ("_reload", "_bridge"):
        monkeypatch.setattr(handover.Handover, way, lambda change: says(served, change.wanted.release))
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    keep(served)
    return served


def test_a_transaction_is_undone_release_and_configuration(switching: layout.Application) -> None:
    change(switching, "etc/links/environment", 'A="2"')
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    assert layout.current(switching) == "bbbb"
    assert activation.revert(switching, "one", 1) == "reload"
    assert layout.current(switching) == "aaaa"
    assert switching.path("etc/links/environment").read_text() == 'A="1"'
    assert activation.revert(switching, "one", 1) == "none"


def test_a_release_that_was_put_back_does_not_count_as_one_that_served(switching: layout.Application) -> None:
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    activation.Activation(switching, "aaaa", 1, transaction="two").execute()
    assert layout.served(switching) == ["aaaa", "bbbb"]
    shutil.copytree(switching.release("bbbb"), switching.release("cccc"))
    activation.Activation(switching, "cccc", 1, transaction="three").execute()
    assert layout.served(switching) == ["cccc", "aaaa", "bbbb"]
    activation.revert(switching, "three", 1)
    assert layout.served(switching) == ["aaaa", "bbbb"]


def test_several_changes_of_one_transaction_are_undone_as_one(switching: layout.Application) -> None:
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    change(switching, "etc/links/secrets/TOKEN", "another")
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    assert activation.revert(switching, "one", 1) == "bridge"
    assert layout.current(switching) == "aaaa"
    assert switching.path("etc/links/secrets/TOKEN").read_text() == "secret"


def fill(*_: Any) -> None:
    """Stands for what needs room on a disk that has none."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("when", ["snapshot", "keep", "sync_filesystem"])
def test_a_disk_that_is_full_puts_back_what_served(
    switching: layout.Application, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    recorded = digests.recorded(switching)
    with monkeypatch.context() as full:
        full.setattr(layout if when == "sync_filesystem" else snapshot, when, fill)
        if when != "snapshot":
            full.setattr(snapshot, "snapshot", lambda *_: None)
        with pytest.raises(layout.ActivationError, match=r"No space left on device") as told:
            activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    assert "Release aaaa serves, as before." in str(told.value)
    assert layout.current(switching) == "aaaa"
    assert digests.recorded(switching) == recorded
    assert digests.choose(switching, digests.digests(switching, "aaaa")) == "none"


def full_for_the_record(switching: layout.Application, patch: pytest.MonkeyPatch) -> None:
    """A disk that has no room for what is noted at the end of a handover."""

    def fill_late(path: pathlib.Path) -> None:
        if path == switching.record.parent:
            fill()

    patch.setattr(layout, "sync_filesystem", fill_late)


def test_settings_that_could_not_be_noted_go_back_with_the_release(
    switching: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(switching, "etc/links/environment", 'A="2"')
    with monkeypatch.context() as full:
        full_for_the_record(switching, full)
        with pytest.raises(layout.ActivationError, match=r"Release aaaa serves, as before\."):
            activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    assert switching.path("etc/links/environment").read_text() == 'A="1"'
    assert layout.current(switching) == "aaaa"


def test_a_full_disk_does_not_turn_a_way_back_round(
    switching: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    with monkeypatch.context() as full:
        full_for_the_record(switching, full)
        with pytest.raises(layout.ActivationError, match="aaaa serves again, which could not be recorded"):
            activation.revert(switching, "one", 1)
    assert layout.current(switching) == "aaaa"
    assert server_status.read(switching, switching.service)["workers"][0]["release"] == "aaaa"
    assert activation.revert(switching, "one", 1) == "reload"


def test_what_can_not_be_put_back_is_told_in_words(
    switching: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    change(switching, "etc/links/environment", 'A="2"')

    monkeypatch.setattr(snapshot, "_put_back", fill)
    with pytest.raises(layout.ActivationError, match=r"could not be restored: .*No space left"):
        activation.revert(switching, "one", 1)


def test_what_a_failed_first_release_leaves_behind_is_told(
    switching: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = activation.Activation(switching, "bbbb", 1)
    first.before = None
    monkeypatch.setattr(activation, "_stop_all", fill)
    told = first._put_back()
    assert told.startswith("This host had no release before, and the started units could not be removed: ")
    assert "No space left" in told


def test_half_a_file_leaves_nothing(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(app)
    change(app, "etc/links/secrets/TOKEN", "another")

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match="No space"):
        snapshot.restore(app, app.kept)
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_half_a_copy_leaves_the_room_that_it_took(app: layout.Application) -> None:
    keep(app)
    with contextlib.suppress(OSError), snapshot.replaced_folder(app.kept) as scratch:
        (scratch / "half").touch()
        fill()
    assert [path.name for path in app.state.glob("kept*")] == ["kept"]
    assert (app.kept / "etc/links/environment").exists()


def test_a_socket_whose_new_address_is_taken_gets_its_old_one_back(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(served)
    change(served, "etc/systemd/system/links.socket", "[Socket]\nListenStream=8001")
    opened: list[str] = []

    def systemd_change(verb: str, unit: str, _: float) -> None:
        if (verb, unit) == ("restart", served.socket):
            opened.append(served.path("etc/systemd/system", unit).read_text())
            if len(opened) == 1:
                raise systemd.UnitError("Address already in use")

    monkeypatch.setattr(systemd, "change", systemd_change)
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    with pytest.raises(layout.ActivationError, match="Address already in use") as told:
        activation.Activation(served, "aaaa", 1).execute()
    assert "Release aaaa serves, as before." in str(told.value)
    assert opened == ["[Socket]\nListenStream=8001", "[Socket]"]


def test_a_socket_that_was_not_touched_stays_open(served: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(served)
    change(served, "etc/systemd/system/links.socket", "[Socket]\nListenStream=8001")
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(systemd, "change", lambda verb, unit, _: told.append((verb, unit)))
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")

    monkeypatch.setattr(snapshot, "snapshot", fill)
    with pytest.raises(layout.ActivationError, match=r"Release aaaa serves, as before\."):
        activation.Activation(served, "aaaa", 1, transaction="one").execute()
    assert told == []


def test_undoing_spares_what_another_transaction_did(switching: layout.Application) -> None:
    activation.Activation(switching, "bbbb", 1, transaction="one").execute()
    change(switching, "etc/links/environment", 'A="never activated"')
    assert activation.revert(switching, "two", 1) == "none"
    assert layout.current(switching) == "bbbb"
    assert switching.path("etc/links/environment").read_text() == 'A="1"'


def test_undoing_a_first_release_leaves_nothing_served(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover.Handover, "_start", lambda _: None)
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "systemctl", lambda *words, **_: told.append(words))
    monkeypatch.setattr(systemd, "is_active", lambda _: False)
    layout.switch_current(app, None)
    activation.Activation(app, "aaaa", 1, transaction="one").execute()
    assert activation.revert(app, "one", 1) == "stop"
    assert layout.current(app) is None
    assert ("stop", app.socket, app.service, app.bridge) in told
    assert app.path("etc/links/environment").exists()


@pytest.mark.parametrize(
    ("mapped", "way"),
    [
        ("7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libssl.so.3", "none"),
        ("7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)", "bridge"),
        ("7f00-7f01 r-xp 00000000 08:01 12 /usr/bin/python3.11 (deleted)", "bridge"),
        ("7f00-7f01 r--p 00000000 08:01 12 /usr/lib/locale/locale-archive (deleted)", "none"),
        ("7f00-7f01 r-xp 00000000 08:01 12 /opt/links/releases/old/venv/x.so (deleted)", "none"),
        ("7f00-7f01 rwxs 00000000 00:01 12 /memfd:x (deleted)", "none"),
        ("7f00-7f01 r-xp 00000000 00:00 0", "none"),
    ],
)
def test_a_library_that_an_upgrade_replaced_is_left_by_bridge(
    served: layout.Application, mapped: str, way: str
) -> None:
    said = server_status.read(served, served.service)
    change(served, "run/baton/links/handover.json", json.dumps({**said, "master": {"pid": 77}}))
    served.path("proc/77").mkdir(parents=True)
    change(served, "proc/77/maps", mapped + "\n")
    assert digests.choose(served, digests.digests(served, "aaaa")) == way


def test_a_status_is_read_from_no_link_of_the_application_s(served: layout.Application) -> None:
    said = server_status.read(served, served.service)
    assert said["workers"]
    status = served.status_file(served.service)
    status.rename(elsewhere := served.path("root-s-own.json"))
    status.symlink_to(elsewhere)
    assert server_status.read(served, served.service) == {}


def test_what_is_no_file_is_not_even_opened(served: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a device can be to act: a watchdog's begins to count."""
    status = served.status_file(served.service)
    status.unlink()
    os.mkfifo(status)
    opened: list[int] = []
    really = os.open

    def opening(path: str, flags: int, *more: int) -> int:
        opened.append(flags)
        return really(path, flags, *more)

    monkeypatch.setattr(os, "open", opening)
    assert server_status.read(served, served.service) == {}
    assert all(flags & os.O_PATH for flags in opened)


OF_BEFORE = "[Service]\nEnvironment=GUNICORN_HANDOVER_STATUS=/run/links/handover.json\n"


@pytest.fixture
def old(served: layout.Application, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host whose socket's folder is the application's, with the status in it."""
    served.socket_folder.mkdir()
    served.status_file(served.service).rename(served.socket_folder / "handover.json")
    change(served, "etc/systemd/system/links.service", OF_BEFORE)
    served.record.write_text(json.dumps({"digests": dataclasses.asdict(digests.digests(served, "aaaa"))}))
    keep(served)
    taken: list[int] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # the folder is of another user than root

    def fchown(descriptor: int, *_: int) -> None:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):  # the files that are written have an owner, too
            taken.append(about.st_ino)

    monkeypatch.setattr(os, "fchown", fchown)
    for way in ("_bridge", "_reload"):
        monkeypatch.setattr(handover.Handover, way, lambda *_: None)
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    served.__dict__["taken"] = taken
    return served


def test_the_socket_s_folder_becomes_root_s_with_the_unit_that_keeps_its_status_elsewhere(
    old: layout.Application,
) -> None:
    assert server_status.read(old, old.service)["workers"], "the master of before says what it holds"
    change(old, "etc/systemd/system/links.service", "[Service]\n")
    handover = activation.Activation(old, "aaaa", 1)
    assert handover.way == "bridge"
    handover.execute()
    assert old.__dict__["taken"] == [old.socket_folder.stat().st_ino]
    assert not (old.socket_folder / "handover.json").exists()
    assert old.status_file(old.service).parent == old.path("run/baton/links")


def test_a_unit_of_before_keeps_its_folder_until_then(old: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    change(old, "etc/systemd/system/links.service", "[Service]\n")

    def fail(_: activation.Activation) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handover.Handover, "_bridge", fail)
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    with pytest.raises(layout.ActivationError, match=r"aaaa serves, as before\."):
        activation.Activation(old, "aaaa", 1).execute()
    assert old.path("etc/systemd/system/links.service").read_text() == OF_BEFORE
    activation.Activation(old, "aaaa", 1).execute()
    assert old.__dict__["taken"] == []
    assert server_status.read(old, old.service)["workers"]


def test_a_record_of_before_there_were_process_types_is_read(served: layout.Application) -> None:
    noted = json.loads(served.record.read_text())
    assert "processes" not in noted
    assert digests.recorded(served) == digests.digests(served, "aaaa")
    handover.Handover(served, served.processes[0], "aaaa", 1)
    assert digests.recorded(served, "web") == digests.recorded(served)


class Second:
    """Stands for the strategy of a second process type; notes what is asked of it."""

    asked: ClassVar[list[str]] = []
    fails = False

    def __init__(
        self, _app: layout.Application, _process: layout.ProcessType, release: str, _timeout: float, *, renew: bool
    ) -> None:
        assert not renew
        self.way, self.wanted = "replace", digests.Digests(release, "", "", "")

    def execute(self) -> None:
        self.asked.append(f"execute {self.wanted.release}")
        if self.fails:
            raise layout.ActivationError("links-worker@1.service ended at once")

    def put_back(self) -> None:
        self.asked.append(f"put back {self.wanted.release}")

    def unproven(self) -> str:
        return ""

    def refusal(self, _began: float) -> str:
        return ""

    def result(self) -> dict[str, Any]:
        return {"way": self.way}


@pytest.mark.parametrize("fails", [False, True])
def test_a_further_process_type_follows_and_goes_back_with_the_web_processes(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    worker = layout.ProcessType("worker", "replace", ("links-worker@1.service",))
    monkeypatch.setattr(layout.Application, "processes", (*served.processes, worker))
    monkeypatch.setitem(activation.STRATEGIES, "replace", Second)
    monkeypatch.setattr(Second, "fails", fails)
    monkeypatch.setattr(Second, "asked", [])
    reloads: list[str] = []
    monkeypatch.setattr(handover.Handover, "_reload", lambda self: reloads.append(self.wanted.release))
    monkeypatch.setattr(handover.Handover, "_unproven", lambda *_: "")
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    keep(served)
    if not fails:
        activation.Activation(served, "bbbb", 1).execute()
        assert (Second.asked, reloads) == (["execute bbbb"], ["bbbb"])
        assert json.loads(served.record.read_text())["processes"].keys() == {"web", "worker"}
        return
    with pytest.raises(layout.ActivationError, match=r"worker@1.service ended at once\nRelease aaaa serves, as before"):
        activation.Activation(served, "bbbb", 1).execute()
    assert Second.asked == ["execute bbbb", "put back aaaa"]
    assert reloads == ["bbbb", "aaaa"]
    assert layout.current(served) == "aaaa"


def test_what_the_master_says_names_the_operator_s_settings() -> None:
    said = "not ready after 60 s (handover_boot_timeout); warm-up hung (handover_warmup_timeout), handover_http"
    expected = (
        "not ready after 60 s (app_service_boot_timeout); warm-up hung (app_service_warmup_timeout), handover_http"
    )
    assert activation.in_operator_s_words(said) == expected


def test_what_a_killed_writer_left_among_the_secrets_is_no_secret(served: layout.Application) -> None:
    before = digests.digests(served, "aaaa")
    left = served.path("etc/links/secrets/.TOKEN.abcd.baton")
    left.mkdir()
    (left / "TOKEN").write_text("half")
    assert digests.digests(served, "aaaa") == before
    assert not [name for name in snapshot.configuration(served, served.root) if ".baton" in name]
    assert activation.Activation(served, "aaaa", 1).way == "none"


@pytest.mark.parametrize(
    ("package", "held"),
    [
        *((name, True) for name in ("gunicorn", "gunicorn-handover", "uvicorn", "uvicorn-worker")),
        *((name, True) for name in ("click", "packaging", "setproctitle")),
        # a worker imports these, from its own release
        *((name, False) for name in ("h11", "httptools", "uvloop", "websockets", "idna")),
    ],
)
def test_package_is_held_in_memory_by_the_master_or_by_its_workers(
    served: layout.Application, package: str, held: bool
) -> None:
    def digest(version: str) -> str:
        file = served.release("aaaa") / "release.json"
        described = json.loads(file.read_text())
        described["packages"] = {**described.get("packages", {}), package: version}
        file.write_text(json.dumps(described))
        found: str = digests.digests(served, "aaaa").restart
        return found

    assert (digest("1.0") != digest("1.1")) is held


@pytest.mark.parametrize(
    ("line", "held"),
    [
        *((f"{name}=x", False) for name in ("Description", "Documentation", "ExecReload", "Restart", "RestartSec")),
        *((f"{name}=x", False) for name in ("OOMPolicy", "KillMode", "TimeoutStartSec", "TimeoutStopSec")),
        *((f"{name}=x", False) for name in ("TimeoutAbortSec", "MemoryMax", "WantedBy")),
        ("# a comment", False),
        ("; another", False),
        ("", False),
        *((f"{name}=x", True) for name in ("ExecStart", "User", "Environment", "LimitNOFILE", "ProtectSystem")),
        ("Nice = 5", True),
    ],
)
def test_directive_is_systemd_s_own_or_what_a_process_was_started_with(
    served: layout.Application, line: str, held: bool
) -> None:
    unit = served.path("etc/systemd/system", served.service)
    unit.write_text("[Service]\n")
    before = digests.digests(served, "aaaa")
    unit.write_text(f"[Service]\n{line}\n")
    after = digests.digests(served, "aaaa")
    assert (before.restart != after.restart) is held
    # systemd reads it anew all the same
    assert before.reload != after.reload
    assert before.socket == after.socket


@pytest.mark.parametrize(("number", "outdated"), [(20_000, False), (20_001, True)])
def test_master_that_claims_to_hold_more_than_an_application_has_is_not_believed(
    served: layout.Application, number: int, outdated: bool
) -> None:
    said = json.loads(served.status_file(served.service).read_text())
    # files that aren't there have no digest
    said["fingerprint"]["files"] = {f"{one}.py": "" for one in range(number)}
    assert digests.outdated(served, "aaaa", said) is outdated


def test_file_of_a_size_that_no_code_has_is_not_read(
    served: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digests.CODE_SIZE == 128 * 2**20
    monkeypatch.setattr(digests, "CODE_SIZE", 10)
    file = served.release("aaaa") / "module.py"
    said = json.loads(served.status_file(served.service).read_text())
    for content, outdated in ((b"0123456789", False), (b"0123456789+", True)):
        file.write_bytes(content)
        said["fingerprint"]["python"]["executable_sha256"] = digests._sha256(
            said["fingerprint"]["python"]["executable"]
        )
        said["fingerprint"]["files"] = {"module.py": hashlib.sha256(content).hexdigest()}
        assert digests.outdated(served, "aaaa", said) is outdated


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_folder_of_the_socket_becomes_roots_and_nothing_else_does(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: pathlib.Path
) -> None:
    """Not what the application may have put in its place."""
    owned: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: owned.append((user, group)))
    monkeypatch.setattr(os, "geteuid", lambda: 0 if os.getuid() else 1)
    place = tmp_path / "elsewhere" if kind == "link" else app.socket_folder
    if kind == "file":
        place.write_text("mine")
        place.chmod(0o640)
    else:
        place.mkdir(mode=0o700)
        for name in ("handover.json", "bridge.json", "web.sock"):
            (place / name).touch()
    if kind == "link":
        app.socket_folder.symlink_to(place)
    activation.take_socket_folder(app)
    mode = stat.S_IMODE(place.stat().st_mode)
    if kind == "folder":
        assert (owned, mode) == ([(0, 0)], 0o755)
        assert [path.name for path in place.iterdir()] == ["web.sock"]
    else:
        assert (owned, mode) == ([], {"file": 0o640, "link": 0o700}[kind])
        assert kind == "file" or len(list(place.iterdir())) == 3
