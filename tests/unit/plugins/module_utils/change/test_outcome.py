"""The messages about a change of the fleet: causes of failures, and the outcome of each host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.change import outcome

HOSTS = ["app1", "app2", "app3"]
# every reachable host reports this if something failed
UNTOUCHED = {"revert": {"changed": False, "method": "none", "release": "aaaa"}}
ACTIVATED = {"changed": True, "method": "reload", "seconds": 3.2, "started": 5.0, "previous": "aaaa", "release": "bbbb"}


PARTS = ("outcome", "rehearsal", "activation", "processes", "ends", "revert", "traffic", "finish")
OUTPUTS = {part: part for part in PARTS}


def results(active: Any = HOSTS, /, **parts_by_host: Any) -> dict[str, dict[str, Any]]:
    """The result of each host. `failure` and `revert_error` become part of its outcome."""
    hostvars = {}
    for host in HOSTS:
        parts = dict(parts_by_host.get(host, {}))
        outcome_of_host = {key: parts.pop(key) for key in ("failure", "revert_error") if key in parts}
        hostvars[host] = parts | {"outcome": outcome_of_host}
    return outcome.results(HOSTS, hostvars, OUTPUTS, active)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"msg": "no space", "failed": True}, "no space"),
        ({"msg": "non-zero return code", "stderr": "E: no such package"}, "non-zero return code\nE: no such package"),
        ({"msg": "One or more items failed", "results": [{"msg": "fine"}, {"msg": "bad", "failed": True}]}, "bad"),
        ({"msg": ["a is 1", "b is 2\x1b[2J"], "failed": True}, "a is 1\nb is 2\\x1b[2J"),
        ({"msg": [], "failed": True}, "it failed without a message"),
        ({}, "it failed without a message"),
    ],
)
def test_failure_message_is_taken_from_what_failed(result: dict[str, Any], words: str) -> None:
    assert outcome.failure(result) == words


def test_host_that_became_unreachable_is_a_failure() -> None:
    noted = results(["app1", "app3"], app1={"failure": {"step": "staging", "message": "no space"}})
    assert outcome.failures(noted) == {
        "app1": {"step": "staging", "message": "no space"},
        "app2": {"step": "connection", "message": "it can't be reached"},
    }


@pytest.mark.parametrize(
    ("wanted", "count", "sizes"),
    [
        ([1, "25%", "100%"], 1, [1]),
        ([1, "25%", "100%"], 3, [1, 1, 1]),
        ([1, "25%", "100%"], 8, [1, 2, 5]),
        ([2], 5, [2, 2, 1]),
        (["30%"], 10, [3, 3, 3, 1]),
        ([1, 0], 4, [1, 3]),
        ("50%", 4, [2, 2]),
        (1, 0, [0]),
    ],
)
def test_batch_sizes_are_calculated_as_ansible_does(wanted: Any, count: int, sizes: list[int]) -> None:
    assert outcome.batch_sizes(wanted, count) == sizes


REHEARSED = {"rehearsal": {"rehearsed": True}}
SKIPPED = {"rehearsal": {"skipped": True}}
FAILED = {"failure": {"step": "rehearsal", "message": "no ledger"}}


@pytest.mark.parametrize(
    ("variables", "rest"),
    [
        ({"app1": REHEARSED, "app2": SKIPPED}, ["app2"]),
        ({"app1": SKIPPED, "app2": SKIPPED}, []),  # not rehearsed, because a host failed or rehearsals are off
        ({"app1": FAILED, "app2": SKIPPED}, []),
        ({}, []),
    ],
)
def test_rest_of_the_first_batch_is_rehearsed_after_the_first_host(variables: dict[str, Any], rest: list[str]) -> None:
    assert outcome.rehearsed_first(results(**variables), 2) == rest


@pytest.mark.parametrize(
    ("variables", "later"),
    [
        ({"app1": {"activation": ACTIVATED}}, ["app2", "app3"]),
        ({"app1": {"activation": {"changed": False, "method": "none"}}}, ["app2", "app3"]),
        ({"app1": {"activation": {"skipped": True}}}, []),
        ({"app1": {"activation": {"failed": True}, **FAILED}}, []),
        # a host of a later batch failed its rehearsal
        ({"app1": {"activation": ACTIVATED}, "app3": FAILED}, []),
    ],
)
def test_later_batches_need_an_activated_first_batch_and_all_rehearsals(
    variables: dict[str, Any], later: list[str]
) -> None:
    assert outcome.later_hosts(results(**variables), 1) == later


def test_up_to_date_host_is_not_drained() -> None:
    variables = results(
        app1={"rehearsal": {"rehearsed": False}},
        app2={**SKIPPED, "activation": {"rehearsed": False}},
        app3={**SKIPPED, "activation": {"rehearsed": True}},
    )
    assert outcome.outdated(variables) == ["app3"]
    # rehearsals are off
    assert outcome.outdated(results(app1=SKIPPED)) == HOSTS


def test_activated_hosts_are_those_that_changed() -> None:
    found = results(app1={"activation": ACTIVATED}, app2={"activation": {"changed": False}})
    assert outcome.activated(found) == ["app1"]


WORKERS = {
    "worker": {
        "method": "overlap",
        "started": ["shop-worker@2-1.service"],
        "stopped": [],
        "seconds": 5.2,
        "pids": {"shop-worker@2-1.service": 402},
    }
}
STARTED = {"method": "overlap", "started": 1, "stopped": 0, "seconds": 5.2, "new": [402], "old": []}


def test_change_of_background_processes_alone_is_a_change() -> None:
    unchanged = {"changed": False, "method": "none", "release": "aaaa", "previous": "aaaa"}
    found = results(
        app1={"activation": unchanged, "processes": {"changed": True, "processes": WORKERS}},
        app2={"activation": unchanged, "processes": {"changed": False, "processes": {}}},
    )
    assert outcome.activated(found) == []
    assert outcome.changed(found) == ["app1"]
    assert outcome.conclusion({**CHANGE, "began": 1.0, "now": 2.0}, RUN, found)["happened"]
    hosts = outcome.hosts(found)
    assert hosts["app1"]["processes"] == {"worker": STARTED}
    assert hosts["app2"]["processes"] == {}


def test_processes_of_both_parts_are_listed_whatever_a_host_reports() -> None:
    beat = {
        "beat": {
            "method": "replace",
            "started": ["b1"],
            "stopped": ["b0"],
            "seconds": "6",
            "pids": {"b0": 7, "b1": "8"},
        }
    }
    found = results(
        app1={"activation": {**ACTIVATED, "processes": beat}, "processes": {"changed": True, "processes": WORKERS}},
        app2={
            "activation": {**ACTIVATED, "processes": ["x"]},
            "processes": {"processes": {"worker": "many"}},
            "ends": {"ends": ["x"]},
        },
    )
    hosts = outcome.hosts(found)
    assert list(hosts["app1"]["processes"]) == ["worker", "beat"]
    unknown = {"pid": 7, "state": "", "seconds": 0.0}
    stopped = {"method": "replace", "started": 1, "stopped": 1, "seconds": 0.0, "new": [0], "old": [unknown]}
    assert hosts["app1"]["processes"]["beat"] == stopped
    nothing = {"method": "", "started": 0, "stopped": 0, "seconds": 0.0, "new": [], "old": []}
    assert hosts["app2"]["processes"] == {"worker": nothing}


def test_ends_of_old_processes_are_listed() -> None:
    first, second = (f"shop-worker@1-{number}.service" for number in (1, 2))
    stopped = {"method": "overlap", "started": [], "stopped": [first, second], "pids": {first: 4, second: 5}}
    processes = {
        "worker": {**stopped, "stop_requested": 1764072000.5},
        "new": WORKERS["worker"],
        "odd": {"stopped": "x"},
    }
    result = results(app1={"processes": {"changed": True, "processes": processes}})["app1"]
    assert outcome.stopped_processes(result) == {"worker": {"stopped": [first, second], "stop_requested": 1764072000.5}}
    ends = {first: {"state": "drained", "seconds": 4.3}, second: {"state": "killed", "seconds": 30.0}}
    listed = outcome.processes({**result, "ends": {"ends": ends}})
    assert listed["worker"]["old"] == [
        {"pid": 4, "state": "drained", "seconds": 4.3},
        {"pid": 5, "state": "killed", "seconds": 30.0},
    ]


def test_hosts_with_started_or_stopped_processes_are_listed() -> None:
    new, old = "links-worker@2-1.service", "links-worker@1-1.service"
    known = results(
        app1={"processes": {"processes": {"worker": {"started": [new], "stopped": []}}}},
        app2={"activation": {"processes": {"worker": {"started": [], "stopped": [old]}}}},
        # a timer is no process, and the other values aren't of these types
        app3={
            "processes": {"processes": {"worker": {"started": "x", "stopped": 5}}},
            "activation": {"processes": {"cleanup": {"started": ["links-cleanup.timer"], "stopped": []}}},
        },
    )
    assert {name: outcome.started_processes(result) for name, result in known.items() if name != "app2"} == {
        "app1": [new],
        "app3": [],
    }
    assert outcome.replaced_on(known) == ["app1", "app2"]


def test_activation_ends_with_the_last_host() -> None:
    activated = results(app1={"activation": {"ended": 5.5}}, app3={"activation": {"ended": 4.0}})
    assert outcome.activation_end(activated) == 5.5
    reverted = results(app1={"activation": {"ended": 5.5}, "revert": {"ended": 9.0}}, app3={"revert": {"ended": 8.0}})
    assert outcome.activation_end(reverted) == 9.0
    assert outcome.activation_end(results(app1={}, app3={"revert": {"unreachable": True}})) == 0


def test_outcome_of_each_host_is_listed() -> None:
    variables = results(
        app1={
            "activation": ACTIVATED,
            "revert": {"changed": True, "method": "reload", "release": "aaaa"},
        },
        app2={"activation": {"failed": True}, "revert": {"changed": False, "release": "aaaa"}},
        app3={"activation": ACTIVATED, "revert": {"unreachable": True}},
    )
    hosts = outcome.hosts(variables)
    assert hosts["app1"] == {
        "method": "reload",
        "seconds": 3.2,
        "started": 5.0,
        "previous": "aaaa",
        "release": "aaaa",
        "reverted": True,
        "processes": {},
        "problem": "",
    }
    assert (hosts["app2"]["method"], hosts["app2"]["release"], hosts["app2"]["reverted"]) == ("none", "aaaa", False)
    assert "unknown" in hosts["app3"]["problem"]


def test_summary_names_cause_and_outcome() -> None:
    variables = results(
        app1={"activation": ACTIVATED, "revert": {"changed": True, "release": "aaaa"}},
        app2={
            "failure": {"step": "handover", "message": "Release bbbb could not be activated (reload): boom"},
            **UNTOUCHED,
        },
        app3=UNTOUCHED,
    )
    found = outcome.failures(variables)
    hosts = outcome.hosts(variables)
    assert outcome.summary("The deploy of links bbbb", found, hosts) == (
        "The deploy of links bbbb failed.\n"
        "app2, handover: Release bbbb could not be activated (reload): boom\n"
        "Fix the cause, then run this again; playbooks/logs.yml shows more of the application's output.\n"
        "Serving as before the change: app1, app2, app3; reverted: app1."
    )


@pytest.mark.parametrize(("step", "words"), outcome.NEXT.items())
def test_failure_of_each_step_names_the_next_action(step: str, words: str) -> None:
    variables = results(
        app2={"failure": {"step": step, "message": "boom"}, **UNTOUCHED}, app1=UNTOUCHED, app3=UNTOUCHED
    )
    found = outcome.failures(variables)
    assert words in outcome.summary("It", found, outcome.hosts(variables)).splitlines()


def test_interrupted_run_is_not_told_to_fix_anything() -> None:
    failure = {"failure": {"step": "handover", "message": outcome.INTERRUPTED}, **UNTOUCHED}
    variables = results(app1=failure, app2=UNTOUCHED, app3=UNTOUCHED)
    found = outcome.failures(variables)
    assert "Fix the cause" not in outcome.summary("It", found, outcome.hosts(variables))


def test_host_that_failed_after_its_activation_is_named() -> None:
    message = outcome.failed_after_commit(results(app1={"finish": {"trouble": ""}}, app2={"finish": {}}))
    assert message == ""
    message = outcome.failed_after_commit(results(app2={"finish": {"trouble": "worker 7 is gone"}}))
    assert message.startswith("app2 was activated, but doesn't serve as it should now: worker 7 is gone.\n")
    assert "playbooks/rollback.yml" in message


def test_failed_first_release_leaves_no_release() -> None:
    reverted = {"activation": ACTIVATED, "revert": {"changed": True, "release": None}}
    variables = results(
        app1={**reverted, "failure": {"step": "handover", "message": "boom"}}, app2=reverted, app3=reverted
    )
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert words.endswith("Without a release, as before the change: app1, app2, app3.")


def test_failed_new_host_is_not_listed_as_serving() -> None:
    reverted = {"activation": ACTIVATED, "revert": {"changed": True, "release": None}}
    variables = results(
        app1=UNTOUCHED, app2=UNTOUCHED, app3={**reverted, "failure": {"step": "handover", "message": "boom"}}
    )
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert words.endswith(
        "Serving as before the change: app1, app2; nothing was activated there.\n"
        "Without a release, as before the change: app3."
    )


def test_same_cause_is_shown_once() -> None:
    failure = {"failure": {"step": "staging", "message": "the disk is full"}, **UNTOUCHED}
    variables = results(app1=failure, app2=UNTOUCHED, app3=failure)
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert "app1, app3, staging: the disk is full" in words
    assert "nothing was activated there" in words


def test_host_that_could_not_be_reverted_is_named() -> None:
    failed = {"activation": ACTIVATED, "revert_error": "bbbb could not be activated: full"}
    variables = results(app1=failed, app2=UNTOUCHED, app3=UNTOUCHED)
    words = outcome.summary("It", {}, outcome.hosts(variables))
    assert "app1: bbbb could not be activated: full." in words
    assert "Serving as before the change: app2, app3" in words


CHANGE = {"kind": "deploy", "application": "links", "release": "bbbb", "version": "v2", "migrations": "expand"}
RUN = {"who": "ann@laptop", "token": "t"}


def test_conclusion_of_a_good_change() -> None:
    variables = results(app1={"activation": ACTIVATED})
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert end["happened"]
    assert end["summary"] == ""
    assert end["deploy"]["result"] == "deployed"
    assert (end["deploy"]["who"], end["deploy"]["where"], end["deploy"]["previous"]) == ("ann", "laptop", "aaaa")
    assert end["entries"]["app1"]["method"] == "reload"
    assert end["entries"]["app2"]["method"] == "none"
    assert end["serves"] == {"app1": "bbbb"}


def test_history_of_a_host_names_its_own_release() -> None:
    """After an interrupted change, hosts may serve different releases."""
    other = {"activation": {**ACTIVATED, "previous": "aaaa", "release": "aaaa"}}
    change = {**CHANGE, "kind": "restart", "release": "", "began": 1.0, "now": 9.0}
    entries = outcome.conclusion(change, RUN, results(app1={"activation": ACTIVATED}, app2=other))["entries"]
    # of app3, nothing is known
    assert [entries[f"app{number}"]["release"] for number in (1, 2, 3)] == ["bbbb", "aaaa", "bbbb"]


def test_history_names_the_background_types_that_changed() -> None:
    started = {"changed": True, "method": "overlap", "release": "bbbb", "previous": "bbbb"}
    parts = {"processes": {**started, "processes": {"worker": {"method": "overlap", "started": ["a"]}}}}
    unchanged = {"activation": {"changed": False, "method": "none", "release": "bbbb", "previous": "bbbb"}}
    change = {**CHANGE, "kind": "configure", "release": "", "began": 1.0, "now": 9.0}
    entries = outcome.conclusion(change, RUN, results(app1=parts | unchanged, app2=unchanged))["entries"]
    assert [entries[host]["processes"] for host in ("app1", "app2")] == ["overlap worker", ""]


def test_change_without_effect_did_not_happen() -> None:
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 2.0}, RUN, results())
    assert not end["happened"]
    assert end["unchanged"] == ""  # nothing is known of these hosts


def test_release_that_already_runs_is_reported() -> None:
    same = {"activation": {"changed": False, "release": "bbbb"}}
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 2.0}, RUN, results(app1=same, app2=same, app3=same))
    assert end["unchanged"] == "Nothing to hand over: release bbbb (v2) already runs on app1, app2, app3."
    started = {"activation": same["activation"], "processes": {"changed": True}}
    change = {**CHANGE, "version": "", "began": 1.0, "now": 2.0}
    assert outcome.conclusion(change, RUN, results(app1=same, app2=started))["unchanged"] == ""
    end = outcome.conclusion(change, RUN, results(app1=same))
    assert end["unchanged"] == "Nothing to hand over: release bbbb already runs on app1."


@pytest.mark.parametrize(("changed", "result"), [(True, "reverted"), (False, "failed")])
def test_result_of_a_failed_change_depends_on_the_revert(changed: bool, result: str) -> None:
    variables = results(
        app1={"activation": ACTIVATED, "revert": {"changed": changed, "release": "aaaa"}},
        app2={"failure": {"step": "handover", "message": "boom"}},
    )
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert end["deploy"]["result"] == result
    assert end["serves"] == {}
    assert end["entries"]["app3"]["reason"] == "app2, handover: boom"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "it did not boot. It logged last:\nTraceback\nKeyError: 1\nm.DbError: no\n  ^^^\nbye",
            "it did not boot: m.DbError: no",
        ),
        (
            "it did not boot. It logged last:\nWorker (pid:7) failed: OSError: full\nbye",
            "it did not boot: OSError: full",
        ),
        ("unit failed. It logged last:\nFATAL: no such table", "unit failed."),
        ("unit failed. It logged last:", "unit failed."),
        ("no space.\nRuntimeError: of another host", "no space."),
    ],
)
def test_history_gets_the_first_cause_in_one_line(message: str, reason: str) -> None:
    variables = results(
        app1={"failure": {"step": "rehearsal", "message": message}},
        app2={"failure": {"step": "rehearsal", "message": "boom\nValueError: of the second host"}},
    )
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert {entry["reason"] for entry in end["entries"].values()} == {f"app1, rehearsal: {reason}"}
    assert message in end["summary"]


@pytest.mark.parametrize(
    ("step", "ran"), [("staging", ""), ("migration", "expand"), ("rehearsal", "expand"), ("handover", "expand")]
)
def test_only_a_migration_that_may_have_run_is_recorded(step: str, ran: str) -> None:
    variables = results(app2={"failure": {"step": step, "message": "boom"}})
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert {entry["migrations"] for entry in end["entries"].values()} == {ran}


@pytest.mark.parametrize(
    ("kind", "migrations", "step", "mentioned"),
    [
        ("deploy", "blocking", "rehearsal", True),
        ("deploy", "blocking", "handover", True),
        ("deploy", "blocking", "staging", False),
        ("deploy", "expand", "handover", False),
        ("rollback", "blocking", "handover", False),
    ],
)
def test_blocking_migration_is_mentioned_if_the_previous_release_still_serves(
    kind: str, migrations: str, step: str, mentioned: bool
) -> None:
    variables = results(app2={"failure": {"step": step, "message": "boom"}})
    change = {**CHANGE, "kind": kind, "migrations": migrations, "began": 1.0, "now": 9.0}
    end = outcome.conclusion(change, RUN, variables)
    assert ("The blocking migration of bbbb may have run" in end["summary"]) is mentioned


def test_hosts_with_different_releases_are_listed() -> None:
    # the canary of a killed run has the new release, and this run didn't touch it
    variables = results(
        app1={"revert": {"changed": False, "method": "none", "release": "bbbb"}},
        app2={**UNTOUCHED, "failure": {"step": "handover", "message": "boom"}},
        app3=UNTOUCHED,
    )
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert "The hosts serve different releases: app1 bbbb; app2, app3 aaaa." in words


def test_traffic_is_read_from_shared_or_own_loops() -> None:
    shared = {"traffic": {"results": [{"item": "edge1", "windows": {}}]}}
    assert list(outcome.traffic(results(**dict.fromkeys(HOSTS, shared)))) == ["edge1"]
    own = {host: {"traffic": {"results": [{"item": host}]}} for host in HOSTS}
    assert list(outcome.traffic(results(**own))) == HOSTS
    assert outcome.traffic(results(app1={"traffic": {"skipped": True}})) == {}


def test_failure_is_recorded_with_its_first_step_and_all_messages() -> None:
    first = outcome.record_failure({}, "handover", {"msg": "boom"})
    assert first == {"failure": {"step": "handover", "message": "boom"}}
    both = outcome.record_failure(first, "edges", {"msg": "edge1 is down"})
    assert both == {"failure": {"step": "handover", "message": "boom\nedge1 is down"}}
    failed = outcome.record_failure(both, "revert", {"msg": "full"})
    assert failed == {**both, "revert_error": "full"}


def test_host_variables_are_read_once_and_untemplated() -> None:
    """Reading a host's variables is expensive, and templating them even more so."""

    class HostVars(dict[str, Any]):
        reads = 0

        def raw_get(self, host: str) -> Any:
            self.reads += len([host])
            return {"app_service_activated": {"changed": True}, "baton_outcome": {}}

    hostvars = HostVars()
    found = outcome.results(["app1"], hostvars, {"activation": "app_service_activated", "outcome": "baton_outcome"})
    assert (outcome.activated(found), outcome.failures(found), hostvars.reads) == (["app1"], {}, 1)


