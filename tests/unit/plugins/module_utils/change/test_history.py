"""The history: what it records and shows, and which releases it allows a rollback to."""

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
    """A host with four complete releases and an incomplete one, all of which have served; dddd is the last."""
    application = Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        application.release(release).mkdir(parents=True)
        (application.release(release) / "release.json").write_text(json.dumps({"version": f"{release[0]}.0"}))
    application.release("half").mkdir()
    application.state.mkdir(parents=True)
    application.record.write_text(json.dumps({"served": ["dddd", "cccc", "half", "bbbb", "aaaa"]}))
    return application


def make_entry(release: str, result: str = "deployed", kind: str = "deploy", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "release": release, "result": result, "token": f"{release}{result}{kind}", **more}


def test_entries_are_kept_in_order_and_limited_in_number(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_LINES", 3)
    for number in range(5):
        history.append(app, {"number": number})
    assert [entry["number"] for entry in history.read(app)] == [2, 3, 4]


def test_incomplete_line_affects_no_other(app: Application) -> None:
    history.append(app, {"number": 1})
    with (app.state / "history.jsonl").open("a") as file:
        file.write('{"number": 2, "rel')
    history.append(app, {"number": 3})
    assert [entry["number"] for entry in history.read(app)] == [1, 3]


def append_five(app: Application, number: int) -> None:
    for step in range(5):
        history.append(app, {"number": number, "step": step})


def test_concurrent_writers_lose_no_line(app: Application) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_five, args=(app, number)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = sorted((entry["number"], entry["step"]) for entry in history.read(app))
    assert lines == [(number, step) for number in range(6) for step in range(5)]


def test_entry_gets_its_version_and_a_short_reason(app: Application) -> None:
    history.append(app, make_entry("bbbb", reason="boom " * 1000))
    history.append(app, make_entry("aaaa", version="7.0"))
    first, second = history.read(app)
    assert first["version"] == "b.0"
    assert first["reason"].endswith("boom ...")
    assert len(first["reason"]) <= history.MAX_REASON
    assert second["version"] == "7.0"


def candidates(app: Application, current: str) -> list[dict[str, Any]]:
    host: list[dict[str, Any]] = history.candidates(app, history.read(app), current)
    return host


def allowed(app: Application, current: str) -> list[str]:
    return [one["release"] for one in candidates(app, current) if not one["why_not"]]


def rejected(app: Application, current: str) -> dict[str, str]:
    return {one["release"]: one["why_not"] for one in candidates(app, current) if one["why_not"]}


def test_rollback_targets_the_last_release_that_served_well(app: Application) -> None:
    for number, release in enumerate(("aaaa", "bbbb", "cccc", "dddd")):
        history.append(app, make_entry(release, when=float(number)))
    assert allowed(app, "dddd") == ["cccc", "bbbb", "aaaa"]
    assert candidates(app, "dddd")[0] == {"release": "cccc", "version": "c.0", "when": 2.0, "why_not": ""}


def test_rollback_without_a_history_uses_the_record_of_releases(app: Application) -> None:
    assert allowed(app, "dddd") == ["cccc", "bbbb", "aaaa"]


@pytest.mark.parametrize("result", ["reverted", "failed"])
def test_failed_release_is_no_candidate(app: Application, result: str) -> None:
    history.append(app, make_entry("bbbb"))
    history.append(app, make_entry("cccc", result))
    assert allowed(app, "dddd") == ["bbbb", "aaaa"]
    assert rejected(app, "dddd") == {"cccc": "its last deploy failed"}


def test_failed_release_is_a_candidate_after_a_later_good_deploy(app: Application) -> None:
    history.append(app, make_entry("cccc", "reverted"))
    history.append(app, make_entry("cccc"))
    assert allowed(app, "dddd")[0] == "cccc"


@pytest.mark.parametrize("kind", ["restart", "configure", "deploy"])
def test_failed_change_of_the_serving_release_does_not_disqualify_it(app: Application, kind: str) -> None:
    history.append(app, make_entry("bbbb"))
    history.append(app, make_entry("cccc"))
    history.append(app, make_entry("cccc", "reverted", kind))
    history.append(app, make_entry("dddd"))
    assert allowed(app, "dddd")[0] == "cccc"


def test_second_rollback_goes_further_back(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        history.append(app, make_entry(release))
    history.append(app, make_entry("cccc", "rolled back", "rollback", previous="dddd"))
    assert allowed(app, "cccc") == ["bbbb", "aaaa"]
    assert rejected(app, "cccc") == {"dddd": "a rollback replaced it"}
    history.append(app, make_entry("aaaa", "rolled back", "rollback", previous="cccc"))
    assert allowed(app, "aaaa") == []
    history.append(app, make_entry("dddd"))
    assert allowed(app, "dddd") == ["aaaa"]


def test_redeployed_release_has_its_predecessor_as_candidate(app: Application) -> None:
    for release in ("aaaa", "bbbb", "aaaa"):
        history.append(app, make_entry(release))
    assert allowed(app, "aaaa")[0] == "bbbb"


def test_unrecorded_change_of_a_killed_run_does_not_count_as_good(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc"):
        history.append(app, make_entry(release))
    # a deploy of dddd
    assert allowed(app, "dddd") == ["cccc", "bbbb", "aaaa"]
    # a rollback to bbbb
    assert allowed(app, "bbbb") == ["aaaa", "dddd"]
    assert rejected(app, "bbbb") == {"cccc": "it is newer than the current one"}


def test_unused_or_incomplete_release_is_no_candidate(app: Application) -> None:
    app.release("eeee").mkdir()
    (app.release("eeee") / "release.json").write_text("{}")
    (app.release("cccc") / "release.json").unlink()
    for release in ("bbbb", "cccc", "dddd"):
        history.append(app, make_entry(release))
    assert allowed(app, "dddd") == ["bbbb", "aaaa"]
    assert rejected(app, "dddd") == {"eeee": "it never served here"}


def test_blocking_migrations_in_between_are_listed() -> None:
    entries = [
        make_entry("aaaa"),
        make_entry("bbbb"),
        make_entry("cccc", migrations="blocking"),
        make_entry("dddd", migrations="expand"),
    ]
    assert history.blocking(entries, "dddd", "bbbb") == ["cccc"]
    assert history.blocking(entries, "dddd", "cccc") == []
    assert history.blocking(entries, "dddd", "dddd") == []
    # the redeployed release supports the current database
    assert history.blocking([*entries, make_entry("bbbb"), make_entry("eeee")], "eeee", "bbbb") == []


def test_begun_blocking_migration_counts_although_its_end_is_unknown() -> None:
    entries = [make_entry("aaaa"), make_entry("bbbb", "begun", migrations="blocking")]
    assert history.blocking(entries, "aaaa", "aaaa") == []
    assert history.blocking(entries, "bbbb", "aaaa") == ["bbbb"]
    # that it began says nothing about the release's quality
    assert history.rank_releases(entries, ["aaaa"], ["aaaa", "bbbb"], "aaaa") == {"bbbb": "it never served here"}


def test_begun_migration_is_shown_only_while_its_end_is_unknown() -> None:
    begun = {**make_entry("bbbb", "begun"), "token": "one"}
    assert [row["result"] for row in history.merged({"app1": [begun]})] == ["begun"]
    ended = {**make_entry("bbbb"), "token": "one"}
    assert [row["result"] for row in history.merged({"app1": [begun, ended], "app2": [ended]})] == ["deployed"]


def test_blocking_migration_counts_although_its_release_was_reverted() -> None:
    entries = [make_entry("aaaa"), make_entry("bbbb"), make_entry("cccc", "reverted", migrations="blocking")]
    assert history.blocking(entries, "bbbb", "aaaa") == ["cccc"]


def host(
    current: str, *candidates: str, releases: tuple[str, ...] = ("aaaa", "bbbb", "cccc", "dddd"), **more: Any
) -> dict[str, Any]:
    others = [release for release in releases if release not in (current, *candidates)]
    listed = [{"release": one, "version": f"{one[0]}.0", "why_not": ""} for one in candidates]
    listed += [{"release": one, "version": "", "why_not": "a rollback replaced it"} for one in others]
    result = {"current": current, "candidates": list(candidates), "releases": list(releases), "blocking": {}}
    return {**result, "rollback_candidates": listed, **more}


def test_fleet_goes_back_to_a_release_that_all_hosts_have() -> None:
    hosts = {"app1": host("dddd", "cccc", "bbbb"), "app2": host("dddd", "bbbb", "aaaa")}
    assert history.rollback(hosts, "", force=False) == {"release": "bbbb", "version": "b.0", "note": "", "problem": ""}


@pytest.mark.parametrize("order", [1, -1])
def test_mixed_fleet_goes_back_to_the_older_release(order: int) -> None:
    # a killed deploy of dddd, then a killed rollback from cccc
    deployed = [("app1", host("dddd", "cccc", "bbbb", "aaaa")), ("app2", host("cccc", "bbbb", "aaaa"))]
    assert history.rollback(dict(deployed[::order]), "", force=False)["release"] == "cccc"
    rolled = [("app1", host("bbbb", "aaaa")), ("app2", host("cccc", "bbbb", "aaaa"))]
    assert history.rollback(dict(rolled[::order]), "", force=False)["release"] == "bbbb"


def test_interrupted_change_is_completed_before_a_rollback_goes_further() -> None:
    """The web processes of all hosts are of cccc: a deploy of dddd didn't reach them, or a rollback has left dddd."""
    left = {"app1": host("cccc", "bbbb", "aaaa"), "app2": host("cccc", "bbbb", "aaaa", unfinished=["worker", "beat"])}
    found = history.rollback(left, "", force=False)
    assert (found["release"], found["problem"]) == ("cccc", "")
    assert found["note"] == ("It is current already, but an interrupted change left beat, worker unfinished.")
    # the web processes are of two releases: the older one, as without background processes
    mixed = {"app1": host("dddd", "cccc", "bbbb", unfinished=["worker"]), "app2": host("cccc", "bbbb")}
    found = history.rollback(mixed, "", force=False)
    assert (found["release"], found["note"]) == ("cccc", "")
    # by name
    found = history.rollback(left, "bbbb", force=False)
    assert (found["release"], found["note"]) == ("bbbb", "")
    blocking = {name: {**one, "blocking": {"cccc": ["dddd"]}} for name, one in left.items()}
    assert "crosses the blocking migration of dddd" in history.rollback(blocking, "", force=False)["problem"]


def test_fleet_without_a_common_release_is_told_the_alternatives() -> None:
    result = history.rollback({"app1": host("dddd", "cccc"), "app2": host("dddd", "bbbb")}, "", force=False)
    assert result["release"] == ""
    assert "playbooks/deploy.yml" in result["problem"]
    assert "cccc (c.0); aaaa (a rollback replaced it)" in result["problem"]


def test_named_release_must_be_complete_on_every_host() -> None:
    hosts = {"app1": host("dddd", "aaaa"), "app2": host("dddd", releases=("aaaa", "dddd"))}
    result = history.rollback(hosts, "bbbb", force=False)
    assert "bbbb is not complete on app2" in result["problem"]
    assert result["problem"].endswith("on every host: aaaa (a.0).")
    assert history.rollback(hosts, "aaaa", force=False)["release"] == "aaaa"


def test_blocking_migration_is_crossed_only_by_force() -> None:
    hosts = {"app1": host("dddd", "bbbb", blocking={"bbbb": ["cccc"]})}
    assert "rollback_force" in history.rollback(hosts, "", force=False)["problem"]
    assert history.rollback(hosts, "", force=True)["release"] == "bbbb"


def test_release_with_other_process_types_is_rolled_back_to_with_its_settings_or_force() -> None:
    other = {"added": ["app_processes.sender"], "removed": ["app_processes.mailer"], "changed": ["app_processes.beat"]}
    hosts = {
        "app1": host("dddd", "bbbb", commands={"bbbb": other, "cccc": {"added": ["app_schedules.never"]}}),
        "app2": host("dddd", "bbbb", commands={"bbbb": {"removed": ["app_processes.mailer"]}}),
    }
    assert history.rollback(hosts, "", force=False) == {
        "release": "",
        "version": "",
        "note": "",
        "problem": "Release bbbb served with other process types or schedules than the hosts have now: "
        "app_processes.mailer was removed since; app_processes.sender was added since (app1). A rollback keeps the "
        "hosts' settings. Check out the inventory of that release and add -e rollback_configure=true, which applies "
        "its settings, or keep the present ones with -e rollback_force=true.",
    }
    expected = {"release": "bbbb", "version": "b.0", "problem": ""}
    note = "It runs with the hosts' settings of now: app_processes.beat has another command since (app1)."
    assert history.rollback(hosts, "", force=True) == expected | {"note": note}
    assert history.rollback(hosts, "", force=False, configure=True) == expected | {"note": ""}
    # another command doesn't prevent a rollback
    hosts = {"app1": host("dddd", "bbbb", commands={"bbbb": {"changed": ["app_processes.beat"]}})}
    note = "It runs with the hosts' settings of now: app_processes.beat has another command since."
    assert history.rollback(hosts, "", force=False) == expected | {"note": note}


def test_process_types_are_compared_with_those_of_each_release(app: Application) -> None:
    def declare(path: pathlib.Path, **commands: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({name: {"command": command} for name, command in commands.items()}))

    declare(app.process_settings, worker="exec work", sender="exec send", silent="")
    declare(app.schedule_settings, cleanup="clean --all")
    same = {"app_processes.worker": "exec work", "app_processes.sender": "exec send", "app_processes.silent": "quiet"}
    recorded = {
        "aaaa": {"app_processes.worker": "exec work --slowly", "app_processes.mailer": "exec mail"},
        "bbbb": {**same, "app_schedules.cleanup": "clean"},
        "cccc": {**same, "app_schedules.cleanup": "clean --all"},
        "dddd": "damaged",
    }
    app.record.write_text(json.dumps({"commands": recorded}))
    assert history.command_changes(app, ["aaaa", "bbbb", "cccc", "dddd", "eeee"]) == {
        "aaaa": {
            "added": ["app_processes.sender", "app_processes.silent", "app_schedules.cleanup"],
            "removed": ["app_processes.mailer"],
            "changed": ["app_processes.worker"],
        },
        "bbbb": {"added": [], "removed": [], "changed": ["app_schedules.cleanup"]},
    }
    app.record.write_text("damaged")
    assert history.command_changes(app, ["aaaa"]) == {}


def test_one_change_of_several_hosts_is_one_row() -> None:
    row = make_entry("bbbb", when=10.0, who="ann@laptop", method="reload", seconds=2.0)
    other = {**row, "method": "bridge", "seconds": 4.5}
    later = make_entry("cccc", "reverted", when=20.0, reason="app1, handover: boom")
    text = history.table({"app1": [row, later], "app2": [other, later]})
    lines = text.splitlines()
    assert "cccc" in lines[1]
    assert "reload, bridge" in lines[2]
    assert "4.5 s" in lines[2]
    assert lines[2].endswith("app1, app2")
    assert lines[-1] == "Last failure: app1, handover: boom"


def test_empty_history_has_a_message() -> None:
    assert history.table({"app1": []}) == "Nothing has been deployed here yet."


def test_different_hosts_have_separate_rows_and_equal_ones_are_counted() -> None:
    row = make_entry("bbbb", when=10.0, who="ann@laptop")
    hosts = {f"app{number}": [row] for number in range(1, 7)}
    assert history.table(hosts).splitlines()[1].endswith("all 6")
    hosts["app2"] = [{**row, "result": "reverted"}]
    first, second = history.table(hosts).splitlines()[1:]
    assert first.endswith("app1, app3, app4, app5, app6")
    assert second.endswith("app2")


def test_failures_since_the_last_good_change_are_those_that_affected_the_site() -> None:
    good, bad = make_entry("aaaa", when=1.0), make_entry("bbbb", when=2.0, result="reverted")
    begun = make_entry("bbbb", when=9.0, result="begun")
    assert history.failures([bad, good]) == []
    assert history.failures([good, bad, {**bad, "when": 3.0, "result": "failed"}, begun]) == [2.0, 3.0]


@pytest.mark.parametrize("result", ["reverted", "failed"])
def test_failed_rollback_is_repeated_on_request(app: Application, result: str) -> None:
    for release in ("aaaa", "bbbb", "cccc", "dddd"):
        history.append(app, make_entry(release))
    history.append(app, make_entry("cccc", result, "rollback", previous="dddd"))
    assert allowed(app, "dddd") == ["cccc", "bbbb", "aaaa"]


def test_failed_redeploy_does_not_disqualify_an_earlier_release(app: Application) -> None:
    for release in ("aaaa", "bbbb", "cccc"):
        history.append(app, make_entry(release))
    history.append(app, make_entry("aaaa", "failed"))
    assert allowed(app, "cccc")[:2] == ["bbbb", "aaaa"]


def test_successful_rollback_across_a_blocking_migration_resets_it() -> None:
    entries = [make_entry("aaaa"), make_entry("bbbb", migrations="blocking"), make_entry("aaaa", "failed", "rollback")]
    assert history.blocking(entries, "bbbb", "aaaa") == ["bbbb"]
    entries += [make_entry("aaaa", "rolled back", "rollback"), make_entry("cccc")]
    assert history.blocking(entries, "cccc", "aaaa") == []


# changes that the history lacks because their controller was killed


def record(app: Application, *releases: str) -> None:
    """Write the host's record of releases, the last one first."""
    app.record.write_text(json.dumps({"served": releases}))


def test_release_of_a_killed_deploy_is_the_first_candidate(app: Application) -> None:
    history.append(app, make_entry("aaaa"))
    history.append(app, make_entry("cccc", previous="bbbb"))
    record(app, "cccc", "bbbb", "aaaa")
    assert allowed(app, "cccc") == ["bbbb", "aaaa"]


def test_releases_of_two_killed_deploys_are_both_candidates(app: Application) -> None:
    history.append(app, make_entry("aaaa"))
    record(app, "cccc", "bbbb", "aaaa")
    assert allowed(app, "cccc") == ["bbbb", "aaaa"]
    history.append(app, make_entry("dddd", previous="cccc"))
    record(app, "dddd", "cccc", "bbbb", "aaaa")
    assert allowed(app, "dddd") == ["cccc", "bbbb", "aaaa"]


def test_release_left_by_a_killed_rollback_is_no_candidate(app: Application) -> None:
    history.append(app, make_entry("aaaa"))
    history.append(app, make_entry("bbbb", previous="aaaa"))
    history.append(app, make_entry("cccc", previous="aaaa"))
    record(app, "cccc", "aaaa", "bbbb")
    assert allowed(app, "cccc") == ["aaaa"]
    assert rejected(app, "cccc") == {"bbbb": "a rollback replaced it", "dddd": "it never served here"}


def test_rolled_back_release_is_a_candidate_after_a_killed_redeploy(app: Application) -> None:
    history.append(app, make_entry("aaaa"))
    history.append(app, make_entry("bbbb", previous="aaaa"))
    history.append(app, make_entry("aaaa", "rolled back", "rollback", previous="bbbb"))
    history.append(app, make_entry("cccc", previous="bbbb"))
    record(app, "cccc", "bbbb", "aaaa")
    assert allowed(app, "cccc") == ["bbbb", "aaaa"]


@pytest.mark.parametrize("serves", ["aaaa", "bbbb", ""])
def test_failed_release_is_a_candidate_if_it_was_activated_since(app: Application, serves: str) -> None:
    history.append(app, make_entry("aaaa"))
    history.append(app, make_entry("bbbb", "failed", previous="aaaa", serves=serves))
    history.append(app, make_entry("cccc", previous="bbbb"))
    record(app, "cccc", "bbbb", "aaaa")
    # if its revert failed or the result is unknown, it may be in the record only because of that
    assert allowed(app, "cccc") == (["bbbb", "aaaa"] if serves == "aaaa" else ["aaaa"])


def test_release_that_never_proved_to_serve_is_no_candidate(app: Application) -> None:
    # the host crashed during the activation
    history.append(app, make_entry("aaaa"))
    history.append(app, make_entry("cccc", previous="bbbb"))
    record(app, "cccc", "aaaa")
    assert allowed(app, "cccc") == ["aaaa"]


def test_blocking_migration_before_a_killed_deploy_is_not_crossed() -> None:
    entries = [make_entry("aaaa", migrations="blocking"), make_entry("cccc", migrations="expand", previous="bbbb")]
    assert history.blocking(entries, "cccc", "bbbb", ["cccc", "bbbb", "aaaa"]) == []
    # the killed deploy's own migrations are unknown
    entries.append(make_entry("dddd", migrations="blocking", previous="cccc"))
    assert history.blocking(entries, "dddd", "bbbb", ["dddd", "cccc", "bbbb", "aaaa"]) == ["dddd"]
    assert history.blocking(entries, "dddd", "eeee", ["dddd", "cccc", "bbbb", "aaaa"]) == ["aaaa", "dddd"]


def test_failed_migration_may_be_later_than_a_killed_deploy() -> None:
    failed = make_entry("cccc", "failed", migrations="blocking")
    entries = [make_entry("aaaa"), failed, make_entry("dddd", migrations="expand", previous="bbbb")]
    assert history.blocking(entries, "dddd", "bbbb", ["dddd", "bbbb", "aaaa"]) == ["cccc"]


# receipts


def test_receipt_is_readable_only_by_root_and_leaves_no_other_file(app: Application) -> None:
    history.keep_receipt(app, "20251125T120000Z-shop-r1", "{}\n")
    history.keep_receipt(app, "20251125T120000Z-shop-r1", '{"format": 1}\n')
    (path,) = (app.state / "receipts").iterdir()
    assert path.name == "20251125T120000Z-shop-r1.json"
    assert path.read_text() == '{"format": 1}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_newest_twenty_receipts_are_kept(app: Application) -> None:
    for minute in range(23):
        history.keep_receipt(app, f"20251125T12{minute:02}00Z-shop-r1", "{}\n")
    names = sorted(path.name for path in (app.state / "receipts").iterdir())
    assert len(names) == 20
    assert names[0] == "20251125T120300Z-shop-r1.json"
    assert names[-1] == "20251125T122200Z-shop-r1.json"


# the version of Baton


def test_entry_has_the_version_of_baton(app: Application) -> None:
    history.append(app, make_entry("bbbb"))
    (entry,) = history.read(app)
    assert entry["baton"] == VERSION
    assert f" {VERSION} " in history.table({"app1": [entry]}).splitlines()[1]


def test_limits_match_the_docs() -> None:
    assert (history.MAX_LINES, history.SIZE, history.MAX_REASON) == (500, 16 * 1024 * 1024, 300)


def test_entry_without_a_release_has_no_version(app: Application) -> None:
    history.append(app, {"kind": "unlock"})
    history.append(app, make_entry("gone"))
    (app.release("aaaa") / "release.json").write_text("{}")
    history.append(app, make_entry("aaaa", reason=""))
    first, second, third = history.read(app)
    assert first == {"kind": "unlock", "baton": VERSION}
    assert (second["version"], third["version"], third["reason"]) == ("", "", "")


def test_history_is_readable_only_by_root(app: Application) -> None:
    history.append(app, {"number": 1})
    assert stat.S_IMODE((app.state / "history.jsonl").stat().st_mode) == 0o600


def test_writer_waits_for_another(app: Application) -> None:
    history.append(app, {"number": 1})
    with (app.state / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = threading.Thread(target=history.append, args=(app, {"number": 2}), daemon=True)
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
    writer.join(60)
    assert [entry["number"] for entry in history.read(app)] == [1, 2]


def test_invalid_fields_are_replaced_or_dropped(app: Application) -> None:
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
    (app.state / "history.jsonl").write_text("".join(f"{json.dumps(written)}\n" for written in lines))
    assert history.read(app) == [
        {"number": 5, "when": 0.0, "seconds": 0.0},
        dict.fromkeys(texts) | {"when": 10.5},
        {"release": "aaaa", "seconds": 2.0},
    ]


def test_failure_without_a_time_counts() -> None:
    assert history.failures([make_entry("aaaa", "failed")]) == [0.0]
    for result in ("deployed", "rolled back", "restarted", "configured"):
        assert history.failures([make_entry("aaaa", "failed"), make_entry("aaaa", result)]) == []


def test_report_of_a_host(app: Application) -> None:
    app.current.parent.mkdir(parents=True, exist_ok=True)
    app.current.symlink_to("releases/dddd")
    entries = [
        make_entry("bbbb", when=1.0),
        make_entry("cccc", when=2.0, migrations="blocking"),
        make_entry("dddd", when=3.0),
        make_entry("cccc", "failed", when=4.0),
    ]
    report = history.summary(app, entries)
    assert report == {
        "current": "dddd",
        "unfinished": [],
        "candidates": ["cccc", "bbbb", "aaaa"],
        "rollback_to": "cccc",
        "rollback_candidates": [
            {"release": "cccc", "version": "c.0", "when": 2.0, "why_not": ""},
            {"release": "bbbb", "version": "b.0", "when": 1.0, "why_not": ""},
            {"release": "aaaa", "version": "a.0", "when": None, "why_not": ""},
        ],
        "releases": ["aaaa", "bbbb", "cccc", "dddd"],
        "blocking": {"aaaa": ["cccc"], "bbbb": ["cccc"], "cccc": [], "dddd": []},
        "commands": {},
        "failures": [4.0],
    }


def test_report_of_a_host_with_processes_of_another_release(app: Application) -> None:
    app.current.parent.mkdir(parents=True, exist_ok=True)
    app.current.symlink_to("releases/cccc")
    app.process_settings.parent.mkdir(parents=True)
    app.process_settings.write_text(json.dumps({"worker": {"count": 1}}))
    processes = {"web": {"release": "cccc"}, "worker": {"release": "dddd"}}
    app.record.write_text(json.dumps({"served": ["cccc", "bbbb"], "processes": processes}))
    # killed before its end is recorded
    entries = [make_entry("bbbb"), make_entry("cccc"), make_entry("dddd", "begun", migrations="blocking")]
    report = history.summary(app, entries)
    assert (report["unfinished"], report["rollback_to"]) == (["worker"], "cccc")
    # the processes of dddd may need its migration
    assert report["blocking"]["cccc"] == ["dddd"]


def test_report_of_a_host_without_candidates(tmp_path: pathlib.Path) -> None:
    app = Application("links", str(tmp_path))
    app.release("aaaa").mkdir(parents=True)
    (app.release("aaaa") / "release.json").write_text("{}")
    app.release(".staging").mkdir()
    (app.release(".staging") / "release.json").write_text("{}")
    app.current.symlink_to("releases/aaaa")
    report = history.summary(app, [])
    assert (report["rollback_to"], report["candidates"], report["releases"]) == (None, [], ["aaaa"])


def test_rollback_to_a_release_that_was_rolled_back_from() -> None:
    releases = ["aaaa", "bbbb", "cccc"]
    entries = [make_entry(release) for release in releases]
    entries.append(make_entry("aaaa", "rolled back", "rollback", previous="cccc"))
    host = history.rank_releases(entries, [], releases, "aaaa")
    assert host == {"bbbb": "a rollback replaced it", "cccc": "a rollback replaced it"}
    # forward again by name: only the releases below it are candidates
    entries.append(make_entry("cccc", "rolled back", "rollback", previous="aaaa"))
    host = history.rank_releases(entries, [], releases, "cccc")
    assert host == {"aaaa": "", "bbbb": "a rollback replaced it"}


def test_rollback_to_a_release_of_the_record_disqualifies_the_one_it_leaves() -> None:
    entries = [make_entry("bbbb"), make_entry("aaaa", "rolled back", "rollback", previous="bbbb")]
    assert history.rank_releases(entries, ["aaaa", "bbbb"], ["aaaa", "bbbb"], "aaaa") == {
        "bbbb": "a rollback replaced it"
    }


def test_equal_rows_are_merged_with_all_ways_and_the_longest_time() -> None:
    row = {**make_entry("bbbb", when=10.0, method="reload"), "seconds": 2.0, "who": "ann@laptop"}
    hosts = {
        "app1": [row],
        "app2": [{**row, "method": "none", "seconds": 1.0}],
        "app3": [{**row, "method": "bridge", "seconds": 3.0}],
        "app4": [{**row, "method": "reload"}, {**make_entry("cccc", when=11.0), "method": None}],
    }
    newest, oldest = history.merged(hosts)
    assert (newest["hosts"], newest["methods"], newest["seconds"]) == (["app4"], [], 0.0)
    assert oldest["hosts"] == ["app1", "app2", "app3", "app4"]
    assert (oldest["methods"], oldest["seconds"]) == (["reload", "bridge"], 3.0)
    other = [{**row, name: "another"} for name in ("token", "kind", "release", "result", "reason")]
    assert len(history.merged({"app1": [row, *other]})) == 6


def test_change_of_settings_names_its_process_types() -> None:
    def methods(row: dict[str, Any], *others: dict[str, Any]) -> str:
        hosts = {f"app{number}": [one] for number, one in enumerate((row, *others))}
        (merged,) = history.merged(hosts)
        return history._cells(merged, list(hosts))[6]

    row = {**make_entry("bbbb", kind="configure", previous="bbbb"), "method": "none", "processes": "overlap worker"}
    assert methods(row) == "overlap worker"
    assert methods(row, {**row, "method": "replace", "processes": "replace beat, overlap worker"}) == (
        "overlap worker, replace beat"
    )
    assert methods({**row, "method": "reload"}) == "reload, overlap worker"
    # these replace all types
    assert methods({**row, "method": "reload", "previous": "aaaa", "kind": "deploy"}) == "reload"
    assert methods({**row, "method": "reload", "kind": "restart"}) == "reload"
    # of an earlier version
    assert methods({key: one for key, one in row.items() if key != "processes"}) == "-"


def test_table_of_a_fleet() -> None:
    row = {**make_entry("bbbb", when=1764072000.0, method="reload", version="b.0"), "seconds": 2.0, "who": "ann@laptop"}
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


def test_table_shows_the_newest_rows_up_to_a_limit() -> None:
    rows = [make_entry(f"r{number:02}", when=float(number)) for number in range(25)]
    lines = history.table({"app1": rows}).splitlines()
    assert len(lines) == 1 + 20
    assert "r24" in lines[1]
    assert len(history.table({"app1": rows}, 3).splitlines()) == 1 + 3
    # the failure that is shown is the newest
    rows = [make_entry("aaaa", "failed", when=float(number), reason=f"reason {number}") for number in range(3)]
    assert history.table({"app1": rows}).endswith("\n\nLast failure: reason 2")


def test_fleet_without_a_current_release_uses_a_common_one() -> None:
    hosts = {"app1": host("", "bbbb"), "app2": {**host("cccc", "bbbb"), "current": None}}
    assert history.rollback(hosts, "", force=False)["release"] == "bbbb"
    same = {"app1": host("dddd"), "app2": host("dddd")}
    assert history.rollback(same, "", force=False)["release"] == ""


def test_rollback_messages_in_full() -> None:
    hosts = {
        "app1": host("dddd", "bbbb", "aaaa", blocking={"bbbb": ["dddd", "cccc"]}),
        "app2": host("dddd", "bbbb", blocking={"bbbb": ["cccc"]}),
    }
    assert history.rollback(hosts, "", force=False) == {
        "release": "",
        "version": "",
        "note": "",
        "problem": "A rollback to bbbb crosses the blocking migration of cccc, dddd: that release no longer fits the "
        "database. Undo the migration first, then add -e rollback_force=true.",
    }
    unnamed = host("dddd", "bbbb")
    unnamed["rollback_candidates"] = [{"release": "bbbb", "version": "", "why_not": ""}]
    found = history.rollback({"app1": unnamed}, "", force=False)
    assert found == {"release": "bbbb", "version": "", "note": "", "problem": ""}
    problem = history.rollback({"app1": {**unnamed, "releases": []}}, "eeee", force=False)["problem"]
    assert (
        problem == "Release eeee is not complete on app1. Other complete releases on every host: bbbb (it served well)."
    )
    bare = {**unnamed, "rollback_candidates": []}
    problem = history.rollback({"app1": bare, "app2": bare}, "eeee", force=False)["problem"]
    assert problem == "Release eeee is not complete on app1, app2. Other complete releases on every host: none."
