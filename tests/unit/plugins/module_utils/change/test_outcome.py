"""What a change of the fleet tells of itself: the causes, and what each host ends with."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.change import outcome

HOSTS = ["app1", "app2", "app3"]
# what every host that can be reached is asked when something failed
ASKED = {"revert": {"changed": False, "method": "none", "release": "aaaa"}}
SWITCHED = {"changed": True, "method": "reload", "seconds": 3.2, "started": 5.0, "previous": "aaaa", "release": "bbbb"}


PARTS = ("outcome", "rehearsal", "activation", "processes", "ends", "revert", "traffic", "finish")
OUTPUTS = {part: part for part in PARTS}


def results(active: Any = HOSTS, /, **told: Any) -> dict[str, dict[str, Any]]:
    """What each host hands on; a failure and an error of the revert are those of its outcome."""
    hostvars = {}
    for host in HOSTS:
        parts = dict(told.get(host, {}))
        outcome_of_host = {key: parts.pop(key) for key in ("failure", "revert_error") if key in parts}
        hostvars[host] = parts | {"outcome": outcome_of_host}
    return outcome.results(HOSTS, hostvars, OUTPUTS, active)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"msg": "no space", "failed": True}, "no space"),
        ({"msg": "non-zero return code", "stderr": "E: no such package"}, "non-zero return code\nE: no such package"),
        ({"msg": "One or more items failed", "results": [{"msg": "fine"}, {"msg": "bad", "failed": True}]}, "bad"),
        ({}, "it failed without a message"),
    ],
)
def test_a_failure_is_told_by_what_failed(result: dict[str, Any], words: str) -> None:
    assert outcome.failure(result) == words


def test_a_host_that_went_away_is_trouble() -> None:
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
def test_batches_are_counted_as_ansible_does(wanted: Any, count: int, sizes: list[int]) -> None:
    assert outcome.batch_sizes(wanted, count) == sizes


REHEARSED = {"rehearsal": {"rehearsed": True}}
SKIPPED = {"rehearsal": {"skipped": True}}
TROUBLE = {"failure": {"step": "rehearsal", "message": "no ledger"}}


@pytest.mark.parametrize(
    ("variables", "rest"),
    [
        ({"app1": REHEARSED, "app2": SKIPPED}, ["app2"]),
        ({"app1": SKIPPED, "app2": SKIPPED}, []),  # not asked, as a host is in trouble, or rehearsals are off
        ({"app1": TROUBLE, "app2": SKIPPED}, []),
        ({}, []),
    ],
)
def test_who_goes_with_the_first_host_is_rehearsed_after_it(variables: dict[str, Any], rest: list[str]) -> None:
    assert outcome.rehearsed_first(results(**variables), 2) == rest


@pytest.mark.parametrize(
    ("variables", "later"),
    [
        ({"app1": {"activation": SWITCHED}}, ["app2", "app3"]),
        ({"app1": {"activation": {"changed": False, "method": "none"}}}, ["app2", "app3"]),
        ({"app1": {"activation": {"skipped": True}}}, []),
        ({"app1": {"activation": {"failed": True}, **TROUBLE}}, []),
        # one that is handed over much later would not have been well
        ({"app1": {"activation": SWITCHED}, "app3": TROUBLE}, []),
    ],
)
def test_nobody_follows_before_the_first_batch_serves_and_all_are_rehearsed(
    variables: dict[str, Any], later: list[str]
) -> None:
    assert outcome.later_hosts(results(**variables), 1) == later


def test_who_serves_already_what_it_is_to_is_not_drained_for_it() -> None:
    variables = results(
        app1={"rehearsal": {"rehearsed": False}},
        app2={**SKIPPED, "activation": {"rehearsed": False}},
        app3={**SKIPPED, "activation": {"rehearsed": True}},
    )
    assert outcome.outdated(variables) == ["app3"]
    # rehearsals are off
    assert outcome.outdated(results(app1=SKIPPED)) == HOSTS


def test_who_was_handed_over_is_who_changed() -> None:
    handed = results(app1={"activation": SWITCHED}, app2={"activation": {"changed": False}})
    assert outcome.activated(handed) == ["app1"]


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


def test_a_change_of_background_processes_alone_is_a_change() -> None:
    unchanged = {"changed": False, "method": "none", "release": "aaaa", "previous": "aaaa"}
    found = results(
        app1={"activation": unchanged, "processes": {"changed": True, "processes": WORKERS}},
        app2={"activation": unchanged, "processes": {"changed": False, "processes": {}}},
    )
    assert outcome.activated(found) == []
    assert outcome.changed(found) == ["app1"]
    assert outcome.conclusion({**CHANGE, "began": 1.0, "now": 2.0}, RUN, found)["happened"]
    told = outcome.hosts(found)
    assert told["app1"]["processes"] == {"worker": STARTED}
    assert told["app2"]["processes"] == {}


def test_the_processes_of_both_parts_are_told_whatever_a_host_says() -> None:
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
        app1={"activation": {**SWITCHED, "processes": beat}, "processes": {"changed": True, "processes": WORKERS}},
        app2={
            "activation": {**SWITCHED, "processes": ["x"]},
            "processes": {"processes": {"worker": "many"}},
            "ends": {"ends": ["x"]},
        },
    )
    told = outcome.hosts(found)
    assert list(told["app1"]["processes"]) == ["worker", "beat"]
    unknown = {"pid": 7, "state": "", "seconds": 0.0}
    stopped = {"method": "replace", "started": 1, "stopped": 1, "seconds": 0.0, "new": [0], "old": [unknown]}
    assert told["app1"]["processes"]["beat"] == stopped
    nothing = {"method": "", "started": 0, "stopped": 0, "seconds": 0.0, "new": [], "old": []}
    assert told["app2"]["processes"] == {"worker": nothing}


def test_the_ends_of_old_processes_are_told() -> None:
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
    told = outcome.processes({**result, "ends": {"ends": ends}})
    assert told["worker"]["old"] == [
        {"pid": 4, "state": "drained", "seconds": 4.3},
        {"pid": 5, "state": "killed", "seconds": 30.0},
    ]


def test_the_handover_ends_with_the_last_host() -> None:
    handed = results(app1={"activation": {"ended": 5.5}}, app3={"activation": {"ended": 4.0}})
    assert outcome.activation_end(handed) == 5.5
    reverted = results(app1={"activation": {"ended": 5.5}, "revert": {"ended": 9.0}}, app3={"revert": {"ended": 8.0}})
    assert outcome.activation_end(reverted) == 9.0
    assert outcome.activation_end(results(app1={}, app3={"revert": {"unreachable": True}})) == 0


def test_each_host_s_end_is_told() -> None:
    variables = results(
        app1={
            "activation": SWITCHED,
            "revert": {"changed": True, "method": "reload", "release": "aaaa"},
        },
        app2={"activation": {"failed": True}, "revert": {"changed": False, "release": "aaaa"}},
        app3={"activation": SWITCHED, "revert": {"unreachable": True}},
    )
    told = outcome.hosts(variables)
    assert told["app1"] == {
        "method": "reload",
        "seconds": 3.2,
        "started": 5.0,
        "previous": "aaaa",
        "release": "aaaa",
        "reverted": True,
        "processes": {},
        "problem": "",
    }
    assert (told["app2"]["method"], told["app2"]["release"], told["app2"]["reverted"]) == ("none", "aaaa", False)
    assert "unknown" in told["app3"]["problem"]


def test_the_summary_names_cause_and_end() -> None:
    variables = results(
        app1={"activation": SWITCHED, "revert": {"changed": True, "release": "aaaa"}},
        app2={
            "failure": {"step": "handover", "message": "Release bbbb could not be activated (reload): boom"},
            **ASKED,
        },
        app3=ASKED,
    )
    found = outcome.failures(variables)
    told = outcome.hosts(variables)
    assert outcome.summary("The deploy of links bbbb", found, told) == (
        "The deploy of links bbbb failed.\n"
        "app2, handover: Release bbbb could not be activated (reload): boom\n"
        "Fix the cause, then run this again; playbooks/logs.yml shows more of the application's output.\n"
        "Serving as before the change: app1, app2, app3; reverted: app1."
    )


@pytest.mark.parametrize(("step", "words"), outcome.NEXT.items())
def test_each_step_s_failure_tells_what_to_do(step: str, words: str) -> None:
    variables = results(app2={"failure": {"step": step, "message": "boom"}, **ASKED}, app1=ASKED, app3=ASKED)
    found = outcome.failures(variables)
    assert words in outcome.summary("It", found, outcome.hosts(variables)).splitlines()


def test_who_interrupted_is_not_told_to_mend_anything() -> None:
    trouble = {"failure": {"step": "handover", "message": outcome.INTERRUPTED}, **ASKED}
    variables = results(app1=trouble, app2=ASKED, app3=ASKED)
    found = outcome.failures(variables)
    assert "Mend" not in outcome.summary("It", found, outcome.hosts(variables))


def test_a_host_that_fell_after_its_handover_is_named() -> None:
    told = outcome.failed_after_commit(results(app1={"finish": {"trouble": ""}}, app2={"finish": {}}))
    assert told == ""
    told = outcome.failed_after_commit(results(app2={"finish": {"trouble": "worker 7 is gone"}}))
    assert told.startswith("app2 was activated but no longer serves: worker 7 is gone.\n")
    assert "playbooks/rollback.yml" in told


def test_a_first_release_that_failed_leaves_nothing_and_says_so() -> None:
    gone = {"activation": SWITCHED, "revert": {"changed": True, "release": None}}
    variables = results(app1={**gone, "failure": {"step": "handover", "message": "boom"}}, app2=gone, app3=gone)
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert words.endswith("Without a release, as before the change: app1, app2, app3.")


def test_a_new_host_that_failed_serves_nothing_and_is_not_told_to_serve() -> None:
    gone = {"activation": SWITCHED, "revert": {"changed": True, "release": None}}
    variables = results(app1=ASKED, app2=ASKED, app3={**gone, "failure": {"step": "handover", "message": "boom"}})
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert words.endswith(
        "Serving as before the change: app1, app2; nothing was activated there.\n"
        "Without a release, as before the change: app3."
    )


def test_the_same_cause_is_told_once() -> None:
    trouble = {"failure": {"step": "staging", "message": "the disk is full"}, **ASKED}
    variables = results(app1=trouble, app2=ASKED, app3=trouble)
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert "app1, app3, staging: the disk is full" in words
    assert "nothing was activated there" in words


def test_a_host_that_could_not_be_put_back_is_named() -> None:
    stuck = {"activation": SWITCHED, "revert_error": "bbbb could not be activated: full"}
    variables = results(app1=stuck, app2=ASKED, app3=ASKED)
    words = outcome.summary("It", {}, outcome.hosts(variables))
    assert "app1: bbbb could not be activated: full." in words
    assert "Serving as before the change: app2, app3" in words


CHANGE = {"kind": "deploy", "application": "links", "release": "bbbb", "version": "v2", "migrations": "expand"}
RUN = {"who": "ann@laptop", "token": "t"}


def test_a_good_change_is_told_as_such() -> None:
    variables = results(app1={"activation": SWITCHED})
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert end["happened"]
    assert end["summary"] == ""
    assert end["deploy"]["result"] == "deployed"
    assert (end["deploy"]["who"], end["deploy"]["where"], end["deploy"]["previous"]) == ("ann", "laptop", "aaaa")
    assert end["entries"]["app1"]["method"] == "reload"
    assert end["entries"]["app2"]["method"] == "none"


def test_a_change_that_had_nothing_to_do_has_nothing_to_tell() -> None:
    assert not outcome.conclusion({**CHANGE, "began": 1.0, "now": 2.0}, RUN, results())["happened"]


@pytest.mark.parametrize(("back", "result"), [(True, "reverted"), (False, "failed")])
def test_a_failed_change_says_whether_hosts_went_back(back: bool, result: str) -> None:
    variables = results(
        app1={"activation": SWITCHED, "revert": {"changed": back, "release": "aaaa"}},
        app2={"failure": {"step": "handover", "message": "boom"}},
    )
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert end["deploy"]["result"] == result
    assert end["entries"]["app3"]["reason"] == "app2, handover: boom"


@pytest.mark.parametrize(
    ("step", "ran"), [("staging", ""), ("migration", "expand"), ("rehearsal", "expand"), ("handover", "expand")]
)
def test_only_a_migration_that_may_have_run_is_noted(step: str, ran: str) -> None:
    variables = results(app2={"failure": {"step": step, "message": "boom"}})
    end = outcome.conclusion({**CHANGE, "began": 1.0, "now": 9.0}, RUN, variables)
    assert {entry["migrations"] for entry in end["entries"].values()} == {ran}


@pytest.mark.parametrize(
    ("kind", "migrations", "step", "told"),
    [
        ("deploy", "blocking", "rehearsal", True),
        ("deploy", "blocking", "handover", True),
        ("deploy", "blocking", "staging", False),
        ("deploy", "expand", "handover", False),
        ("rollback", "blocking", "handover", False),
    ],
)
def test_a_blocking_migration_that_the_release_before_has_to_live_with_is_told(
    kind: str, migrations: str, step: str, told: bool
) -> None:
    variables = results(app2={"failure": {"step": step, "message": "boom"}})
    change = {**CHANGE, "kind": kind, "migrations": migrations, "began": 1.0, "now": 9.0}
    end = outcome.conclusion(change, RUN, variables)
    assert ("The blocking migration of bbbb may have run" in end["summary"]) is told


def test_hosts_that_serve_different_releases_are_told_as_such() -> None:
    # the canary of a run that was killed has the new release, and this run has left it there
    variables = results(
        app1={"revert": {"changed": False, "method": "none", "release": "bbbb"}},
        app2={**ASKED, "failure": {"step": "handover", "message": "boom"}},
        app3=ASKED,
    )
    words = outcome.summary("It", outcome.failures(variables), outcome.hosts(variables))
    assert "The hosts serve different releases: app1 bbbb; app2, app3 aaaa." in words


def test_traffic_comes_from_loops_that_all_hosts_have_or_each_its_own() -> None:
    shared = {"traffic": {"results": [{"item": "edge1", "windows": {}}]}}
    assert list(outcome.traffic(results(**dict.fromkeys(HOSTS, shared)))) == ["edge1"]
    own = {host: {"traffic": {"results": [{"item": host}]}} for host in HOSTS}
    assert list(outcome.traffic(results(**own))) == HOSTS
    assert outcome.traffic(results(app1={"traffic": {"skipped": True}})) == {}


def test_a_failure_is_recorded_with_its_first_step_and_all_messages() -> None:
    first = outcome.record_failure({}, "handover", {"msg": "boom"})
    assert first == {"failure": {"step": "handover", "message": "boom"}}
    both = outcome.record_failure(first, "edges", {"msg": "edge1 is down"})
    assert both == {"failure": {"step": "handover", "message": "boom\nedge1 is down"}}
    stuck = outcome.record_failure(both, "revert", {"msg": "full"})
    assert stuck == {**both, "revert_error": "full"}


def test_the_variables_of_a_host_are_asked_for_once_and_as_they_are_kept() -> None:
    """A host's variables are dear to ask for, and each template of theirs more so."""

    class HostVars(dict[str, Any]):
        asked = 0

        def raw_get(self, host: str) -> Any:
            self.asked += len([host])
            return {"app_service_activated": {"changed": True}, "baton_outcome": {}}

    hostvars = HostVars()
    found = outcome.results(["app1"], hostvars, {"activation": "app_service_activated", "outcome": "baton_outcome"})
    assert (outcome.activated(found), outcome.failures(found), hostvars.asked) == (["app1"], {}, 1)


