"""How a change reaches the processes, and what counts as proof that they serve it."""

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
from ansible_collections.baton.web.plugins.module_utils.app.layout import STOP_MARGIN
from ansible_collections.baton.web.plugins.module_utils.host import atomic_file, systemd, untrusted

from tests.support.clock import Clock


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    """A host's root with the releases aaaa, which is current, and bbbb."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        folder = application.release(release)
        folder.mkdir(parents=True)
        metadata = {"id": release, "python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0"}}
        (folder / "release.json").write_text(json.dumps(metadata))
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
    layout.set_current(application, "aaaa")
    return application


class Units:
    """A stand-in for systemd: a service that is started, restarted or reloaded serves the current release at once."""

    def __init__(self, app: layout.Application, patch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.active = {app.service}
        self.jobs: list[tuple[str, ...]] = []  # what systemctl was told, in order
        self.faults: dict[tuple[str, ...], Exception] = {}  # what fails once
        self.timeouts: dict[tuple[str, ...], float] = {}
        patch.setattr(systemd, "change", lambda verb, unit, timeout: self.systemctl(verb, unit, timeout=timeout))
        for name in ("systemctl", "properties", "is_active"):
            patch.setattr(systemd, name, getattr(self, name))

    def systemctl(self, *words: str, timeout: float = 30) -> None:
        self.jobs.append(words)
        self.timeouts[words] = timeout
        if words in self.faults:
            raise self.faults.pop(words)
        verb, *units = words
        for unit in units:
            if verb == "stop":
                self.active.discard(unit)
            elif verb in ("start", "restart", "reload"):
                self.active.add(unit)
                if unit != self.app.socket:
                    self._serve(unit)

    def _serve(self, unit: str) -> None:
        text = digests.content(self.app.path("etc/systemd/system", unit))
        folder = self.app.socket_folder if LEGACY_UNIT.encode() in text else self.app.path("run/baton/links")
        name = "bridge.json" if unit == self.app.bridge else "handover.json"
        write_status(self.app, layout.current(self.app) or "", to=folder / name)

    def properties(self, unit: str, *_names: str) -> dict[str, str]:
        return {"MainPID": str(MASTER if unit in self.active else 0), "ControlGroup": f"/{unit}"}

    def is_active(self, unit: str) -> bool:
        return unit in self.active

    def done(self, *verbs: str) -> list[tuple[str, ...]]:
        """The jobs with these verbs."""
        return [words for words in self.jobs if words[0] in verbs]


@pytest.fixture
def units(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> Units:
    return Units(app, monkeypatch)


@pytest.fixture
def activated(app: layout.Application, units: Units) -> layout.Application:  # noqa: ARG001
    """The same host, with aaaa activated and its service active."""
    record = {"digests": dataclasses.asdict(digests.digests(app, "aaaa"))}
    app.record.write_text(json.dumps(record))
    write_status(app)
    return app


MODULE = "venv/lib/gunicorn/arbiter.py"
MASTER = 2**22  # the pid of each unit's master, above all that exist
LEGACY_UNIT = "[Service]\nEnvironment=GUNICORN_HANDOVER_STATUS=/run/links/handover.json\n"


def write_status(app: layout.Application, *releases: str, to: pathlib.Path | None = None, **changed: Any) -> None:
    """Write the status of a master that has imported one module, which both releases contain."""
    for release in ("aaaa", "bbbb"):
        module, python = (app.release(release) / name for name in (MODULE, "venv/bin/python"))
        for file in (module, python):
            file.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("the arbiter")
        if not python.exists():
            python.symlink_to(sys.executable)
    binary = pathlib.Path(os.path.realpath(sys.executable))
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    fingerprint = {
        "python": {"executable": str(binary), "executable_sha256": digest, **changed},
        "files": {MODULE: hashlib.sha256(b"the arbiter").hexdigest()},
    }
    workers = [{"pid": os.getpid(), "state": "ready", "release": release} for release in releases or ["aaaa"]]
    status = {"master": {"pid": MASTER}, "workers_wanted": len(workers), "workers": workers}
    (to or app.status_file(app.service)).write_text(json.dumps({**status, "fingerprint": fingerprint}))


def keep(app: layout.Application) -> None:
    """Keep the configuration, as a successful activation does."""
    with snapshot.replaced_folder(app.kept) as scratch:
        snapshot.keep(app, scratch)


def change(app: layout.Application, path: str, text: str) -> None:
    app.path(path).write_text(text)


def test_unchanged_host_needs_no_handover(activated: layout.Application) -> None:
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "none"


def test_new_release_with_the_same_server_is_reloaded(activated: layout.Application) -> None:
    assert digests.choose(activated, digests.digests(activated, "bbbb")) == "reload"


@pytest.mark.parametrize(
    ("path", "text", "method"),
    [
        ("etc/links/environment", 'A="2"', "reload"),
        ("etc/links/gunicorn.conf.py", "workers = 3", "reload"),
        ("etc/links/services-ca.pem", "another authority", "reload"),
        ("etc/links/secrets/TOKEN", "another", "bridge"),
        ("etc/links/secrets/NEW", "secret", "bridge"),
        ("etc/systemd/system/links.service", "[Service]\nNice=1", "bridge"),
        ("etc/systemd/system/links.service", "[Service]\nEnvironment=A=1 \\\n  B=2", "bridge"),
        # directives that only systemd reads, and comments
        ("etc/systemd/system/links.service", "[Service]\nTimeoutStopSec=99\nMemoryMax=2G\nRestartSec=2", "reload"),
        ("etc/systemd/system/links.service", "# another hand\n\n[Service]\n; Nice=1", "reload"),
        ("etc/systemd/system/links.socket", "# another hand\n[Socket]\nDescription=It", "reload"),
        ("etc/systemd/system/links.socket", "[Socket]\nBacklog=1", "reopen"),
    ],
)
def test_changed_file_determines_the_way(activated: layout.Application, path: str, text: str, method: str) -> None:
    change(activated, path, text)
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == method


@pytest.mark.parametrize(
    ("metadata", "method"),
    [
        ({"python": "3.12.1", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0"}}, "bridge"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.2", "fastapi": "0.165.0"}}, "bridge"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.166.0"}}, "reload"),
        # a package that only workers import
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0", "websockets": "17"}}, "reload"),
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1", "fastapi": "0.165.0", "click": "8"}}, "bridge"),
        # a reload would keep the old paths in the master's sys.path
        ({"python": "3.11.2", "packages": {"gunicorn": "27.0.1"}, "import_paths": ["src"]}, "bridge"),
    ],
)
def test_changed_package_of_the_master_needs_a_bridge(
    activated: layout.Application, metadata: dict[str, Any], method: str
) -> None:
    (activated.release("bbbb") / "release.json").write_text(json.dumps({"id": "bbbb", **metadata}))
    assert digests.choose(activated, digests.digests(activated, "bbbb")) == method


def test_changed_launcher_of_the_same_version_needs_a_bridge(activated: layout.Application) -> None:
    record = activated.release("bbbb") / "server/gunicorn_handover-0.1.0.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("gunicorn_handover/cli.py,sha256=abc,1")
    assert digests.choose(activated, digests.digests(activated, "bbbb")) == "bridge"


def test_installer_metadata_in_record_is_ignored(activated: layout.Application) -> None:
    for release, digest in (("aaaa", "one"), ("bbbb", "another")):
        record = activated.release(release) / "server/gunicorn_handover-0.1.0.dist-info/RECORD"
        record.parent.mkdir(parents=True)
        record.write_text(
            f"bin/gunicorn-handover,sha256={digest},1\n"
            f"gunicorn_handover/cli.py,sha256=abc,1\ngunicorn_handover-0.1.0.dist-info/x,sha256={digest},1\n"
        )
    before, after = (digests.digests(activated, release).restart for release in ("aaaa", "bbbb"))
    assert before == after


@pytest.mark.parametrize("digest", [{"executable_sha256": "of another build"}, {"executable": "/usr/bin/python3.9"}])
def test_replaced_python_needs_a_bridge(activated: layout.Application, digest: dict[str, Any]) -> None:
    write_status(activated, **digest)
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "bridge"


def test_changed_module_of_the_master_needs_a_bridge(activated: layout.Application) -> None:
    (activated.release("bbbb") / MODULE).write_text("another arbiter of the same version")
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "none"
    assert digests.choose(activated, digests.digests(activated, "bbbb")) == "bridge"


@pytest.mark.parametrize(
    ("loaded", "installed", "method"),
    [
        ({"a.pth": "import a"}, {"a.pth": "import a"}, "reload"),
        ({}, {"a.py": "only a worker imports it"}, "reload"),
        ({"a.pth": "import a"}, {"a.pth": "import b"}, "bridge"),
        ({"a.pth": "import a"}, {}, "bridge"),
        ({}, {"a.pth": "import a"}, "bridge"),
    ],
)
def test_changed_pth_file_needs_a_bridge(
    activated: layout.Application, loaded: dict[str, str], installed: dict[str, str], method: str
) -> None:
    reported = server_status.read(activated, activated.service)
    startup = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in loaded.items()}
    reported["fingerprint"]["startup"] = {"venv/lib/site-packages": startup}
    activated.status_file(activated.service).write_text(json.dumps(reported))
    folder = activated.release("bbbb") / "venv/lib/site-packages"
    folder.mkdir(parents=True)
    for name, text in installed.items():
        (folder / name).write_text(text)
    assert digests.choose(activated, digests.digests(activated, "bbbb")) == method


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": {"python": []}, "workers": []}'])
def test_master_without_a_fingerprint_needs_a_bridge(activated: layout.Application, text: str) -> None:
    activated.status_file(activated.service).write_text(text)
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "bridge"


def test_files_that_the_master_claims_are_not_read_blindly(activated: layout.Application) -> None:
    reported = json.loads(activated.status_file(activated.service).read_text())
    reported["fingerprint"]["files"] = {"/dev/zero": "0"}
    assert digests.master_outdated(activated, "aaaa", reported)


@pytest.mark.parametrize("kind", ["pipe", "endless", "not a mapping", "workers of another kind", "bytes"])
def test_invalid_status_is_empty(activated: layout.Application, kind: str) -> None:
    file = activated.status_file(activated.service)
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        texts = {"not a mapping": b"[]", "workers of another kind": b'{"workers": [1]}', "bytes": b"\xff"}
        file.write_bytes(texts[kind])
    assert server_status.read(activated, activated.service) == {}


def test_page_that_trickles_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(ord("."))):
                    connection.send(bytes([byte]))
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert health_check.check(health_check.Health("/", address, "links", timeout=0.5)).startswith(
            "does not respond"
        )


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with these statuses and Retry-After headers; repeats the last one."""

    answers: ClassVar[list[tuple[int, str]]] = []
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
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
    """A page that returns the answers in Page.answers."""
    Page.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield health_check.Health("/", f"127.0.0.1:{server.server_port}", "links")
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "problem", "pauses"),
    [
        ([(200, "")], "", []),
        ([(503, ""), (503, ""), (200, "")], "", [0.25, 0.5]),
        ([(429, ""), (200, "")], "", [0.25]),
        ([(429, "1"), (200, "")], "", [1]),
        # it serves, and the time doesn't suffice for another request
        ([(429, "60")], "", []),
        ([(429, "")], "", [0.25, 0.5, 1]),
        ([(503, "60")], "answers 503: body", [0.25, 0.5, 1, 0.75]),
    ],
)
def test_page_is_retried_with_backoff_and_rate_limits_are_no_failure(
    page: health_check.Health,
    answers: list[tuple[int, str]],
    problem: str,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Page.answers = answers
    clock = Clock()
    monkeypatch.setattr(health_check, "time", clock)
    assert health_check.wait_healthy(page, 2.5) == problem
    assert len(Page.requests) == len(pauses) + 1
    assert clock.pauses == pytest.approx(pauses, abs=0.001)


@pytest.mark.parametrize(("status", "problem"), [(200, ""), (429, ""), (404, "answers 404: body")])
def test_single_check_accepts_a_rate_limit(page: health_check.Health, status: int, problem: str) -> None:
    Page.answers = [(status, "")]
    assert health_check.check(page) == problem
    assert health_check.answer_of(page).limited == (status == 429)


def test_unexpected_error_in_a_handover_restores_the_previous_release(
    activated: layout.Application, units: Units
) -> None:
    units.faults["reload", activated.service] = KeyError("began_monotonic")
    with pytest.raises(layout.ActivationError, match=r"KeyError: 'began_monotonic'\n.*aaaa serves, as before"):
        activation.Activation(activated, "bbbb", 1).execute()
    assert layout.current(activated) == "aaaa"


def test_bridge_left_by_a_killed_handover_is_stopped(activated: layout.Application, units: Units) -> None:
    units.active.add(activated.bridge)
    activation.Activation(activated, "bbbb", 1).execute()
    assert units.done("reload", "stop") == [("reload", activated.service), ("stop", activated.bridge)]
    units.jobs.clear()
    units.active.add(activated.bridge)
    change(activated, "etc/links/secrets/TOKEN", "another")
    activation.Activation(activated, "bbbb", 1).execute()
    assert units.jobs[0] == ("stop", activated.bridge)


@pytest.mark.parametrize(("age", "expected"), [(-1, True), (1, False)])
def test_masters_own_reason_comes_first_if_it_is_of_this_reload(
    activated: layout.Application, units: Units, age: float, expected: bool
) -> None:
    status = json.loads(activated.status_file(activated.service).read_text())
    reason = "not ready after 60 s (handover_boot_timeout)"
    status["reload"] = {"error": reason, "began_monotonic": time.monotonic() - age}
    activated.status_file(activated.service).write_text(json.dumps(status))
    units.faults["reload", activated.service] = systemd.UnitError("much that it logged")
    with pytest.raises(layout.ActivationError) as raised:
        activation.Activation(activated, "bbbb", 1).execute()
    shown = "not ready after 60 s (app_service_boot_timeout). It logged last:\nmuch that it logged"
    assert (f"(reload): {shown}" in str(raised.value)) == expected
    assert "much that it logged" in str(raised.value)


def test_stopped_service_is_started(activated: layout.Application, units: Units) -> None:
    units.active.clear()
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "start"


def test_missing_record_needs_a_bridge(activated: layout.Application) -> None:
    activated.record.write_text("{")
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "bridge"


def test_symlink_moved_by_hand_is_noticed(activated: layout.Application) -> None:
    layout.set_current(activated, "bbbb")
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "reload"


def test_worker_of_another_release_is_noticed(activated: layout.Application) -> None:
    write_status(activated, "bbbb")
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == "reload"


def test_incomplete_release_is_refused(app: layout.Application) -> None:
    (app.release("bbbb") / "release.json").unlink()
    with pytest.raises(layout.ActivationError, match="not a complete release"):
        digests.digests(app, "bbbb")


def test_symlink_is_replaced_atomically(app: layout.Application) -> None:
    inode = os.lstat(app.current).st_ino
    layout.set_current(app, "bbbb")
    assert layout.current(app) == "bbbb"
    assert os.lstat(app.current).st_ino != inode  # replaced by a rename
    assert os.readlink(app.current) == "releases/bbbb"


def make_status(**changed: Any) -> dict[str, Any]:
    worker = {"pid": os.getpid(), "state": "ready", "release": "bbbb"}
    return {"master": {"pid": 7}, "workers_wanted": 1, "workers": [worker | changed.pop("worker", {})]} | changed


def test_ready_worker_of_the_release_is_proof() -> None:
    assert server_status.unproven(make_status(), "bbbb", 7) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "hasn't written its status"),
        (make_status(master={"pid": 8}), "hasn't written its status"),
        (make_status(workers_wanted=2), "1 of 2 workers serve"),
        (make_status(worker={"state": "booting"}), "0 of 1 workers serve"),
        (make_status(worker={"release": "aaaa"}), "serves release aaaa, not bbbb"),
        (make_status(worker={"pid": 2**22 + 1}), "no longer exists"),
    ],
)
def test_other_status_is_no_proof(status: dict[str, Any], words: str) -> None:
    assert words in server_status.unproven(status, "bbbb", 7)


