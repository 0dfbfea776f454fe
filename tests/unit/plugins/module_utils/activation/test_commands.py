"""The commands of process types and schedules are looked up in a release before a change, by a real shell."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import commands, digests, rehearsal
from ansible_collections.baton.web.plugins.module_utils.app import layout, transient_unit
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.program import write_script


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host with the releases aaaa, which is current, and bbbb: a program `work` and a package `shop` in each."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        folder = application.release(release)
        for path, text in {
            "release.json": json.dumps({"id": release}),
            "src/jobs.py": "",
            "src/shop/__init__.py": "print('imported')",
            "src/shop/cleanup.py": "raise SystemExit('was run')",
            "src/broken.py": "",
            "src/needy/__init__.py": "import no_such_package",
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "venv/bin").mkdir(parents=True)
        write_script(folder / "venv/bin/work", "exit 1")
        write_script(folder / "src/start", "exit 1")
        (folder / "venv/bin/python").symlink_to(sys.executable)
    for path in ("etc/links", "var/lib/baton/links"):
        (tmp_path / path).mkdir(parents=True)
    layout.set_current(application, "aaaa")

    def invocation(app: layout.Application, release: str, command: str, _timeout: int, _name: str) -> list[str]:
        folder = app.release(release)
        return ["env", "-C", str(folder / "src"), f"PATH={folder}/venv/bin:/usr/bin:/bin", "sh", "-c", command]

    monkeypatch.setattr(transient_unit, "invocation", invocation)
    return application


def declare(
    app: layout.Application,
    processes: dict[str, dict[str, Any]] | None = None,
    schedules: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Write the files that the role writes."""
    one: dict[str, Any] = {"count": 1, "strategy": "replace", "order": "after_web", "check": ""}
    one |= {"settle_seconds": 0, "stop_timeout": 9}
    types = {name: one | about for name, about in (processes or {}).items()}
    timers = {name: {"runs": True} | about for name, about in (schedules or {}).items()}
    app.process_settings.write_text(json.dumps(types))
    app.schedule_settings.write_text(json.dumps(timers))


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("exec work --loglevel info", ""),
        ("exec wrok --loglevel info", "program wrok"),
        ("cd shop && exec wrok", ""),  # only a shell knows
        ("MODE=fast wrok", "program wrok"),
        ('exec "$PROGRAM"', ""),
        ("exec ./start", ""),
        ("exec ./strat", "program ./strat"),
        ("exec 'not closed", ""),
        ("exec /var/lib/links/made-later", ""),
        ("exec /usr/bin/no-such-program", "program /usr/bin/no-such-program"),
        ("test -n '#' && exec wrok", ""),
        ("exec python jobs.py work", ""),
        ("exec python -u jbos.py work", "file jbos.py"),
        ("exec python -m shop.cleanup", ""),
        ("exec python -m jobs", ""),
        ("exec python -Bu -m shop.claenup --all", "module shop.claenup"),
        ("exec python -m shpo.cleanup", "module shpo.cleanup"),
        ("exec python -m jobs.cleanup", "module jobs.cleanup"),
        ("exec python -m needy.cleanup", ""),  # its package fails: not a matter of the name
        ("exec python -c 'import shpo'", ""),
        ("exec python3.99 jobs.py", "program python3.99"),
        ("exec env MODE=fast LEVEL= work", ""),
        ("exec env MODE=fast wrok", "program wrok"),
        ("/usr/bin/env wrok", "program wrok"),
        ("exec env", ""),
        ("exec env -u MODE wrok", ""),  # MODE could be the program
        ("exec env 'PATH=/opt/shop/bin' wrok", ""),
        ("PATH=/opt/shop/bin:$PATH wrok", ""),
        ("PYTHONUNBUFFERED=1 python -m shpo", "module shpo"),
        ("exec env PYTHONPATH=/opt/shop python -m shpo", ""),
        ("exec nice -n 5 work", ""),
        ("exec nice -n 5 wrok", "program wrok"),
        ("exec nice -n -5 env MODE=fast wrok", "program wrok"),
        ("nice -10 wrok", "program wrok"),
        ("nice -n $LEVEL wrok", ""),
        ("exec nohup wrok", "program wrok"),
        ("exec stdbuf -oL -e0 wrok", "program wrok"),
        ("exec timeout 1.5h wrok", "program wrok"),
        ("exec timeout -s KILL 60 wrok", ""),
        ("exec nice python -u -m shpo.cleanup", "module shpo.cleanup"),
        ("exec nice python -u -m shop.cleanup", ""),
        ("exec env MODE=fast python3 jbos.py", "file jbos.py"),
        ("exec sh -c 'exec wrok --all'", "program wrok"),
        ("exec sh -c 'cd shop && exec wrok'", ""),
        ('exec bash -c "nice python -m shpo"', "module shpo"),
        ('exec sh -c "$COMMAND"', ""),
        ("exec sh -c", ""),
        ("exec sh start wrok", ""),
    ],
)
def test_missing_program_module_or_file_is_found(app: layout.Application, command: str, missing: str) -> None:
    declare(app, {"beat": {"command": command}})
    found = commands.lookup(app, "bbbb", 60)
    assert found == (
        f"app_processes.beat.command runs the {missing}, which the host and this release don't have. Correct the "
        f"command, or add the {missing.partition(' ')[0]}."
        if missing
        else ""
    )