def test_a_batch_fails_with_one_of_its_activations() -> None:
    failed = {"activation": {"failed": True}}
    assert outcome.activation_failed(results(app1={"activation": SWITCHED}, app2=failed)) == ["app2"]


def test_who_could_not_be_reverted_is_told() -> None:
    assert outcome.revert_failed(results(app2={"revert_error": "full"})) == ["app2"]


def test_the_same_failure_of_several_hosts_is_told_once_with_their_names() -> None:
    said = "{}: it did not boot. It logged last:\n2026-01-01T00:00:0{}.1Z [{}] Traceback\nValueError: no"
    found = {
        "app1": {"step": "rehearsal", "message": said.format("app1", 1, 17)},
        "app10": {"step": "rehearsal", "message": said.format("app10", 2, 18)},
        "app2": {"step": "rehearsal", "message": said.format("app2", 3, 19).replace(": no", ": yes")},
    }
    words = outcome.summary("The deploy of links", found, {})
    assert words.count("ValueError: no") == 1
    assert "app1, app10, rehearsal: it did not boot" in words
    assert "app2, rehearsal: it did not boot" in words
    assert "ValueError: yes" in words


@pytest.mark.parametrize(
    ("said", "words"),
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
def test_a_failure_names_the_setting_that_mends_it(said: str, words: str) -> None:
    found = {host: {"step": "migration", "message": f"Traceback\n{said}"} for host in ("app1", "app2")}
    told = outcome.summary("The deploy of links", found, {})
    assert told.count(words) == 1
    assert outcome.advice("ValueError: no") == []


WORDS = ["a", "-", ".so", "1", '"', "pid=", "extension control file ", 'extension \\"', "sh: 1: ", "'/opt/"]
WORDS.append("2026-01-01T:")


@pytest.mark.parametrize("word", WORDS)
def test_what_an_application_said_without_an_end_is_read_to_its_end(word: str) -> None:
    """Work that grows with the square of the length would take hours here."""
    said = word * (1_000_000 // len(word))
    assert outcome.advice(said) == []
    assert outcome.normalized("app1", said)
    assert outcome.advice(f"{said}\nsh: 1: celry: not found")


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        (
            "MemoryError: Cannot allocate write+execute memory for ffi.callback().",
            "app_service_memory_deny_write_execute",
        ),
        ("cannot allocate executable memory. This may be due to", "app_service_memory_deny_write_execute"),
        ("OSError: [Errno 30] Read-only file system: '/opt/links/releases/a/src/uploads'", "app_release_state_links"),
    ],
)
def test_what_the_sandbox_refuses_names_its_switch(said: str, setting: str) -> None:
    (advice,) = outcome.advice(said)
    assert setting in advice


@pytest.mark.parametrize(
    "said", ["sh: 1: exec: celry: not found", "sh: 1: celry: not found", "sh: 1: celry: Permission denied"]
)
def test_a_command_that_the_release_has_not_names_the_setting(said: str) -> None:
    (advice,) = outcome.advice(f"shop-worker@2-1.service ended at once. It logged last:\n{said}")
    assert advice.startswith("Neither the release nor the host has a program celry")
    assert "app_processes" in advice