def test_failed_activation_fails_its_batch() -> None:
    failed = {"activation": {"failed": True}}
    assert outcome.activation_failed(results(app1={"activation": ACTIVATED}, app2=failed)) == ["app2"]


def test_hosts_that_could_not_be_reverted_are_listed() -> None:
    assert outcome.revert_failed(results(app2={"revert_error": "full"})) == ["app2"]


def test_similar_failures_of_several_hosts_are_shown_once() -> None:
    message = "{}: it did not boot. It logged last:\n2026-01-01T00:00:0{}.1Z [{}] Traceback\nValueError: no"
    found = {
        "app1": {"step": "rehearsal", "message": message.format("app1", 1, 17)},
        "app10": {"step": "rehearsal", "message": message.format("app10", 2, 18)},
        "app2": {"step": "rehearsal", "message": message.format("app2", 3, 19).replace(": no", ": yes")},
    }
    words = outcome.summary("The deploy of links", found, {})
    assert words.count("ValueError: no") == 1
    assert "app1, app10, rehearsal: it did not boot" in words
    assert "app2, rehearsal: it did not boot" in words
    assert "ValueError: yes" in words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("ImportError: libpq.so.5: cannot open shared object file: No such file", "libpq.so.5 is a library of the dis"),
        ("OSError: libGL.so.1: cannot open shared object file", "python_runtime_packages"),
        ('psycopg.errors.InsufficientPrivilege: permission denied to create extension "postgis"', "[postgis]"),
        (
            r"'permission denied to create extension \"pg_trgm\"'",
            "Add `extensions: [pg_trgm]` to the database in postgresql_server_databases",
        ),
        ('extension "vector" is not available', "no extension vector"),
        ('could not open extension control file "/usr/share/x/extension/vector.control": No', "no extension vector"),
    ],
)
def test_failure_names_the_setting_that_fixes_it(message: str, words: str) -> None:
    found = {host: {"step": "migration", "message": f"Traceback\n{message}"} for host in ("app1", "app2")}
    summary = outcome.summary("The deploy of links", found, {})
    assert summary.count(words) == 1
    assert outcome.advice("ValueError: no") == []


