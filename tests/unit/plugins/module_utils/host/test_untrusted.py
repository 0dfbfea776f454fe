"""Untrusted text is bounded in size, depth and type, and can't control a terminal."""

from __future__ import annotations

import json
import math
import os
import pathlib
import unicodedata
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import digests
from ansible_collections.baton.web.plugins.module_utils.app import journal, layout, server_status
from ansible_collections.baton.web.plugins.module_utils.change import (
    deploy_lock,
    history,
    outcome,
    receipt,
    status,
    status_report,
)
from ansible_collections.baton.web.plugins.module_utils.controller import receipt_page
from ansible_collections.baton.web.plugins.module_utils.edge import access_log
from ansible_collections.baton.web.plugins.module_utils.host import mapped, systemd, untrusted
from hypothesis import example, given, settings
from hypothesis import strategies as st

fewer_examples = settings(max_examples=max(60, settings().max_examples * 3 // 5))  # for tests that write files
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
WORDS = st.sampled_from(
    [
        "message",
        "level",
        "time",
        "path",
        "status",
        "exception",
        "pid",
        "state",
        "release",
        "workers",
        "reload",
        "versions",
        "master",
        "outcome",
        "error",
        "when",
        "windows",
        "statuses",
        "failing",
        "histogram",
        "timeline",
        "points",
        "step",
        "since",
        "until",
        "7",
        "application",
        "lock",
    ]
) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=20
)
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=8)
HOSTILE = [
    *(
        "[" * 20_000,
        '{"a":' * 20_000,
        "[" * 33 + "]" * 33,
        '{"a": 1, "a": 2}',
        '{"a": "\\',
        '"' + "\\" * 1001,
        "",
        "nul",
    ),
    '{"a": ' + "9" * 5000 + "e}",
]


def depth(found: Any) -> int:
    if isinstance(found, dict | list):
        return 1 + max(map(depth, found.values() if isinstance(found, dict) else found), default=0)
    return 0


def is_sound(found: Any) -> bool:
    if isinstance(found, dict):
        return all(is_sound(key) and is_sound(value) for key, value in found.items())
    if isinstance(found, list):
        return all(map(is_sound, found))
    if isinstance(found, float):
        return math.isfinite(found)
    if isinstance(found, int):
        return abs(found) < 2**63
    return found is None or bool(found.encode()) or not found


@given(st.text() | st.binary() | VALUES.map(json.dumps) | st.text(alphabet='[]{}",:\\u0d8e1- ', max_size=80))
@example('{"a": [NaN, -Infinity, 1e999, 123456789012345678901234567890, "\\ud800", "\\udfff\\ud800"], "\\ud800": 1}')
@example("\ud800")
def test_untrusted_json_is_parsed_or_refused(text: str | bytes) -> None:
    try:
        found = untrusted.parse(text)
    except untrusted.UntrustedError:
        return
    assert is_sound(found)
    assert depth(found) <= untrusted.DEPTH


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_json_that_would_crash_its_reader_is_refused(text: str) -> None:
    with pytest.raises(untrusted.UntrustedError):
        untrusted.parse(text)
    with pytest.raises(untrusted.UntrustedError):
        untrusted.parse(text.encode())


def test_long_text_is_accepted_up_to_the_size_limit() -> None:
    assert untrusted.parse(json.dumps({"a": "[{" * 10_000 + '\\"'})) == {"a": "[{" * 10_000 + '\\"'}
    with pytest.raises(untrusted.UntrustedError, match="larger"):
        untrusted.parse('"' + "a" * 100 + '"', size=100)
    with pytest.raises(untrusted.UntrustedError, match="not an object"):
        untrusted.parse_object("[]")


def test_unusable_numbers_become_text() -> None:
    text = "[1, -1.5, NaN, -Infinity, 1e999, 9223372036854775808, " + "9" * 5000 + "]"
    assert untrusted.parse(text) == [1, -1.5, "NaN", "-Infinity", "1e999", "9223372036854775808", "9" * 5000]


@given(VALUES)
def test_getters_return_their_type_for_any_value(value: Any) -> None:
    assert isinstance(untrusted.text(value), str)
    assert math.isfinite(untrusted.number(value))
    assert abs(untrusted.whole_number(value)) < 2**63
    assert 0 <= untrusted.moment(value) < untrusted.LATEST
    journal.utc(untrusted.moment(value))
    assert all(isinstance(one, str) for one in untrusted.texts(value))
    assert all(isinstance(one, dict) for one in untrusted.objects(value))


def test_only_regular_files_of_limited_size_are_read(tmp_path: pathlib.Path) -> None:
    good, pipe, link = tmp_path / "good", tmp_path / "pipe", tmp_path / "link"
    good.write_bytes(b"12345")
    os.mkfifo(pipe)
    link.symlink_to(good)
    assert untrusted.read(good, 5) == b"12345"
    assert untrusted.read(link, 5, follow=True) == b"12345"
    for path in (pipe, link, tmp_path, pathlib.Path("/dev/zero")):
        with pytest.raises(OSError, match=r"not a regular file|symbolic|directory"):
            untrusted.read(path)
    with pytest.raises(OSError, match="larger than 4 bytes"):
        untrusted.read(good, 4)


