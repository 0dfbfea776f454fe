"""What was done is remembered, told, and decides what a rollback may go to."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import pathlib
import stat
import threading
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
    monkeypatch.setattr(history, "MAX_LINES", 3)
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
    assert len(first["reason"]) <= history.MAX_REASON
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
    assert why_not(app, "cccc") == {"dddd": "a rollback replaced it"}
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
    assert why_not(app, "bbbb") == {"cccc": "it is newer than the current one"}


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
    assert history.rank_releases(entries, ["aaaa"], ["aaaa", "bbbb"], "aaaa") == {"bbbb": "it never served here"}


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
    told += [{"release": one, "version": "", "why_not": "a rollback replaced it"} for one in others]
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
    assert "cccc (c.0); aaaa (a rollback replaced it)" in told["problem"]


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
    row = done("bbbb", when=10.0, who="ann@laptop", method="reload", seconds=2.0)
    other = {**row, "method": "bridge", "seconds": 4.5}
    later = done("cccc", "reverted", when=20.0, reason="app1, handover: boom")
    text = history.table({"app1": [row, later], "app2": [other, later]})
    lines = text.splitlines()
    assert "cccc" in lines[1]
    assert "reload, bridge" in lines[2]
    assert "4.5 s" in lines[2]
    assert lines[2].endswith("app1, app2")
    assert lines[-1] == "Last failure: app1, handover: boom"


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


# changes of which the history says nothing, as their controller was killed


def took_over(app: Application, *releases: str) -> None:
    """The host's record: the last one first."""
    app.record.write_text(json.dumps({"served": releases}))


def test_what_a_killed_deploy_left_serving_is_gone_back_to_before_what_the_history_knows(app: Application) -> None:
    history.append(app, done("aaaa"))
    history.append(app, done("cccc", previous="bbbb"))
    took_over(app, "cccc", "bbbb", "aaaa")
    assert choice(app, "cccc") == ["bbbb", "aaaa"]


def test_two_killed_deploys_in_a_row_are_gone_back_one_by_one(app: Application) -> None:
    history.append(app, done("aaaa"))
    took_over(app, "cccc", "bbbb", "aaaa")
    assert choice(app, "cccc") == ["bbbb", "aaaa"]
    history.append(app, done("dddd", previous="cccc"))
    took_over(app, "dddd", "cccc", "bbbb", "aaaa")
    assert choice(app, "dddd") == ["cccc", "bbbb", "aaaa"]


def test_what_a_killed_rollback_left_behind_is_not_gone_back_to(app: Application) -> None:
    history.append(app, done("aaaa"))
    history.append(app, done("bbbb", previous="aaaa"))
    history.append(app, done("cccc", previous="aaaa"))
    took_over(app, "cccc", "aaaa", "bbbb")
    assert choice(app, "cccc") == ["aaaa"]
    assert why_not(app, "cccc") == {"bbbb": "a rollback replaced it", "dddd": "it never served here"}


def test_one_that_was_rolled_back_from_and_put_there_again_by_a_killed_deploy_is_one_again(app: Application) -> None:
    history.append(app, done("aaaa"))
    history.append(app, done("bbbb", previous="aaaa"))
    history.append(app, done("aaaa", "rolled back", "rollback", previous="bbbb"))
    history.append(app, done("cccc", previous="bbbb"))
    took_over(app, "cccc", "bbbb", "aaaa")
    assert choice(app, "cccc") == ["bbbb", "aaaa"]


@pytest.mark.parametrize("serves", ["aaaa", "bbbb", ""])
def test_one_that_failed_is_one_again_when_it_took_over_since(app: Application, serves: str) -> None:
    history.append(app, done("aaaa"))
    history.append(app, done("bbbb", "failed", previous="aaaa", serves=serves))
    history.append(app, done("cccc", previous="bbbb"))
    took_over(app, "cccc", "bbbb", "aaaa")
    # where its revert failed, or nobody knows, it's in the record for that alone
    assert choice(app, "cccc") == (["bbbb", "aaaa"] if serves == "aaaa" else ["aaaa"])


def test_one_that_was_there_and_never_proved_to_serve_is_no_candidate(app: Application) -> None:
    # its host died in the middle of the activation
    history.append(app, done("aaaa"))
    history.append(app, done("cccc", previous="bbbb"))
    took_over(app, "cccc", "aaaa")
    assert choice(app, "cccc") == ["aaaa"]


def test_a_blocking_migration_from_before_a_killed_deploy_is_behind_it() -> None:
    entries = [done("aaaa", migrations="blocking"), done("cccc", migrations="expand", previous="bbbb")]
    assert history.blocking(entries, "cccc", "bbbb", ["cccc", "bbbb", "aaaa"]) == []
    # whose own are not known of
    entries.append(done("dddd", migrations="blocking", previous="cccc"))
    assert history.blocking(entries, "dddd", "bbbb", ["dddd", "cccc", "bbbb", "aaaa"]) == ["dddd"]
    assert history.blocking(entries, "dddd", "eeee", ["dddd", "cccc", "bbbb", "aaaa"]) == ["aaaa", "dddd"]


