"""Results of compromised hosts: whatever a value is replaced by, the controller has a text to print."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.change import history, outcome, receipt, status_report
from ansible_collections.baton.web.plugins.module_utils.controller import receipt_page

WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1e308,
    "x\x1b[2J\nfailed: [app2]",
    [],
    [[]],
    {},
    {"a": []},
    {"": None},
)
NOON = 1_700_000_000.0
COUNTS = {
    "since": NOON,
    "until": NOON + 20,
    "requests": 10,
    "failures": 2,
    "client_closed": 1,
    "complete": True,
    "statuses": {"200": 8, "502": 2},
    "histogram": {"10": 8, "20": 2},
    "max_ms": 20.5,
    "failing": [{"status": 502, "path": "/", "count": 2}],
}
EDGE = {
    "windows": {"during": COUNTS},
    "skipped_lines": 1,
    "timeline": {"step": 1, "points": {str(int(NOON)): COUNTS}},
}
PROCESS = {"method": "overlap", "seconds": 1.0, "started": ["u1"], "stopped": ["u2"], "pids": {"u1": 4, "u2": 3}}
ACTIVATION = {
    "changed": True,
    "rehearsed": True,
    "method": "reload",
    "seconds": 1.8,
    "started": NOON + 1,
    "ended": NOON + 3,
    "previous": "r1",
    "release": "r2",
    "processes": {"worker": PROCESS},
}
RESULTS = {
    "activation": ACTIVATION,
    "rehearsal": {"rehearsed": True},
    "processes": {"changed": True, "processes": {"beat": PROCESS}},
    "ends": {"ends": {"u2": {"state": "drained", "seconds": 2.0}}},
    "revert": {"changed": True, "release": "r1", "ended": NOON + 4},
    "traffic": {"results": [{"item": "edge1", **EDGE}]},
    "finish": {"failed": True, "msg": "x"},
}
ENTRY = {
    "kind": "deploy",
    "release": "r1",
    "version": "1",
    "result": "deployed",
    "who": "ada",
    "token": "t",
    "when": NOON,
    "seconds": 2.0,
    "method": "reload",
    "reason": "because",
    "previous": "r0",
    "baton": "0.2.0",
}
SUMMARY = {
    "current": "r2",
    "candidates": ["r1"],
    "rollback_to": "r1",
    "rollback_candidates": [{"release": "r1", "version": "1", "when": NOON, "why_not": ""}],
    "releases": ["r1", "r2"],
    "unfinished": ["worker"],
    "blocking": {"r1": ["r2"], "r2": []},
    "failures": [NOON],
}
STATUS = {
    "problems": ["app1: a problem."],
    "notices": ["a notice."],
    "certificates": [{"path": "/c.pem", "begins": NOON, "expires": NOON + 1}],
    "maintenance": True,
    "drained": ["10.0.0.1:8000"],
    "application": {
        "release": "r1",
        "version": "1",
        "since": NOON,
        "workers": [{"pid": 1, "state": "ready", "release": "r1", "memory_mb": 1}],
        "workers_wanted": 1,
        "health": "ok",
        "processes": {"worker": {"wanted": 1, "running": 1, "releases": ["r1"]}},
        "schedules": {"night": {"due": True, "next": "x", "last": "x", "result": "success"}},
        "drift": ["/etc/x"],
        "lock": {"description": "ada", "expires": NOON},
        "last_change": ENTRY,
    },
}


def _compose(edges: dict[str, Any], hosts: dict[str, Any]) -> str:
    """The receipt's text; each of its forms must exist."""
    deploy = {"application": "links", "result": "deployed", "started": NOON, "ended": NOON + 20}
    document = receipt.compose(deploy, edges, hosts, [{"name": "roll", "seconds": 20.0}])
    json.loads(receipt.as_json(document))
    if edges:
        assert "\x1b" not in receipt_page.page(document)
    return receipt.text(document)