@given(st.text())
@example("\x1b]52;c;eA==\x07\u202e\u2066\u2028\ufeff\U000e0041\x9b2J\ud800")
def test_printable_text_cannot_control_a_terminal(text: str) -> None:
    printable = untrusted.printable(text)
    printable.encode()
    # tabs and newlines are allowed
    assert {unicodedata.category(one) for one in printable if one not in "\t\n"} & {"Cc", "Cs", "Zl", "Zp"} == set()
    assert not [
        one for one in printable if unicodedata.bidirectional(one) in ("LRO", "RLO", "LRE", "RLE", "PDF", "RLI")
    ]


def test_colours_are_removed_and_other_characters_escaped() -> None:
    assert untrusted.printable("a\tb\r\n\x1b[1;31mc\x1b[0m\u202e") == "a\tb\nc\\u202e"


# -- every place that reads untrusted text ----------------------------------------------------------------

MESSAGES = st.one_of(
    st.none(),
    st.text(),
    OBJECTS.map(json.dumps),
    st.lists(st.integers(0, 255)),
    st.lists(st.text() | st.none()),
    VALUES,
)


@given(MESSAGES, st.sampled_from(["6", "abc", "-1", "9", "", None, 7, ["3", "4"], {}]), VALUES)
@example({"message": {"a": 1}}, "6", "1767268800250000")
@example('{"message": 7}', "abc", "x")
@example(["one", "two"], ["3", "4"], ["1", "2"])
@example("[" * 20_000, "6", "1")
@example("{" * 20_000, "6", "1")
def test_any_journal_line_becomes_an_entry(message: Any, priority: Any, stamp: Any) -> None:
    record = untrusted.parse(
        json.dumps({"MESSAGE": message, "PRIORITY": priority, "__REALTIME_TIMESTAMP": stamp}), depth=64
    )
    entry = journal.entry(record)
    assert entry["level"] in journal.LEVELS
    lines = journal.merged({"app1": [entry]}, 10)
    assert lines.startswith("app1 | ")
    assert systemd.journal_text(record["MESSAGE"]) is not None


@given(st.dictionaries(WORDS, VALUES | OBJECTS) | VALUES)
def test_any_answer_of_a_host_is_shown_as_lines(answer: Any) -> None:
    assert isinstance(journal.merged({"app1": [answer], "app2": answer}, 10), str)


STATUSES = st.fixed_dictionaries(
    {},
    optional={
        "master": VALUES | st.fixed_dictionaries({"pid": VALUES}),
        "workers": VALUES | st.lists(st.fixed_dictionaries({"pid": SCALARS, "state": SCALARS, "release": VALUES})),
        "workers_wanted": VALUES,
        "reload": VALUES | st.fixed_dictionaries({"outcome": VALUES, "error": VALUES, "began_monotonic": VALUES}),
        "versions": VALUES | OBJECTS,
        "fingerprint": VALUES | st.fixed_dictionaries({"python": OBJECTS, "files": st.dictionaries(st.text(), VALUES)}),
    },
)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> layout.Application:
    app = layout.Application("links", str(tmp_path_factory.mktemp("host")))
    for folder in (app.path("run/baton/links"), app.state, app.release("aaaa"), app.path("etc/links")):
        folder.mkdir(parents=True)
    app.current.symlink_to("releases/aaaa")
    (app.release("aaaa") / "release.json").write_text('{"id": "aaaa", "packages": [], "version": {"a": 1}}')
    return app


@fewer_examples
@given(reported=STATUSES)
@example(reported={"versions": []})
@example(reported={"reload": "x"})
@example(reported={"master": {"pid": "../../tmp/x"}, "workers": [{"pid": 1, "state": "ready", "release": ["aaaa"]}]})
@example(reported={"workers": [{"pid": 10**40, "state": "ready", "release": "aaaa"}]})
@example(reported={"fingerprint": {"python": {"executable": "x"}, "files": {"\0": "y"}}})
def test_any_status_of_an_application_can_be_evaluated(
    reported: dict[str, Any], application: layout.Application
) -> None:
    application.status_file(application.service).write_text(json.dumps(reported))
    found = {"application": status.serving(application, None), "units": {}}
    parsed = untrusted.parse(json.dumps(found), depth=64)
    assert isinstance(status_report.problems("app1", parsed), list)
    assert "app1" in status_report.table({"app1": parsed})
    assert isinstance(status_report.fleet_problems({"app1": parsed}), list)
    master = server_status.read(application, application.service)
    assert isinstance(server_status.unproven(master, "aaaa", 0) if master else "", str)
    assert isinstance(digests.master_outdated(application, "aaaa", master), bool)