def test_types_checks_and_schedules_of_the_host_are_looked_up_at_once(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(
        app,
        {
            "worker": {"command": "exec work", "check": "pnig"},
            "beat": {"command": "exec beta"},
            "elsewhere": {"command": "exec nothing", "count": 0},
            "earlier_version": {"check": True},
        },
        {"cleanup": {"command": "python -m shop.claenup"}, "elsewhere_too": {"command": "nothing", "runs": False}},
    )
    runs, real = [], transient_unit.run

    def run(argv: list[str], timeout: float, name: str) -> tuple[int | None, str]:
        runs.append(argv)
        done: tuple[int | None, str] = real(argv, timeout, name)
        return done

    monkeypatch.setattr(transient_unit, "run", run)
    found = commands.lookup(app, "bbbb", 60)
    assert len(runs) == 1
    for words in (
        "app_processes.worker.check runs the program pnig,",
        "app_processes.beat.command runs the program beta,",
        "app_schedules.cleanup.command runs the module shop.claenup,",
    ):
        assert words in found
    assert found.count("runs the") == 3


def test_no_commands_start_no_process(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transient_unit, "run", lambda *_: pytest.fail("it was started"))
    declare(app)
    assert commands.lookup(app, "bbbb", 60) == ""


def rehearse(
    app: layout.Application, release: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[str]]:
    """The result of a rehearsal whose web processes boot, and what was started."""
    started: list[str] = []
    monkeypatch.setattr(rehearsal, "needed", lambda *_: True)
    monkeypatch.setattr(rehearsal.Rehearsal, "execute", lambda self, *_: started.append(self.service))
    monkeypatch.setattr(systemd, "first_match", lambda *_: "")
    monkeypatch.setattr(systemd, "properties_of_all", lambda *_, **__: [])
    monkeypatch.setattr(systemd, "is_active", lambda _: False)
    monkeypatch.setattr(digests, "recorded", lambda *_: None)
    return rehearsal.rehearse(app, release, 60), started


def test_rehearsal_of_a_release_without_a_program_starts_nothing(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, {"beat": {"command": "exec beta"}})
    monkeypatch.setattr(rehearsal.Rehearsal, "execute", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(systemd, "properties_of_all", lambda *_, **__: [])
    with pytest.raises(rehearsal.RehearsalError) as raised:
        rehearsal.rehearse(app, "bbbb", 60)
    assert str(raised.value).startswith(
        "Release bbbb failed its rehearsal: app_processes.beat.command runs the program beta, "
    )
    assert str(raised.value).endswith("Nothing has changed. Release aaaa still serves.")


def test_lookup_that_fails_is_a_warning(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(app, {"beat": {"command": "exec beta"}})
    monkeypatch.setattr(transient_unit, "run", lambda *_: (1, "Unknown assignment: X=1\n"))
    result, started = rehearse(app, "bbbb", monkeypatch)
    assert started == ["links-rehearsal@bbbb.service"]
    result, (warning,) = rehearsal.reported(app, result)
    assert "app_processes and app_schedules could not be checked" in warning
    assert "Unknown assignment: X=1" in warning


def test_unchanged_types_of_the_current_release_are_not_looked_up(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient_unit, "run", lambda *_: pytest.fail("it was started"))
    declare(app)
    result, started = rehearse(app, "aaaa", monkeypatch)
    assert (result["unchecked"], started) == ("", ["links-rehearsal@aaaa.service"])
