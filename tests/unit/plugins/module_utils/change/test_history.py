"""What was done is remembered, told, and decides what a rollback may go to."""

from __future__ import annotations

import json
import multiprocessing
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import history
from ansible_collections.baton.web.plugins.module_utils.change.version import VERSION


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    """A host with four complete releases and half a one, all of which have served; dddd is the last."""
    application = Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        application.release(release).mkdir(parents=True)
        (application.release(release) / "release.json").write_text(json.dumps({"version": f"{release[0]}.0"}))
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


def note(app: Application, number: int) -> None:
    for step in range(5):
        history.append(app, {"number": number, "step": step})


def test_writers_at_the_same_time_lose_no_line(app: Application) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=note, args=(app, number)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = sorted((entry["number"], entry["step"]) for entry in history.read(app))
    assert lines == [(number, step) for number in range(6) for step in range(5)]


def test_a_line_gets_its_version_and_a_short_reason(app: Application) -> None:
    history.append(app, done("bbbb", reason="boom " * 1000))
    history.append(app, done("aaaa", version="7.0"))
    first, second = history.read(app)
    assert first["version"] == "b.0"
    assert first["reason"].endswith("boom ...")
    assert len(first["reason"]) <= history.LONGEST
    assert second["version"] == "7.0"


def candidates(app: Application, current: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = history.candidates(app, history.read(app), current)
    return found


def choice(app: Application, current: str) -> list[str]:
    return [one["release"] for one in candidates(app, current) if not one["why_not"]]


def why_not(app: Application, current: str) -> dict[str, str]:
    return {one["release"]: one["why_not"] for one in candidates(app, current) if one["why_not"]}


def test_a_rollback_goes_to_the_last_one_that_served_well(app: Application) -> None:
    for number, release in enumerate(("aaaa", "bbbb", "cccc", "dddd")):
        history.append(app, done(release, when=float(number)))
    assert choice(app, "dddd") == ["cccc", "bbbb", "aaaa"]
    assert candidates(app, "dddd")[0] == {"release": "cccc", "version": "c.0", "when": 2.0, "why_not": ""}


def test_without_a_history_it_goes_by_what_took_over(app: Application) -> None:
    assert choice(app, "dddd") == ["cccc", "bbbb", "aaaa"]


@pytest.mark.parametrize("result", ["reverted", "failed"])
def test_a_release_that_failed_is_no_candidate(app: Application, result: str) -> None:
    history.append(app, done("bbbb"))
    history.append(app, done("cccc", result))
    assert choice(app, "dddd") == ["bbbb", "aaaa"]
    assert why_not(app, "dddd") == {"cccc": "its last deploy failed"}


def test_a_release_that_failed_once_and_was_deployed_well_later_is_one(app: Application) -> None:
    history.append(app, done("cccc", "reverted"))
    history.append(app, done("cccc"))
    assert choice(app, "dddd")[0] == "cccc"


@pytest.mark.parametrize("kind", ["restart", "configure", "deploy"])
def test_a_change_that_fails_around_what_serves_makes_it_no_worse(app: Application, kind: str) -> None:
    history.append(app, done("bbbb"))
    history.append(app, done("cccc"))
    history.append(app, done("cccc", "reverted", kind))
    history.append(app, done("dddd"))
    assert choice(app, "dddd")[0] == "cccc"


def test_a_second_rollback_goes_further_back_instead_of_returning(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        history.append(app, done(release))
    history.append(app, done("cccc", "rolled back", "rollback", previous="dddd"))
    assert choice(app, "cccc") == ["bbbb", "aaaa"]
    assert why_not(app, "cccc") == {"dddd": "it was rolled back from"}
    history.append(app, done("aaaa", "rolled back", "rollback", previous="cccc"))
    assert choice(app, "aaaa") == []
    history.append(app, done("dddd"))
    assert choice(app, "dddd") == ["aaaa"]


def test_a_release_that_is_deployed_again_has_what_served_before_below_it(app: Application) -> None:
    for release in ("aaaa", "bbbb", "aaaa"):
        history.append(app, done(release))
    assert choice(app, "aaaa")[0] == "bbbb"


def test_a_change_that_was_killed_before_it_was_noted_doesn_t_count_as_good(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc"):
        history.append(app, done(release))
    # a deploy of dddd
    assert choice(app, "dddd") == ["cccc", "bbbb", "aaaa"]
    # a rollback to bbbb
    assert choice(app, "bbbb") == ["aaaa", "dddd"]
    assert why_not(app, "bbbb") == {"cccc": "it came after the current one"}


def test_what_never_served_or_is_gone_is_no_candidate(app: Application) -> None:
    app.release("eeee").mkdir()
    (app.release("eeee") / "release.json").write_text("{}")
    (app.release("cccc") / "release.json").unlink()
    for release in ("bbbb", "cccc", "dddd"):
        history.append(app, done(release))
    assert choice(app, "dddd") == ["bbbb", "aaaa"]
    assert why_not(app, "dddd") == {"eeee": "it never served here"}


def test_blocking_migrations_between_are_named() -> None:
    entries = [done("aaaa"), done("bbbb"), done("cccc", migrations="blocking"), done("dddd", migrations="expand")]
    assert history.blocking(entries, "dddd", "bbbb") == ["cccc"]
    assert history.blocking(entries, "dddd", "cccc") == []
    assert history.blocking(entries, "dddd", "dddd") == []
    # it was made for the database as it is now
    assert history.blocking([*entries, done("bbbb"), done("eeee")], "eeee", "bbbb") == []


def test_a_blocking_migration_that_began_is_known_of_when_nobody_told_its_end() -> None:
    entries = [done("aaaa"), done("bbbb", "begun", migrations="blocking")]
    assert history.blocking(entries, "aaaa", "aaaa") == []
    assert history.blocking(entries, "bbbb", "aaaa") == ["bbbb"]
    # that it began says nothing about how good the release is
    assert history.judged(entries, ["aaaa"], ["aaaa", "bbbb"], "aaaa") == {"bbbb": "it never served here"}


def test_a_beginning_is_told_only_while_its_end_is_unknown() -> None:
    begun = {**done("bbbb", "begun"), "token": "one"}
    assert [row["result"] for row in history.merged({"app1": [begun]})] == ["begun"]
    ended = {**done("bbbb"), "token": "one"}
    assert [row["result"] for row in history.merged({"app1": [begun, ended], "app2": [ended]})] == ["deployed"]


def test_a_blocking_migration_has_run_also_where_its_release_was_put_back() -> None:
    entries = [done("aaaa"), done("bbbb"), done("cccc", "reverted", migrations="blocking")]
    assert history.blocking(entries, "bbbb", "aaaa") == ["cccc"]


def found(
    current: str, *candidates: str, releases: tuple[str, ...] = ("aaaa", "bbbb", "cccc", "dddd"), **more: Any
) -> dict[str, Any]:
    others = [release for release in releases if release not in (current, *candidates)]
    told = [{"release": one, "version": f"{one[0]}.0", "why_not": ""} for one in candidates]
    told += [{"release": one, "version": "", "why_not": "it was rolled back from"} for one in others]
    result = {"current": current, "candidates": list(candidates), "releases": list(releases), "blocking": {}}
    return {**result, "rollback_candidates": told, **more}


def test_the_fleet_goes_back_to_what_all_hosts_have() -> None:
    hosts = {"app1": found("dddd", "cccc", "bbbb"), "app2": found("dddd", "bbbb", "aaaa")}
    assert history.rollback(hosts, "", force=False) == {"release": "bbbb", "version": "b.0", "problem": ""}


@pytest.mark.parametrize("order", [1, -1])
def test_a_fleet_that_a_killed_change_left_mixed_goes_to_the_older_of_its_releases(order: int) -> None:
    # a deploy of dddd that was killed, then a rollback from cccc
    deployed = [("app1", found("dddd", "cccc", "bbbb", "aaaa")), ("app2", found("cccc", "bbbb", "aaaa"))]
    assert history.rollback(dict(deployed[::order]), "", force=False)["release"] == "cccc"
    rolled = [("app1", found("bbbb", "aaaa")), ("app2", found("cccc", "bbbb", "aaaa"))]
    assert history.rollback(dict(rolled[::order]), "", force=False)["release"] == "bbbb"


def test_without_a_common_release_there_is_a_way_out() -> None:
    told = history.rollback({"app1": found("dddd", "cccc"), "app2": found("dddd", "bbbb")}, "", force=False)
    assert told["release"] == ""
    assert "playbooks/deploy.yml" in told["problem"]
    assert "cccc (c.0); aaaa (it was rolled back from)" in told["problem"]


def test_a_named_release_has_to_be_complete_everywhere() -> None:
    hosts = {"app1": found("dddd", "aaaa"), "app2": found("dddd", releases=("aaaa", "dddd"))}
    told = history.rollback(hosts, "bbbb", force=False)
    assert "bbbb is not complete on app2" in told["problem"]
    assert told["problem"].endswith("on every host: aaaa (a.0).")
    assert history.rollback(hosts, "aaaa", force=False)["release"] == "aaaa"


def test_a_blocking_migration_is_crossed_by_force_alone() -> None:
    hosts = {"app1": found("dddd", "bbbb", blocking={"bbbb": ["cccc"]})}
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


def test_hosts_that_disagree_have_lines_of_their_own_and_many_that_agree_are_counted() -> None:
    row = done("bbbb", when=10.0, who="ann@laptop")
    hosts = {f"app{number}": [row] for number in range(1, 7)}
    assert history.table(hosts).splitlines()[1].endswith("all 6")
    hosts["app2"] = [{**row, "result": "reverted"}]
    first, second = history.table(hosts).splitlines()[1:]
    assert first.endswith("app1, app3, app4, app5, app6")
    assert second.endswith("app2")


def test_the_failures_since_the_last_good_change_are_those_that_disturbed_the_site() -> None:
    good, bad = done("aaaa", when=1.0), done("bbbb", when=2.0, result="reverted")
    begun = done("bbbb", when=9.0, result="begun")
    assert history.failures([bad, good]) == []
    assert history.failures([good, bad, {**bad, "when": 3.0, "result": "failed"}, begun]) == [2.0, 3.0]


@pytest.mark.parametrize("result", ["reverted", "failed"])
def test_a_rollback_that_failed_is_gone_to_when_asked_again(app: Application, result: str) -> None:
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        history.append(app, done(release))
    history.append(app, done("cccc", result, "rollback", previous="dddd"))
    assert choice(app, "dddd") == ["cccc", "bbbb", "aaaa"]


def test_one_that_served_well_is_no_worse_for_a_later_deploy_of_it_that_failed(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc"):
        history.append(app, done(release))
    history.append(app, done("aaaa", "failed"))
    assert choice(app, "cccc")[:2] == ["bbbb", "aaaa"]


def test_a_rollback_that_crossed_a_blocking_migration_and_went_well_has_it_behind_it() -> None:
    entries = [done("aaaa"), done("bbbb", migrations="blocking"), done("aaaa", "failed", "rollback")]
    assert history.blocking(entries, "bbbb", "aaaa") == ["bbbb"]
    entries += [done("aaaa", "rolled back", "rollback"), done("cccc")]
    assert history.blocking(entries, "cccc", "aaaa") == []


# receipts


def test_a_receipt_is_for_root_alone_and_leaves_nothing_beside_it(app: Application) -> None:
    history.keep_receipt(app, "20251125T120000Z-shop-r1", "{}\n")
    history.keep_receipt(app, "20251125T120000Z-shop-r1", '{"format": 1}\n')
    (path,) = (app.state / "receipts").iterdir()
    assert path.name == "20251125T120000Z-shop-r1.json"
    assert path.read_text() == '{"format": 1}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_newest_twenty_receipts_stay(app: Application) -> None:
    for minute in range(23):
        history.keep_receipt(app, f"20251125T12{minute:02}00Z-shop-r1", "{}\n")
    names = sorted(path.name for path in (app.state / "receipts").iterdir())
    assert len(names) == 20
    assert names[0] == "20251125T120300Z-shop-r1.json"
    assert names[-1] == "20251125T122200Z-shop-r1.json"


# which Baton it was


def test_a_line_names_the_version_of_baton(app: Application) -> None:
    history.append(app, done("bbbb"))
    (entry,) = history.read(app)
    assert entry["baton"] == VERSION
    assert f" {VERSION} " in history.table({"app1": [entry]}).splitlines()[1]