@pytest.mark.parametrize("text", [*HOSTILE, '{"workers": ' + "[" * 30_000, "\ud800", '{"workers": []'])
def test_invalid_status_is_empty(application: layout.Application, text: str) -> None:
    application.status_file(application.service).write_bytes(text.encode(errors="surrogatepass"))
    assert server_status.read(application, application.service) == {}


def test_status_that_is_a_link_or_a_pipe_is_empty(application: layout.Application) -> None:
    file = application.status_file(application.bridge)
    other = file.with_name("other.json")
    other.write_text('{"workers": []}')
    file.symlink_to(other)
    assert server_status.read(application, application.bridge) == {}
    file.unlink()
    os.mkfifo(file)
    assert server_status.read(application, application.bridge) == {}


@fewer_examples
@given(line=OBJECTS.map(json.dumps) | st.text(max_size=50))
@example(line="[" * 20_000)
@example(line='{"when": 1e300, "seconds": [], "release": {}, "kind": 7, "result": "deployed"}')
def test_any_record_on_a_host_can_be_read(line: str, application: layout.Application) -> None:
    for name in ("history.jsonl", "lock.json", "active.json"):
        (application.state / name).write_bytes(line.encode(errors="replace") + b"\n")
    entries = history.read(application)
    assert isinstance(history.table({"app1": entries, "app2": [*entries, line]}), str)  # type: ignore[list-item]
    assert history.summary(application, entries)["current"] == "aaaa"
    assert deploy_lock.as_dict(deploy_lock.read(application)) is None
    assert layout.served(application) == []


@given(OBJECTS.map(lambda entry: json.dumps(entry).encode()) | st.binary())
@example(b"[" * 20_000)
def test_any_access_log_line_is_an_entry_or_none(line: bytes) -> None:
    assert isinstance(access_log.parse(line), access_log.Entry | None)


EDGES = st.fixed_dictionaries(
    {"windows": VALUES | st.fixed_dictionaries({"before": OBJECTS, "during": OBJECTS})},
    optional={"timeline": VALUES | OBJECTS, "skipped_lines": VALUES, "msg": VALUES, "failed": VALUES},
)
ACTIVATED = st.fixed_dictionaries(
    {}, optional={"seconds": VALUES, "started": VALUES, "method": VALUES, "release": VALUES}
)


@fewer_examples
@given(EDGES, ACTIVATED)
def test_any_answer_of_a_host_becomes_a_receipt(edge: dict[str, Any], activated: dict[str, Any]) -> None:
    deploy = {"application": "links", "result": "deployed", "started": 1767268800.0, "seconds": 10}
    document = receipt.compose(deploy, {"edge1": edge}, {"app1": activated}, [])
    assert receipt.text(document)
    assert receipt_page.page(document)
    receipt.as_json(document)


PARTS = ["activation", "processes", "ends", "revert", "rehearsal", "finish", "traffic"]


@given(st.dictionaries(st.sampled_from(PARTS), VALUES | ACTIVATED))
def test_any_answer_of_a_host_becomes_an_outcome(known: dict[str, Any]) -> None:
    results = outcome.results(["app1"], {"app1": known}, dict(zip(known, known, strict=True)))
    hosts = outcome.hosts({"app1": {"activation": {}, "processes": {}, "ends": {}, "revert": {}} | results["app1"]})
    assert isinstance(outcome.summary("The deploy", {}, hosts), str)


# these parse trusted text: written by this process itself, or from the controller's own cache
TRUSTED = {
    "module_utils/host/untrusted.py",
    "module_utils/host/guard.py",
    "module_utils/artifact/lockfile.py",
    "module_utils/controller/prerequisites.py",
    "module_utils/artifact/wheels.py",
    "module_utils/artifact/artifact.py",
}


def test_json_is_parsed_in_one_place() -> None:
    plugins = pathlib.Path(__file__).parents[5] / "plugins"
    parsing = {
        str(path.relative_to(plugins)): text.count("json.load")
        for path in plugins.rglob("*.py")
        if "json.load" in (text := path.read_text(encoding="utf-8"))
    }
    assert parsing.keys() <= TRUSTED | {"module_utils/activation/detached.py"}
    assert parsing["module_utils/activation/detached.py"] == 1  # the result of its own child process


def test_mapped_files_may_have_any_name(application: layout.Application) -> None:
    maps = application.path("proc/77/maps")
    maps.parent.mkdir(parents=True, exist_ok=True)
    maps.write_bytes(
        b"7f00-7f01 r-xp 0000 08:01 1 /var/lib/links/\xff\n7f01-7f02 r-xp 0 08:01 2 /usr/lib/x.so (deleted)\n"
    )
    group = application.path("sys/fs/cgroup/links")
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("77\n")
    assert mapped.replaced_in("/links", str(application.root)) == ["/usr/lib/x.so"]