def test_worker_that_boots_to_replace_a_ready_one_is_ignored() -> None:
    status = make_status()
    status["workers"].append({"pid": 2**22 + 1, "state": "booting", "release": "bbbb"})
    assert server_status.unproven(status, "bbbb", 7) == ""
    status["workers"][-1]["release"] = "cccc"
    assert "serves release cccc" in server_status.unproven(status, "bbbb", 7)


def test_draining_workers_of_the_old_release_are_ignored() -> None:
    status = make_status()
    status["workers"].append({"pid": os.getpid(), "state": "draining", "release": "aaaa"})
    assert server_status.unproven(status, "bbbb", 7) == ""


def test_detached_work_continues_after_its_caller_is_killed(tmp_path: pathlib.Path) -> None:
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


def test_failure_of_detached_work_reaches_the_caller() -> None:
    def work() -> str | None:
        raise layout.ActivationError("no module named x")

    with pytest.raises(layout.ActivationError, match="no module named x"):
        detached.run_detached(work)


def test_killed_work_is_a_failure() -> None:
    with pytest.raises(layout.ActivationError, match="was killed"):
        detached.run_detached(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_only_one_handover_runs_at_a_time(app: layout.Application) -> None:
    with (
        detached.exclusive(app, 1),
        pytest.raises(layout.ActivationError, match="Another activation of links is running"),
        detached.exclusive(app, 0),
    ):
        pass
    with detached.exclusive(app, 0):
        pass


def test_workers_are_renewed_only_on_request(activated: layout.Application) -> None:
    assert activation.Activation(activated, "aaaa", 1).method == "none"
    assert activation.Activation(activated, "aaaa", 1, restart_workers=True).method == "reload"


def test_kept_configuration_can_be_restored(app: layout.Application) -> None:
    keep(app)
    change(app, "etc/links/environment", 'A="broken"')
    change(app, "etc/links/secrets/NEW", "secret")
    change(app, "etc/links/services-ca.pem", "another authority")
    app.path("etc/links/secrets/TOKEN").unlink()
    snapshot.restore(app, app.kept)
    assert app.path("etc/links/environment").read_text() == 'A="1"'
    assert not app.path("etc/links/services-ca.pem").exists()
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_secrets_are_removed_after_the_units_that_load_them(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment of a revert, each unit finds the secrets that it loads."""
    unit, old, new = (
        "etc/systemd/system/links.service",
        "etc/links/secrets/TOKEN",
        "etc/links/secrets/TOKEN.host.cred",
    )
    change(app, unit, "LoadCredential=TOKEN:/etc/links/secrets/TOKEN")
    keep(app)
    app.path(old).unlink()
    change(app, new, "encrypted")
    change(app, unit, "LoadCredentialEncrypted=TOKEN:/etc/links/secrets/TOKEN.host.cred")
    write, loadable = atomic_file.write, []

    def checked_write(path: pathlib.Path, *given: Any, **more: Any) -> None:
        write(path, *given, **more)
        loadable.append(app.path(app.path(unit).read_text().partition(":")[2].lstrip("/")).exists())

    monkeypatch.setattr(atomic_file, "write", checked_write)
    snapshot.restore(app, app.kept)
    assert loadable
    assert all(loadable)
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_migration_unit_and_secrets_are_restored(app: layout.Application) -> None:
    unit, secret = "etc/systemd/system/links-migration@.service", "etc/links/migration-secrets/ADMIN"
    # a copy by an older version, which kept neither
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


def test_kept_secrets_are_readable_only_by_root(app: layout.Application) -> None:
    app.path("etc/links/secrets/TOKEN").chmod(0o600)
    keep(app)
    keep(app)  # replaces an older copy
    kept = app.kept
    assert kept.stat().st_mode & 0o777 == 0o700
    assert (kept / "etc/links/secrets/TOKEN").stat().st_mode & 0o777 == 0o600


def test_nothing_is_restored_if_nothing_was_kept(app: layout.Application) -> None:
    change(app, "etc/links/environment", 'A="2"')
    snapshot.restore(app, app.kept)
    assert app.path("etc/links/environment").read_text() == 'A="2"'


def test_record_lists_activated_releases_the_last_one_first(activated: layout.Application, units: Units) -> None:
    activation.Activation(activated, "bbbb", 1).execute()
    activation.Activation(activated, "aaaa", 1).execute()
    assert layout.served(activated) == ["aaaa", "bbbb"]
    units.faults["reload", activated.service] = systemd.UnitError("it doesn't boot")
    with pytest.raises(layout.ActivationError):
        activation.Activation(activated, "bbbb", 1).execute()
    assert layout.served(activated) == ["aaaa", "bbbb"]


def test_result_of_detached_work_reaches_the_caller() -> None:
    assert detached.run_detached(lambda: "reload") == "reload"


@pytest.fixture
def working(activated: layout.Application) -> layout.Application:
    """The same host, with a copy of the configuration that serves."""
    keep(activated)
    return activated


def test_transaction_is_reverted_with_its_configuration(working: layout.Application) -> None:
    change(working, "etc/links/environment", 'A="2"')
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    assert layout.current(working) == "bbbb"
    assert activation.revert(working, "one", 1) == "reload"
    assert layout.current(working) == "aaaa"
    assert working.path("etc/links/environment").read_text() == 'A="1"'
    assert activation.revert(working, "one", 1) == "none"


def test_reverted_release_does_not_count_as_served(working: layout.Application) -> None:
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    activation.Activation(working, "aaaa", 1, transaction="two").execute()
    assert layout.served(working) == ["aaaa", "bbbb"]
    shutil.copytree(working.release("bbbb"), working.release("cccc"))
    activation.Activation(working, "cccc", 1, transaction="three").execute()
    assert layout.served(working) == ["cccc", "aaaa", "bbbb"]
    activation.revert(working, "three", 1)
    assert layout.served(working) == ["aaaa", "bbbb"]


def test_several_changes_of_one_transaction_are_reverted_together(working: layout.Application) -> None:
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    change(working, "etc/links/secrets/TOKEN", "another")
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    assert activation.revert(working, "one", 1) == "bridge"
    assert layout.current(working) == "aaaa"
    assert working.path("etc/links/secrets/TOKEN").read_text() == "secret"


def fail_disk_full(*_: Any) -> None:
    """Replaces a function that writes to the disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("when", ["snapshot", "keep", "sync_filesystem"])
def test_full_disk_restores_the_previous_release(
    working: layout.Application, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    recorded = digests.recorded(working)
    with monkeypatch.context() as full:
        full.setattr(layout if when == "sync_filesystem" else snapshot, when, fail_disk_full)
        if when != "snapshot":
            full.setattr(snapshot, "snapshot", lambda *_: None)
        with pytest.raises(layout.ActivationError, match=r"No space left on device") as caught:
            activation.Activation(working, "bbbb", 1, transaction="one").execute()
    assert "Release aaaa serves, as before." in str(caught.value)
    assert layout.current(working) == "aaaa"
    assert digests.recorded(working) == recorded
    assert digests.choose(working, digests.digests(working, "aaaa")) == "none"


def fill_disk_before_the_record(working: layout.Application, patch: pytest.MonkeyPatch) -> None:
    """Make the disk too full for the record at the end of a handover."""

    def sync_filesystem(path: pathlib.Path) -> None:
        if path == working.record.parent:
            fail_disk_full()

    patch.setattr(layout, "sync_filesystem", sync_filesystem)


def test_settings_are_reverted_if_the_record_cannot_be_written(
    working: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(working, "etc/links/environment", 'A="2"')
    with monkeypatch.context() as full:
        fill_disk_before_the_record(working, full)
        with pytest.raises(layout.ActivationError, match=r"Release aaaa serves, as before\."):
            activation.Activation(working, "bbbb", 1, transaction="one").execute()
    assert working.path("etc/links/environment").read_text() == 'A="1"'
    assert layout.current(working) == "aaaa"


def test_full_disk_does_not_undo_a_revert(working: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    with monkeypatch.context() as full:
        fill_disk_before_the_record(working, full)
        with pytest.raises(layout.ActivationError, match="aaaa serves again, but this could not be recorded"):
            activation.revert(working, "one", 1)
    assert layout.current(working) == "aaaa"
    assert server_status.read(working, working.service)["workers"][0]["release"] == "aaaa"
    assert activation.revert(working, "one", 1) == "reload"


def test_failed_restore_is_reported_as_text(working: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    change(working, "etc/links/environment", 'A="2"')

    monkeypatch.setattr(snapshot, "_restore_file", fail_disk_full)
    with pytest.raises(layout.ActivationError, match=r"could not be restored: .*No space left"):
        activation.revert(working, "one", 1)


def test_failed_cleanup_of_a_first_release_is_reported(app: layout.Application, units: Units) -> None:
    layout.set_current(app, None)
    units.active.clear()
    units.faults["start", app.service] = systemd.UnitError("it doesn't boot")
    units.faults["stop", app.socket, app.service, app.bridge] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(layout.ActivationError) as caught:
        activation.Activation(app, "bbbb", 1).execute()
    *_, message = str(caught.value).splitlines()
    assert message.startswith("This host had no release before, and the started units could not be removed: ")
    assert "No space left" in message


def test_failed_write_leaves_no_file(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(app)
    change(app, "etc/links/secrets/TOKEN", "another")

    monkeypatch.setattr(os, "fsync", fail_disk_full)
    with pytest.raises(OSError, match="No space"):
        snapshot.restore(app, app.kept)
    assert [path.name for path in app.path("etc/links/secrets").iterdir()] == ["TOKEN"]


def test_failed_copy_leaves_no_scratch_folder(app: layout.Application) -> None:
    keep(app)
    with contextlib.suppress(OSError), snapshot.replaced_folder(app.kept) as scratch:
        (scratch / "half").touch()
        fail_disk_full()
    assert [path.name for path in app.state.glob("kept*")] == ["kept"]
    assert (app.kept / "etc/links/environment").exists()


def test_socket_gets_its_old_address_back_if_the_new_one_is_in_use(
    activated: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(activated)
    change(activated, "etc/systemd/system/links.socket", "[Socket]\nListenStream=8001")
    opened: list[str] = []

    def systemd_change(verb: str, unit: str, timeout: float) -> None:
        if (verb, unit) == ("restart", activated.socket):
            opened.append(activated.path("etc/systemd/system", unit).read_text())
        units.systemctl(verb, unit, timeout=timeout)

    monkeypatch.setattr(systemd, "change", systemd_change)
    units.faults["restart", activated.socket] = systemd.UnitError("Address already in use")
    with pytest.raises(layout.ActivationError, match="Address already in use") as caught:
        activation.Activation(activated, "aaaa", 1).execute()
    assert "Release aaaa serves, as before." in str(caught.value)
    assert opened == ["[Socket]\nListenStream=8001", "[Socket]"]


def test_unaffected_socket_stays_open(
    activated: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(activated)
    change(activated, "etc/systemd/system/links.socket", "[Socket]\nListenStream=8001")
    monkeypatch.setattr(snapshot, "snapshot", fail_disk_full)
    with pytest.raises(layout.ActivationError, match=r"Release aaaa serves, as before\."):
        activation.Activation(activated, "aaaa", 1, transaction="one").execute()
    assert units.done("start", "restart", "reload", "stop") == []


def test_revert_ignores_other_transactions(working: layout.Application) -> None:
    activation.Activation(working, "bbbb", 1, transaction="one").execute()
    change(working, "etc/links/environment", 'A="never activated"')
    assert activation.revert(working, "two", 1) == "none"
    assert layout.current(working) == "bbbb"
    assert working.path("etc/links/environment").read_text() == 'A="1"'


def test_revert_of_a_first_release_stops_everything(app: layout.Application, units: Units) -> None:
    layout.set_current(app, None)
    units.active.clear()
    activation.Activation(app, "aaaa", 1, transaction="one").execute()
    assert units.active == {app.socket, app.service}
    assert activation.revert(app, "one", 1) == "stop"
    assert layout.current(app) is None
    # the web processes have no time to stop of their own
    assert units.timeouts["stop", app.socket, app.service, app.bridge] == STOP_MARGIN == 30
    assert units.active == set()
    assert app.path("etc/links/environment").exists()
    assert activation.revert(app, "one", 1) == "none"
    # as after an activation that was killed before it moved the symlink
    units.active.add(app.service)
    assert activation.revert(app, "one", 1) == "stop"


@pytest.mark.parametrize(
    ("maps", "method"),
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
def test_replaced_system_library_needs_a_bridge(activated: layout.Application, maps: str, method: str) -> None:
    """Even if only one of the workers uses it."""
    activated.path("sys/fs/cgroup/links.service").mkdir(parents=True)
    change(activated, "sys/fs/cgroup/links.service/cgroup.procs", "76\n77\n")
    activated.path("proc/77").mkdir(parents=True)
    change(activated, "proc/77/maps", maps + "\n")
    assert digests.choose(activated, digests.digests(activated, "aaaa")) == method


def test_status_is_not_read_through_a_link(activated: layout.Application) -> None:
    reported = server_status.read(activated, activated.service)
    assert reported["workers"]
    status = activated.status_file(activated.service)
    status.rename(target := activated.path("roots.json"))
    status.symlink_to(target)
    assert server_status.read(activated, activated.service) == {}


def test_special_file_is_not_opened(activated: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device can have an effect: it starts a watchdog's countdown."""
    status = activated.status_file(activated.service)
    status.unlink()
    os.mkfifo(status)
    opened: list[int] = []
    open_file = os.open

    def opening(path: str, flags: int, *more: int) -> int:
        opened.append(flags)
        return open_file(path, flags, *more)

    monkeypatch.setattr(os, "open", opening)
    assert server_status.read(activated, activated.service) == {}
    assert all(flags & os.O_PATH for flags in opened)


@pytest.fixture
def legacy(activated: layout.Application, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host of an older version, where the application owns the socket's folder, which contains the status."""
    activated.socket_folder.mkdir()
    activated.status_file(activated.service).rename(activated.socket_folder / "handover.json")
    change(activated, "etc/systemd/system/links.service", LEGACY_UNIT)
    activated.record.write_text(json.dumps({"digests": dataclasses.asdict(digests.digests(activated, "aaaa"))}))
    keep(activated)
    taken: list[int] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # so that the folder seems to belong to another user than root

    def fchown(descriptor: int, *_: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):  # written files are chowned, too
            taken.append(status.st_ino)

    monkeypatch.setattr(os, "fchown", fchown)
    activated.__dict__["taken"] = taken
    return activated


def test_root_takes_over_the_socket_folder_once_the_status_is_elsewhere(
    legacy: layout.Application,
) -> None:
    assert server_status.read(legacy, legacy.service)["workers"], "the old master reports its modules"
    change(legacy, "etc/systemd/system/links.service", "[Service]\n")
    handover = activation.Activation(legacy, "aaaa", 1)
    assert handover.method == "bridge"
    handover.execute()
    assert legacy.__dict__["taken"] == [legacy.socket_folder.stat().st_ino]
    assert not (legacy.socket_folder / "handover.json").exists()
    assert legacy.status_file(legacy.service).parent == legacy.path("run/baton/links")


def test_legacy_unit_keeps_its_folder_until_the_bridge_succeeds(legacy: layout.Application, units: Units) -> None:
    change(legacy, "etc/systemd/system/links.service", "[Service]\n")
    units.faults["start", legacy.bridge] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(layout.ActivationError, match=r"aaaa serves, as before\."):
        activation.Activation(legacy, "aaaa", 1).execute()
    assert legacy.path("etc/systemd/system/links.service").read_text() == LEGACY_UNIT
    activation.Activation(legacy, "aaaa", 1).execute()
    assert legacy.__dict__["taken"] == []
    assert server_status.read(legacy, legacy.service)["workers"]


def test_record_without_process_types_is_read(activated: layout.Application) -> None:
    record = json.loads(activated.record.read_text())
    assert "processes" not in record
    assert digests.recorded(activated) == digests.digests(activated, "aaaa")
    handover.Handover(activated, activated.processes[0], "aaaa", 1)
    assert digests.recorded(activated, "web") == digests.recorded(activated)


class FakeStrategy:
    """The strategy of a second process type; records the calls."""

    calls: ClassVar[list[str]] = []
    fails = False

    def __init__(
        self,
        _app: layout.Application,
        _process: layout.ProcessType,
        release: str,
        _timeout: float,
        *,
        restart_workers: bool,
    ) -> None:
        assert not restart_workers
        self.method, self.wanted = "replace", digests.Digests(release, "", "", "")

    def execute(self) -> None:
        self.calls.append(f"execute {self.wanted.release}")
        if self.fails:
            raise layout.ActivationError("links-worker@1.service ended at once")

    def revert(self) -> None:
        self.calls.append(f"put back {self.wanted.release}")

    def unproven(self) -> str:
        return ""

    def refusal(self, _began: float) -> str:
        return ""

    def result(self) -> dict[str, Any]:
        return {"method": self.method}


def test_each_strategy_of_a_process_type_has_a_class() -> None:
    assert set(activation.STRATEGIES) == {"handover", *layout.STRATEGIES, layout.TIMER}


def test_method_is_that_of_the_web_processes_if_they_change(
    activated: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = layout.ProcessType("worker", "replace", ("links-worker@1.service",))
    monkeypatch.setattr(layout.Application, "processes", (worker, *activated.processes))
    monkeypatch.setitem(activation.STRATEGIES, "replace", FakeStrategy)
    assert activation.Activation(activated, "bbbb", 1).method == "reload"
    change(activated, "etc/links/secrets/TOKEN", "another")
    assert activation.Activation(activated, "bbbb", 1).method == "bridge"
    change(activated, "etc/links/secrets/TOKEN", "secret")
    assert activation.Activation(activated, "aaaa", 1).method == "replace"


@pytest.mark.parametrize("fails", [False, True])
def test_second_process_type_is_activated_and_reverted_with_web(
    activated: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    worker = layout.ProcessType("worker", "replace", ("links-worker@1.service",))
    monkeypatch.setattr(layout.Application, "processes", (*activated.processes, worker))
    monkeypatch.setitem(activation.STRATEGIES, "replace", FakeStrategy)
    monkeypatch.setattr(FakeStrategy, "fails", fails)
    monkeypatch.setattr(FakeStrategy, "calls", [])
    keep(activated)
    if not fails:
        activation.Activation(activated, "bbbb", 1).execute()
        assert FakeStrategy.calls == ["execute bbbb"]
        assert units.done("reload") == [("reload", activated.service)]
        assert json.loads(activated.record.read_text())["processes"].keys() == {"web", "worker"}
        return
    with pytest.raises(layout.ActivationError, match=r"worker@1.service ended at once\nRelease aaaa serves, as before"):
        activation.Activation(activated, "bbbb", 1).execute()
    assert FakeStrategy.calls == ["execute bbbb", "put back aaaa"]
    assert units.done("reload") == [("reload", activated.service)] * 2
    (worker_,) = server_status.read(activated, activated.service)["workers"]
    assert worker_["release"] == "aaaa"
    assert layout.current(activated) == "aaaa"


def test_masters_reason_is_translated_to_the_roles_settings() -> None:
    reported = "not ready after 60 s (handover_boot_timeout); warm-up hung (handover_warmup_timeout), handover_http"
    expected = (
        "not ready after 60 s (app_service_boot_timeout); warm-up hung (app_service_warmup_timeout), handover_http"
    )
    assert activation.with_setting_names(reported) == expected


def test_leftovers_of_a_killed_writer_are_no_secrets(activated: layout.Application) -> None:
    before = digests.digests(activated, "aaaa")
    leftover = activated.path("etc/links/secrets/.TOKEN.abcd.baton")
    leftover.mkdir()
    (leftover / "TOKEN").write_text("half")
    assert digests.digests(activated, "aaaa") == before
    assert not [name for name in snapshot.configuration(activated, activated.root) if ".baton" in name]
    assert activation.Activation(activated, "aaaa", 1).method == "none"


@pytest.mark.parametrize(
    ("package", "restarts"),
    [
        *((name, True) for name in ("gunicorn", "gunicorn-handover", "uvicorn", "uvicorn-worker")),
        *((name, True) for name in ("click", "packaging", "setproctitle")),
        # imported only by a worker, from its own release
        *((name, False) for name in ("h11", "httptools", "uvloop", "websockets", "idna")),
    ],
)
def test_packages_of_the_master_require_a_restart(activated: layout.Application, package: str, restarts: bool) -> None:
    def digest(version: str) -> str:
        file = activated.release("aaaa") / "release.json"
        metadata = json.loads(file.read_text())
        metadata["packages"] = {**metadata.get("packages", {}), package: version}
        file.write_text(json.dumps(metadata))
        restart: str = digests.digests(activated, "aaaa").restart
        return restart

    assert (digest("1.0") != digest("1.1")) is restarts


@pytest.mark.parametrize(
    ("line", "restarts"),
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
def test_directives_of_the_process_require_a_restart(activated: layout.Application, line: str, restarts: bool) -> None:
    unit = activated.path("etc/systemd/system", activated.service)
    unit.write_text("[Service]\n")
    before = digests.digests(activated, "aaaa")
    unit.write_text(f"[Service]\n{line}\n")
    after = digests.digests(activated, "aaaa")
    assert (before.restart != after.restart) is restarts
    # systemd has to reload the unit in any case
    assert before.reload != after.reload
    assert before.socket == after.socket


@pytest.mark.parametrize(("number", "outdated"), [(20_000, False), (20_001, True)])
def test_master_that_reports_too_many_modules_is_outdated(
    activated: layout.Application, number: int, outdated: bool
) -> None:
    status = json.loads(activated.status_file(activated.service).read_text())
    # the digest of a missing file is empty
    status["fingerprint"]["files"] = {f"{index}.py": "" for index in range(number)}
    assert digests.master_outdated(activated, "aaaa", status) is outdated


def test_file_larger_than_code_is_not_read(activated: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.MAX_CODE_SIZE == 128 * 2**20
    monkeypatch.setattr(digests, "MAX_CODE_SIZE", 10)
    file = activated.release("aaaa") / "module.py"
    status = json.loads(activated.status_file(activated.service).read_text())
    for content, outdated in ((b"0123456789", False), (b"0123456789+", True)):
        file.write_bytes(content)
        python = status["fingerprint"]["python"]
        python["executable_sha256"] = digests._Code().sha256(python["executable"])
        status["fingerprint"]["files"] = {"module.py": hashlib.sha256(content).hexdigest()}
        assert digests.master_outdated(activated, "aaaa", status) is outdated


@pytest.mark.parametrize("claimed", [True, False])
def test_files_that_a_master_claims_are_read_up_to_a_limit_in_all(
    activated: layout.Application, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    file = activated.release("aaaa") / "large.pth"
    file.write_bytes(bytes(1000))
    digest = hashlib.sha256(bytes(1000)).hexdigest() if claimed else ""
    read: list[int] = []
    original = untrusted.read

    def counted(path: pathlib.Path, size: int, *, follow: bool = False) -> bytes:
        read.append(min(size + 1, os.path.getsize(path)))
        content: bytes = original(path, size, follow=follow)
        return content

    monkeypatch.setattr(untrusted, "read", counted)
    monkeypatch.setattr(digests, "MAX_CODE", 10_000)
    monkeypatch.setattr(digests, "MAX_CODE_SIZE", 10_000 if claimed else 999)
    status = json.loads(activated.status_file(activated.service).read_text())
    python = status["fingerprint"]["python"]
    python["executable_sha256"] = digests._Code().sha256(python["executable"])
    read.clear()
    for key, claims in (
        ("files", {f"{'./' * n}large.pth": digest for n in range(1, 500)}),
        ("startup", {f"{'./' * n}": {"large.pth": digest} for n in range(1, 50)}),
    ):
        status["fingerprint"][key] = claims
    assert digests.master_outdated(activated, "aaaa", status) is claimed
    assert sum(read) < 12_000


@pytest.mark.parametrize(("number", "outdated"), [(64, False), (65, True)])
def test_master_that_reports_too_many_folders_is_outdated(
    activated: layout.Application, number: int, outdated: bool
) -> None:
    status = json.loads(activated.status_file(activated.service).read_text())
    status["fingerprint"]["startup"] = {f"missing\0{index}": {} for index in range(number)}
    assert digests.master_outdated(activated, "aaaa", status) is outdated


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_only_the_sockets_folder_is_given_to_root(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: pathlib.Path
) -> None:
    """The application may have replaced it by a file or a link."""
    owned: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: owned.append((user, group)))
    monkeypatch.setattr(os, "geteuid", lambda: 0 if os.getuid() else 1)
    path = tmp_path / "elsewhere" if kind == "link" else app.socket_folder
    if kind == "file":
        path.write_text("content")
        path.chmod(0o640)
    else:
        path.mkdir(mode=0o700)
        for name in ("handover.json", "bridge.json", "web.sock"):
            (path / name).touch()
    if kind == "link":
        app.socket_folder.symlink_to(path)
    activation.own_socket_folder(app)
    mode = stat.S_IMODE(path.stat().st_mode)
    if kind == "folder":
        assert (owned, mode) == ([(0, 0)], 0o755)
        assert [child.name for child in path.iterdir()] == ["web.sock"]
    else:
        assert (owned, mode) == ([], {"file": 0o640, "link": 0o700}[kind])
        assert kind == "file" or len(list(path.iterdir())) == 3


def test_socket_folder_of_an_interrupted_handover_is_taken_over_by_the_next(legacy: layout.Application) -> None:
    """It may have been killed after the new units served."""
    change(legacy, "etc/systemd/system/links.service", "[Service]\n")
    activation.Activation(legacy, "aaaa", 1).execute()
    legacy.__dict__["taken"].clear()
    again = activation.Activation(legacy, "aaaa", 1)
    assert again.method == "none"
    again.execute()
    assert legacy.__dict__["taken"] == [legacy.socket_folder.stat().st_ino]