WORDS = ["a", "-", ".so", "1", '"', "pid=", "extension control file ", 'extension \\"', "sh: 1: ", "'/opt/"]
WORDS.append("2026-01-01T:")


@pytest.mark.parametrize("word", WORDS)
def test_long_output_is_processed_in_linear_time(word: str) -> None:
    """Quadratic time would mean hours here."""
    output = word * (1_000_000 // len(word))
    assert outcome.advice(output) == []
    assert outcome.normalized("app1", output)
    assert outcome.advice(f"{output}\nsh: 1: celry: not found")


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        (
            "MemoryError: Cannot allocate write+execute memory for ffi.callback().",
            "app_service_memory_deny_write_execute",
        ),
        ("cannot allocate executable memory. This may be due to", "app_service_memory_deny_write_execute"),
        ("OSError: [Errno 30] Read-only file system: '/opt/links/releases/a/src/uploads'", "app_release_state_links"),
    ],
)
def test_refusal_by_the_sandbox_names_its_setting(message: str, setting: str) -> None:
    (advice,) = outcome.advice(message)
    assert setting in advice


@pytest.mark.parametrize(
    "message", ["sh: 1: exec: celry: not found", "sh: 1: celry: not found", "sh: 1: celry: Permission denied"]
)
def test_missing_command_names_the_setting(message: str) -> None:
    (advice,) = outcome.advice(f"shop-worker@2-1.service ended at once. It logged last:\n{message}")
    assert advice.startswith("Neither the release nor the host has a program celry")
    assert "app_processes" in advice
