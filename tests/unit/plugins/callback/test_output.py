"""The output of a run that isn't on a terminal."""

from __future__ import annotations

import json
import pathlib
import re
import sys
from typing import Any

import pytest

from tests.support.playbooks import Done, Playbooks

HOSTS = ("app1", "app2", "app3", "app4", "app5", "app6", "app7")


def command(*words: str, **more: object) -> dict[str, Any]:
    return {"ansible.builtin.command": {"argv": words}, **more}


def fail(words: str, **more: object) -> dict[str, Any]:
    return {"ansible.builtin.fail": {"msg": words}, **more}


@pytest.fixture
def inventory(tmp_path: pathlib.Path) -> pathlib.Path:
    local = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    hosts = [f"{name} {local}" for name in HOSTS]
    path = tmp_path / "hosts"
    path.write_text("\n".join([*hosts, "gone ansible_host=127.0.0.1 ansible_port=1", "[nobody]", ""]))
    return path


def play(inventory: pathlib.Path, *plays: dict[str, Any], options: tuple[str, ...] = ()) -> Done:
    path = inventory.with_name("play.yml")
    path.write_text(json.dumps([{"gather_facts": False, **one} for one in plays]))
    return Playbooks(inventory).play(str(path), *options)


def lines(done: Done) -> list[str]:
    """The output, with N for all seconds."""
    return [re.sub(r"\b\d+\.\d s\b", "N s", line) for line in done.output.strip().splitlines()]


def test_output_shows_plays_with_duration_changes_and_total_time(inventory: pathlib.Path) -> None:
    done = play(
        inventory,
        {
            "name": "Prepare",
            "hosts": "app1",
            "tasks": [
                {"name": "Wait", **command("sleep", "1", changed_when=False)},
                {"name": "Leave out", **command("false", when=False)},
                {"name": "Write", **command("true")},
            ],
        },
        {"name": "Back up", "hosts": "nobody"},
        {"name": "Migrate", "hosts": "{{ 'app1' if false else 'all:!all' }}"},
        {"name": "Finish", "hosts": "app1", "tasks": [{"name": "Tell", "ansible.builtin.debug": {"msg": "One\ntwo"}}]},
    )
    assert done.status == 0, done.output
    assert lines(done) == [
        *("Prepare", "  Wait", "  Leave out", "  Write", "changed: [app1]", "  N s", ""),
        *("Back up", "  (no hosts)", ""),
        *("Finish", "  Tell", "One", "two", "  N s", ""),
        *("PLAY RECAP", "app1 : ok=3    changed=1    unreachable=0    failed=0", ""),
        "N s in total",
    ]
    first, last, total = (float(seconds) for seconds in re.findall(r"(\d+\.\d) s\b", done.output))
    assert first >= 1
    assert first + last <= total + 0.1
    assert "\x1b" not in done.output
    assert done.changed == [1]


def test_batch_shows_its_hosts_and_duration(inventory: pathlib.Path) -> None:
    tasks = [
        {"name": "Think", "ansible.builtin.assert": {"that": True, "quiet": True}},
        # a task without output isn't shown
        {"name": "Note the trouble", "ansible.builtin.set_fact": {"trouble": True}, "when": False},
        {"name": "Say why it failed", **fail("It didn't.", when=False)},
    ]
    everyone = {"name": "Hand over", "hosts": ",".join(HOSTS), "tasks": tasks}
    done = play(inventory, everyone | {"serial": [1, "100%"]})
    assert lines(done)[:8] == [
        *("Hand over: app1", "  Think", "  N s", ""),
        *("Hand over: app2, app3, app4, app5, app6 and 1 more", "  Think", "  N s", ""),
    ]
    assert "Hand over [check mode]" in play(inventory, everyone, options=("--check",)).output


def test_check_of_all_hosts_is_not_labelled_with_the_first(inventory: pathlib.Path) -> None:
    check = {"ansible.builtin.assert": {"that": False, "quiet": True, "fail_msg": "app2: too little memory"}}
    play_of_two = {"name": "Check", "hosts": "app1,app2", "any_errors_fatal": True}
    done = play(inventory, {**play_of_two, "tasks": [{"name": "Compare", **check, "run_once": True}]})
    assert lines(done)[1:3] == ["  Compare", "failed: app2: too little memory"]
    done = play(inventory, {**play_of_two, "tasks": [{"name": "Write", **command("false"), "run_once": True}]})
    assert "failed: [app1] " in done.output


def test_failure_of_a_delegated_task_is_labelled_with_both_hosts(inventory: pathlib.Path) -> None:
    delegated = {"delegate_to": "{{ item }}", "loop": ["app2", "app3"]}
    done = play(
        inventory, {"name": "Check", "hosts": "app1", "tasks": [{"name": "Try", **command("false"), **delegated}]}
    )
    assert [line.partition(" non-zero")[0] for line in lines(done)[2:4]] == [
        *("failed: [app1 -> app2]", "failed: [app1 -> app3]"),
    ]