def _change(hosts: dict[str, Any], release: str = "r2") -> str:
    outputs = {name: name for name in RESULTS}
    results = outcome.results(list(hosts), hosts, outputs)
    outcome.activation_end(results)
    outcome.outdated(results)
    outcome.failed_after_commit(results)
    outcome.activation_failed(results)
    outcome.traffic(results)
    change = {
        "kind": "deploy" if release else "restart",
        "application": "links",
        "release": release,
        "version": "2",
        "migrations": "",
        "began": NOON,
    }
    failed = {"app1": {**results["app1"], "failure": {"step": "roll", "message": "x"}}, "app2": results["app2"]}
    for one in (results, failed):
        ended = outcome.conclusion({**change, "now": NOON + 20}, {"who": "ada@laptop", "token": "t"}, one)
        json.dumps(ended)
        # the other hosts get and store these values, whatever app1 says
        for value in (*ended["entries"]["app2"].values(), *ended["deploy"].values()):
            assert isinstance(value, str | float | None), value
    return str(ended["summary"]) + _compose({}, ended["hosts"])


def _failure(hosts: dict[str, Any]) -> str:
    noted = [outcome.record_failure({}, "staging", found) for found in hosts.values() if isinstance(found, dict)]
    return "\n".join(note["failure"]["message"].replace("\n", " ") for note in noted)


def _status(hosts: dict[str, Any]) -> str:
    # problems are printed by the callback, which escapes control characters
    assert status_report.fleet_problems(hosts)
    return status_report.table(hosts)


CASES: dict[str, tuple[Any, Callable[[dict[str, Any]], str]]] = {
    "edge": (EDGE, lambda hosts: _compose({"edge1": hosts["app1"]}, {})),
    "change": (RESULTS, _change),
    "change without a release": (RESULTS, lambda hosts: _change(hosts, "")),
    "failure": ({"failed": True, "msg": "x", "stderr": "y"}, _failure),
    "failure of a loop": (
        {"failed": True, "msg": "x", "results": [{"failed": True, "msg": "y"}, {"unreachable": True, "msg": "z"}]},
        _failure,
    ),
    "history": (
        {"entries": [ENTRY, ENTRY]},
        lambda hosts: history.table({name: host.get("entries") for name, host in hosts.items()}),
    ),
    "rollback": (SUMMARY, lambda hosts: str(history.rollback(hosts, "", force=False))),
    "rollback to one": (SUMMARY, lambda hosts: str(history.rollback(hosts, "r1", force=False))),
    "rollback to none": (SUMMARY, lambda hosts: str(history.rollback(hosts, "r9", force=True))),
    "status": (STATUS, _status),
}


def _replaced(found: Any) -> Iterator[Any]:
    """Each variant of a value in which one part has a wrong value, or a mapping lacks a key."""
    if isinstance(found, dict):
        for key, part in found.items():
            yield {name: one for name, one in found.items() if name != key}
            for other in (*WRONG, *_replaced(part)):
                yield {**found, key: other}
        yield {**found, "x\x1b\n": {}}
    elif isinstance(found, list):
        for place, part in enumerate(found):
            for other in (*WRONG, *_replaced(part)):
                yield [*found[:place], other, *found[place + 1 :]]


@pytest.mark.parametrize("case", CASES)
def test_no_value_of_a_host_breaks_the_run_or_reaches_the_terminal_unescaped(case: str) -> None:
    valid, show = CASES[case]
    faults = []
    for wrong in [valid, *_replaced(valid)]:
        try:
            text = show({"app1": wrong, "app2": copy.deepcopy(valid)})
        except Exception as error:  # any
            faults.append((type(error).__name__, str(error), str(wrong)[:2000]))
            continue
        if "\x1b" in text or any(line.startswith("failed: [app2]") for line in text.splitlines()):
            faults.append(("shown", text, ""))
    assert not faults, f"{len(faults)}: " + "\n".join(sorted({f"{kind}: {why}" for kind, why, _ in faults})[:30])