def test_a_migration_that_failed_may_have_come_after_a_killed_deploy() -> None:
    failed = done("cccc", "failed", migrations="blocking")
    entries = [done("aaaa"), failed, done("dddd", migrations="expand", previous="bbbb")]
    assert history.blocking(entries, "dddd", "bbbb", ["dddd", "bbbb", "aaaa"]) == ["cccc"]


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


def test_the_bounds_are_what_the_docs_say() -> None:
    assert (history.MAX_LINES, history.SIZE, history.MAX_REASON) == (500, 16 * 1024 * 1024, 300)


def test_a_line_of_no_release_gets_no_version_and_an_unknown_one_an_empty_one(app: Application) -> None:
    history.append(app, {"kind": "unlock"})
    history.append(app, done("gone"))
    (app.release("aaaa") / "release.json").write_text("{}")
    history.append(app, done("aaaa", reason=""))
    first, second, third = history.read(app)
    assert first == {"kind": "unlock", "baton": VERSION}
    assert (second["version"], third["version"], third["reason"]) == ("", "", "")


def test_a_history_is_for_root_alone(app: Application) -> None:
    history.append(app, {"number": 1})
    assert stat.S_IMODE((app.state / "history.jsonl").stat().st_mode) == 0o600


def test_a_writer_waits_for_another(app: Application) -> None:
    history.append(app, {"number": 1})
    with (app.state / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = threading.Thread(target=history.append, args=(app, {"number": 2}), daemon=True)
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
    writer.join(60)
    assert [entry["number"] for entry in history.read(app)] == [1, 2]


def test_a_line_is_what_its_readers_take_it_for(app: Application) -> None:
    texts = (
        "kind",
        "release",
        "previous",
        "version",
        "result",
        "who",
        "token",
        "migrations",
        "reason",
        "method",
        "serves",
    )
    lines = [
        dict.fromkeys(texts, 7) | {"when": "yesterday", "seconds": 1e300, "number": 5},
        dict.fromkeys(texts) | {"when": 10.5},
        ["no", "object"],
        {"release": "aaaa", "seconds": 2},
    ]
    (app.state / "history.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    assert history.read(app) == [
        {"number": 5, "when": 0.0, "seconds": 0.0},
        dict.fromkeys(texts) | {"when": 10.5},
        {"release": "aaaa", "seconds": 2.0},
    ]


def test_a_failure_without_a_time_is_still_one() -> None:
    assert history.failures([done("aaaa", "failed")]) == [0.0]
    for result in ("deployed", "rolled back", "restarted", "configured"):
        assert history.failures([done("aaaa", "failed"), done("aaaa", result)]) == []


def test_what_a_host_tells(app: Application) -> None:
    app.current.parent.mkdir(parents=True, exist_ok=True)
    app.current.symlink_to("releases/dddd")
    entries = [
        done("bbbb", when=1.0),
        done("cccc", when=2.0, migrations="blocking"),
        done("dddd", when=3.0),
        done("cccc", "failed", when=4.0),
    ]
    told = history.summary(app, entries)
    assert told == {
        "current": "dddd",
        "candidates": ["cccc", "bbbb", "aaaa"],
        "rollback_to": "cccc",
        "rollback_candidates": [
            {"release": "cccc", "version": "c.0", "when": 2.0, "why_not": ""},
            {"release": "bbbb", "version": "b.0", "when": 1.0, "why_not": ""},
            {"release": "aaaa", "version": "a.0", "when": None, "why_not": ""},
        ],
        "releases": ["aaaa", "bbbb", "cccc", "dddd"],
        "blocking": {"aaaa": ["cccc"], "bbbb": ["cccc"], "cccc": [], "dddd": []},
        "failures": [4.0],
    }


def test_nowhere_to_go_back_to_is_told_as_none(tmp_path: pathlib.Path) -> None:
    app = Application("links", str(tmp_path))
    app.release("aaaa").mkdir(parents=True)
    (app.release("aaaa") / "release.json").write_text("{}")
    app.release(".staging").mkdir()
    (app.release(".staging") / "release.json").write_text("{}")
    app.current.symlink_to("releases/aaaa")
    told = history.summary(app, [])
    assert (told["rollback_to"], told["candidates"], told["releases"]) == (None, [], ["aaaa"])


def test_a_rollback_to_what_was_rolled_back_from_leaves_what_is_below_it() -> None:
    releases = ["aaaa", "bbbb", "cccc"]
    entries = [done(one) for one in releases]
    entries.append(done("aaaa", "rolled back", "rollback", previous="cccc"))
    found = history.rank_releases(entries, [], releases, "aaaa")
    assert found == {"bbbb": "a rollback replaced it", "cccc": "a rollback replaced it"}
    # forward again, by its name: only what was below is still to be gone back to
    entries.append(done("cccc", "rolled back", "rollback", previous="aaaa"))
    found = history.rank_releases(entries, [], releases, "cccc")
    assert found == {"aaaa": "", "bbbb": "a rollback replaced it"}


def test_a_rollback_to_what_only_the_host_knows_of_takes_away_what_it_leaves() -> None:
    entries = [done("bbbb"), done("aaaa", "rolled back", "rollback", previous="bbbb")]
    assert history.rank_releases(entries, ["aaaa", "bbbb"], ["aaaa", "bbbb"], "aaaa") == {
        "bbbb": "a rollback replaced it"
    }


def test_lines_that_agree_are_one_with_the_longest_time_and_the_ways_of_all() -> None:
    row = {**done("bbbb", when=10.0, method="reload"), "seconds": 2.0, "who": "ann@laptop"}
    hosts = {
        "app1": [row],
        "app2": [{**row, "method": "none", "seconds": 1.0}],
        "app3": [{**row, "method": "bridge", "seconds": 3.0}],
        "app4": [{**row, "method": "reload"}, {**done("cccc", when=11.0), "method": None}],
    }
    newest, oldest = history.merged(hosts)
    assert (newest["hosts"], newest["methods"], newest["seconds"]) == (["app4"], [], 0.0)
    assert oldest["hosts"] == ["app1", "app2", "app3", "app4"]
    assert (oldest["methods"], oldest["seconds"]) == (["reload", "bridge"], 3.0)
    other = [{**row, name: "another"} for name in ("token", "kind", "release", "result", "reason")]
    assert len(history.merged({"app1": [row, *other]})) == 6


def test_the_table_of_a_fleet() -> None:
    row = {**done("bbbb", when=1764072000.0, method="reload", version="b.0"), "seconds": 2.0, "who": "ann@laptop"}
    hosts = {f"app{number}": [row] for number in range(1, 5)}
    header, line = history.table(hosts).splitlines()
    assert header.split("  ")[0] == "WHEN (UTC)"
    assert [word.strip() for word in line.split("  ") if word.strip()] == [
        "2025-11-25 12:00:00", "ann@laptop", "deploy", "bbbb", "b.0", "deployed", "reload", "2.0 s", "-", "all 4",
    ]  # fmt: skip
    three = history.table({f"app{number}": [row] for number in range(1, 4)})
    assert three.splitlines()[1].endswith("app1, app2, app3")
    bare = history.table({"app1": [{"token": "x"}]}).splitlines()[1]
    assert [word.strip() for word in bare.split("  ") if word.strip()] == [
        "1970-01-01 00:00:00", "-", "-", "-", "-", "-", "-", "0.0 s", "-", "app1",
    ]  # fmt: skip


def test_the_table_shows_the_newest_and_as_many_as_asked_for() -> None:
    rows = [done(f"r{number:02}", when=float(number)) for number in range(25)]
    lines = history.table({"app1": rows}).splitlines()
    assert len(lines) == 1 + 20
    assert "r24" in lines[1]
    assert len(history.table({"app1": rows}, 3).splitlines()) == 1 + 3
    # the failure that is told of is the newest one
    rows = [done("aaaa", "failed", when=float(number), reason=f"reason {number}") for number in range(3)]
    assert history.table({"app1": rows}).endswith("\n\nLast failure: reason 2")


def test_a_fleet_without_a_current_release_goes_to_one_that_all_have() -> None:
    hosts = {"app1": found("", "bbbb"), "app2": {**found("cccc", "bbbb"), "current": None}}
    assert history.rollback(hosts, "", force=False)["release"] == "bbbb"
    same = {"app1": found("dddd"), "app2": found("dddd")}
    assert history.rollback(same, "", force=False)["release"] == ""


def test_what_a_rollback_answers_in_full() -> None:
    hosts = {
        "app1": found("dddd", "bbbb", "aaaa", blocking={"bbbb": ["dddd", "cccc"]}),
        "app2": found("dddd", "bbbb", blocking={"bbbb": ["cccc"]}),
    }
    assert history.rollback(hosts, "", force=False) == {
        "release": "",
        "version": "",
        "problem": "A rollback to bbbb crosses the blocking migration of cccc, dddd: that release no longer fits the "
        "database. Undo the migration first, then add -e rollback_force=true.",
    }
    unnamed = found("dddd", "bbbb")
    unnamed["rollback_candidates"] = [{"release": "bbbb", "version": "", "why_not": ""}]
    assert history.rollback({"app1": unnamed}, "", force=False) == {"release": "bbbb", "version": "", "problem": ""}
    told = history.rollback({"app1": {**unnamed, "releases": []}}, "eeee", force=False)["problem"]
    assert told == "Release eeee is not complete on app1. Other complete releases on every host: bbbb (it served well)."
    bare = {**unnamed, "rollback_candidates": []}
    told = history.rollback({"app1": bare, "app2": bare}, "eeee", force=False)["problem"]
    assert told == "Release eeee is not complete on app1, app2. Other complete releases on every host: none."