def test_each_message_of_an_assertion_is_a_line(inventory: pathlib.Path) -> None:
    check = {"ansible.builtin.assert": {"that": False, "quiet": True, "fail_msg": ["app1: a is 1.", "app1: b is 2."]}}
    done = play(inventory, {"name": "Check", "hosts": "app1", "tasks": [{"name": "Try", **check}]})
    assert lines(done)[2:4] == ["failed: [app1] app1: a is 1.", "app1: b is 2."]


def test_failure_shows_its_message_and_the_commands_output(inventory: pathlib.Path) -> None:
    done = play(
        inventory,
        {
            "name": "Prepare",
            "hosts": "app1,gone",
            "tasks": [
                {"name": "Try", **command("sh", "-c", "echo no space >&2; exit 3", ignore_errors=True)},
                {"name": "Expect", **command("false", failed_when=False, changed_when=False)},
                {"name": "Wait", **command("true", until=False, retries=1, delay=0, failed_when=False)},
                {"name": "Put it together", **fail("The deploy failed.\napp1: {{ 'no' }} space")},
            ],
        },
    )
    assert done.status != 0
    output = lines(done)
    gone = next(line for line in output if "gone" in line)
    assert gone.startswith("unreachable: [gone] ")
    assert "Connection refused" in gone
    output.remove(gone)
    assert output == [
        *("Prepare", "  Try", "failed: [app1] non-zero return code", "no space", "...ignoring"),
        *("  Expect", "  Wait", "not yet: [app1] tries left: 1", "changed: [app1]", "  Put it together"),
        *("failed: [app1] The deploy failed.", "app1: no space", "  N s", ""),
        *("PLAY RECAP", "app1 : ok=3    changed=2    unreachable=0    failed=1"),
        *("gone : ok=0    changed=0    unreachable=1    failed=0", "", "N s in total"),
    ]


def test_verbose_run_uses_ansibles_own_output(inventory: pathlib.Path) -> None:
    done = play(
        inventory, {"name": "Prepare", "hosts": "app1", "tasks": [{"name": "Try", **fail("no")}]}, options=("-v",)
    )
    assert "PLAY [Prepare] **" in done.output
    assert "TASK [Try] **" in done.output
    assert "fatal: [app1]: FAILED! =>" in done.output
    assert "rescued=0" in done.output
    assert "in total" not in done.output


TRACEBACK = "{{ inventory_hostname }}: it did not boot. It logged last:\nTraceback [{{ 100 | random }}]\nValueError: no"


def test_same_long_failure_on_several_hosts_is_shown_once(inventory: pathlib.Path) -> None:
    tasks = [{"name": "Boot", **fail(TRACEBACK)}]
    done = play(inventory, {"name": "Rehearse", "hosts": "app1:app2:app3", "tasks": tasks})
    assert done.output.count("ValueError: no") == 1
    assert len(re.findall(r"failed: \[app\d\] the same as on app\d", done.output)) == 2


def test_different_failures_are_all_shown(inventory: pathlib.Path) -> None:
    tasks = [{"name": "Boot", **fail("Traceback\nValueError: {{ 'no' if inventory_hostname == 'app1' else 'yes' }}")}]
    done = play(inventory, {"name": "Rehearse", "hosts": "app1:app2", "tasks": tasks})
    assert "ValueError: no" in done.output
    assert "ValueError: yes" in done.output


ESCAPES = "\x1b]52;c;eA==\x07\x1b[8mhid\x1b[0m \u202edesrever\u2066 \x9b2J"
# a host's module controls a file's content, a warning and an error
HOSTILE = f"""#!{sys.executable}
import json
text = {ESCAPES!r}
print(json.dumps({{"changed": True, "msg": text, "warnings": [text], "other": text,
                  "diff": {{"before": text + "\\n", "after": "plain\\n", "before_header": text}}, "failed": %s}}))
"""


@pytest.mark.parametrize("options", [(), ("-v",), ("-vvv",)])
@pytest.mark.parametrize("failed", [True, False])
def test_control_characters_of_a_host_are_escaped(
    inventory: pathlib.Path, options: tuple[str, ...], failed: bool
) -> None:
    (inventory.parent / "library").mkdir()
    module = inventory.parent / "library/hostile"
    module.write_text(HOSTILE % failed)
    module.chmod(0o755)
    done = play(
        inventory,
        {
            "name": "Ask",
            "hosts": "app1",
            "tasks": [
                {"hostile": {}, "register": "shown", "diff": True, "ignore_errors": True},
                {"ansible.builtin.debug": {"msg": "{{ shown.msg }}"}},
                {"ansible.builtin.debug": {"var": "shown.msg"}},
                {"ansible.builtin.command": {"argv": ["printf", ESCAPES]}},
            ],
        },
        options=(*options, "--diff"),
    )
    assert failed or "+plain" in done.output, done.output
    assert re.search(r"\\(x1b|e)]52", done.output)
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", done.output)
