"""The end of a change on its hosts, as Ansible runs it: what remains on a host, and what the output contains."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history

from tests.support.playbooks import Done, Playbooks
from tests.support.program import write_script

RUN = {"token": "a", "who": "ann@laptop", "process": ""}
RECEIPT = {"receipt": '{"format": 1}\n', "receipt_name": "20251125T120000Z-shop-r3"}
ENTRY = {"kind": "deploy", "release": "r3", "result": "deployed"}


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    """Three releases, the last of which is current, and a deploy lock."""
    # the name is a path, so that all files of the application are below it instead of in /opt and /var
    application = Application(str(tmp_path / "shop"))
    for release in ("r1", "r2", "r3"):
        application.release(release).mkdir(parents=True)
        (application.release(release) / "release.json").write_text(json.dumps({"id": release, "staged": release}))
    application.current.symlink_to("releases/r3")
    deploy_lock.take(application, deploy_lock.Run(**RUN), "deploy v3", 900)
    return application


def finish(app: Application, *arguments: str, host: str = "", **options: object) -> Done:
    tasks = [{"baton.web.finish": {"name": app.name, **options}}]
    runner, playbook = Playbooks.written(app.state.parent, {"tasks": tasks}, host=host)
    return runner.succeed(playbook, *arguments)


def results(app: Application) -> list[str]:
    return [entry["result"] for entry in history.read(app)]


def receipts(app: Application) -> dict[str, str]:
    return {path.name: path.read_text() for path in app.state.glob("receipts/*")}


def test_finish_prunes_records_and_releases_the_lock(app: Application) -> None:
    done = finish(app, "--diff", run=RUN, keep=1, entry=ENTRY, **RECEIPT)
    assert done.changed == [1], done.output
    assert f"-{app.release('r1')}" in done.output
    assert history.complete(app) == ["r2", "r3"]
    assert results(app) == ["deployed"]
    assert receipts(app) == {"20251125T120000Z-shop-r3.json": '{"format": 1}\n'}
    assert deploy_lock.read(app) is None


def test_finish_after_an_unchanged_run_only_releases_the_lock(app: Application) -> None:
    done = finish(app, run=RUN, keep=2)
    assert done.changed == [0], done.output
    assert "WARNING" not in done.output
    assert len(history.complete(app)) == 3
    assert results(app) == []
    assert receipts(app) == {}
    assert deploy_lock.read(app) is None


def test_check_mode_reports_pruning_and_changes_nothing(app: Application) -> None:
    done = finish(app, "--check", "--diff", run=RUN, keep=0, entry=ENTRY, **RECEIPT)
    assert done.changed == [1], done.output
    assert f"-{app.release('r1')}\n" in done.output
    assert len(history.complete(app)) == 3
    assert results(app) == []
    assert not (app.state / "receipts").exists()
    assert deploy_lock.read(app) is not None


def test_finish_without_a_run_prunes_and_keeps_the_lock(app: Application) -> None:
    assert finish(app, keep=0).changed == [1]
    assert history.complete(app) == ["r3"]
    assert deploy_lock.read(app) is not None


def test_errors_are_reported_and_do_not_stop_the_other_steps(app: Application) -> None:
    # folders and files in the way
    (app.state / "releases.lock").mkdir()
    (app.state / "history.lock").mkdir()
    (app.state / "receipts").write_text("")
    done = finish(app, run=RUN, keep=0, entry=ENTRY, **RECEIPT)
    assert done.changed == [0], done.output
    assert f"app1: Old releases in {app.state}/releases can't be removed" in done.words
    assert f"app1: The history below {app.state} lacks this change" in done.words
    assert f"app1: The receipt is not kept below {app.state}" in done.words
    assert deploy_lock.read(app) is None


def test_lock_that_cannot_be_released_is_reported_with_the_fix(app: Application) -> None:
    (app.state / "lock.lock").unlink()
    (app.state / "lock.lock").mkdir()
    done = finish(app, run=RUN, keep=1, entry=ENTRY)
    assert done.changed == [1], done.output
    assert f"app1: The deploy lock below {app.state} can't be released" in done.words
    assert "playbooks/unlock.yml" in done.words
    assert results(app) == ["deployed"]


@pytest.mark.parametrize(
    ("serves", "problem"), [("r2", "release r3 has been activated since"), ("r3", "shop.service doesn't run")]
)
def test_host_that_no_longer_serves_the_release_is_reported(app: Application, serves: str, problem: str) -> None:
    done = finish(app, "-v", run=RUN, serves=serves)
    assert problem in done.words, done.output
    assert deploy_lock.read(app) is None


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        # Ansible says the latter if ssh ends before it has got the module
        ("ansible_host=127.0.0.1 ansible_port=1", "Connection refused|Data could not be sent to remote host"),
        ("ansible_connection=local ansible_python_interpreter=/gone/python", "/gone/python"),
    ],
)
def test_unreachable_host_is_a_warning(app: Application, host: str, cause: str) -> None:
    done = finish(app, host=host, run=RUN, keep=0, entry=ENTRY)
    assert done.changed == [0], done.output
    assert "app1: The change could not be finished here" in done.words
    assert re.search(cause, done.words)
    assert "playbooks/unlock.yml" in done.words
    assert "unreachable=0" in done.output
    assert "what it serves is unknown" in finish(app, "-v", host=host, run=RUN, serves="r3").words


@pytest.mark.parametrize("answer", [{"left": 5}, {"left": "x"}, {"ansible_facts": 5}, {"results": 5}])
def test_answer_of_another_type_is_a_warning(app: Application, tmp_path: pathlib.Path, answer: object) -> None:
    (tmp_path / "answer").write_text(json.dumps(answer))
    python = write_script(tmp_path / "python", f"cat > /dev/null\ncat {tmp_path}/answer")
    done = finish(app, host=f"ansible_connection=local ansible_python_interpreter={python}", run=RUN)
    assert done.changed == [0], done.output
    assert "app1: The change could not be finished here" in done.words
