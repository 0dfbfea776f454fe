"""What was done is remembered, told, and decides what a rollback may go to."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from ansible.module_utils.baton import history
from ansible.module_utils.baton.activation import Application


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    """A host with four complete releases and half a one, all of which have served; dddd is the last."""
    application = Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        application.release(release).mkdir(parents=True)
        (application.release(release) / "release.json").write_text("{}")
    application.release("half").mkdir()
    application.state.mkdir(parents=True)
    application.record.write_text(json.dumps({"served": ["dddd", "cccc", "half", "bbbb", "aaaa"]}))
    return application


def done(release: str, result: str = "deployed", kind: str = "deploy", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "release": release, "result": result, "token": f"{release}{result}{kind}", **more}


def test_lines_are_kept_in_order_and_bounded(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    for number in range(5):
        history.append(app, {"number": number})
    assert [entry["number"] for entry in history.read(app)] == [2, 3, 4]


def test_half_a_line_spoils_nothing(app: Application) -> None:
    history.append(app, {"number": 1})
    with (app.state / "history.jsonl").open("a") as file:
        file.write('{"number": 2, "rel')
    history.append(app, {"number": 3})
    assert [entry["number"] for entry in history.read(app)] == [1, 3]


def test_a_rollback_goes_to_the_last_one_that_served_well(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        history.append(app, done(release))
    assert history.candidates(app, "dddd") == ["cccc", "bbbb", "aaaa"]


@pytest.mark.parametrize("result", ["reverted", "failed"])
def test_a_release_that_failed_is_no_candidate(app: Application, result: str) -> None:
    history.append(app, done("bbbb"))
    history.append(app, done("cccc", result))
    assert history.candidates(app, "dddd") == ["bbbb", "aaaa"]


def test_a_release_that_failed_once_and_was_deployed_well_later_is_one(app: Application) -> None:
    history.append(app, done("cccc", "reverted"))
    history.append(app, done("cccc"))
    assert history.candidates(app, "dddd")[0] == "cccc"


def test_a_failed_restart_makes_no_release_bad(app: Application) -> None:
    history.append(app, done("cccc", "failed", "restart"))
    assert history.candidates(app, "dddd")[0] == "cccc"


def test_blocking_migrations_between_are_named() -> None:
    entries = [done("aaaa"), done("bbbb"), done("cccc", migrations="blocking"), done("dddd")]
    assert history.blocking(entries, "dddd", "bbbb") == ["cccc"]
    assert history.blocking(entries, "dddd", "cccc") == []
    assert history.blocking(entries, "dddd", "dddd") == []


def found(*candidates: str, blocking: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {"candidates": list(candidates), "releases": ["aaaa", "bbbb", "cccc"], "blocking": blocking or {}}


def test_the_fleet_goes_back_to_what_all_hosts_have() -> None:
    hosts = {"app1": found("cccc", "bbbb"), "app2": found("bbbb", "aaaa")}
    assert history.rollback(hosts, "", force=False) == {"release": "bbbb", "problem": ""}


def test_without_a_common_release_there_is_a_way_out() -> None:
    told = history.rollback({"app1": found("cccc"), "app2": found("bbbb")}, "", force=False)
    assert told["release"] == ""
    assert "playbooks/deploy.yml" in told["problem"]


def test_a_named_release_has_to_be_complete_everywhere() -> None:
    told = history.rollback({"app1": found(), "app2": {**found(), "releases": ["aaaa"]}}, "bbbb", force=False)
    assert "bbbb is not complete on app2" in told["problem"]
    assert "On every host are: aaaa" in told["problem"]


def test_a_blocking_migration_is_crossed_by_force_alone() -> None:
    hosts = {"app1": found("bbbb", blocking={"bbbb": ["cccc"]})}
    assert "rollback_force" in history.rollback(hosts, "", force=False)["problem"]
    assert history.rollback(hosts, "", force=True)["release"] == "bbbb"


def test_one_change_of_many_hosts_is_a_line() -> None:
    row = done("bbbb", when=10.0, who="ann@laptop", way="reload", seconds=2.0)
    other = {**row, "way": "bridge", "seconds": 4.5}
    later = done("cccc", "reverted", when=20.0, reason="app1, handover: boom")
    text = history.table({"app1": [row, later], "app2": [other, later]})
    lines = text.splitlines()
    assert "cccc" in lines[1]
    assert "reload, bridge" in lines[2]
    assert "4.5 s" in lines[2]
    assert lines[2].endswith("app1, app2")
    assert lines[-1] == "The last failure: app1, handover: boom"


def test_an_empty_history_is_said_to_be_empty() -> None:
    assert history.table({"app1": []}) == "Nothing has been deployed here yet."
