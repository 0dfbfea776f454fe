"""What holds for every task of the playbooks and roles."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml
from ansible_collections.baton.web.plugins.module_utils.change import outcome

PROJECT = pathlib.Path(__file__).resolve().parents[3]
FILES = sorted({*PROJECT.glob("playbooks/**/*.yml"), *PROJECT.glob("roles/*/tasks/*.yml")})
# modules that make a file or a folder: without a mode, the umask of the host's root decides who may read it
MAKING = {
    "ansible.builtin." + name
    for name in ("assemble", "blockinfile", "copy", "file", "get_url", "lineinfile", "template", "unarchive")
} | {"community.crypto.openssl_privatekey", "community.crypto.x509_certificate"}


def tasks(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The tasks of a file, and those of plays and blocks in it."""
    pending = list(yaml.safe_load(path.read_text()) or [])
    while pending:
        entry = pending.pop()
        if isinstance(entry, dict):
            yield entry
            for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always"):
                pending += entry.get(key) or []


def found(files: list[pathlib.Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        if "vars" not in path.parts:
            for task in tasks(path):
                yield f"{path.relative_to(PROJECT)}: {task.get('name')}", task


def test_what_a_task_makes_has_a_mode() -> None:
    assert [
        where
        for where, task in found(FILES)
        for module in MAKING & task.keys()
        if "localhost" not in str(task.get("delegate_to"))
        and task[module].get("state") not in ("absent", "link")
        and "mode" not in task[module]
    ] == []


def secrets(role: pathlib.Path) -> set[str]:
    """The role's options that are secret, the variables made of them, and the templates that they are in."""

    def read(file: str) -> dict[str, Any]:
        return yaml.safe_load((role / file).read_text()) if (role / file).exists() else {}

    entries = read("meta/argument_specs.yml")["argument_specs"].values()
    known = {name for entry in entries for name, option in (entry.get("options") or {}).items() if option.get("no_log")}
    # a condition says only that there is one
    shown = {path.name: re.sub(r"{%.*?%}|\bif \w+", "", path.read_text()) for path in role.glob("templates/**/*.j2")}
    known |= {name for name, text in shown.items() if known & set(re.findall(r"\w+", text))}
    made = {name: set(re.findall(r"[\w.]+", str(value))) for name, value in read("vars/main.yml").items()}
    while more := {name for name, used in made.items() if name not in known and used & known}:
        known |= more
    return known


def test_what_writes_a_secret_says_nothing_of_it() -> None:
    writing = {"baton.web.files", "ansible.builtin.copy", "ansible.builtin.template"}
    tasks_with_secrets = {
        where: task
        for role in PROJECT.glob("roles/*")
        if (role / "meta/argument_specs.yml").is_file()
        for where, task in found(sorted(role.glob("tasks/*.yml")))
        for module in writing & task.keys()
        if secrets(role) & set(re.findall(r"[\w.]+", str(task[module])))
    }
    assert len(tasks_with_secrets) > 3
    assert [where for where, task in tasks_with_secrets.items() if task.get("no_log") is not True] == []


def test_a_question_of_preflight_does_not_decide_by_failing_silently() -> None:
    """A task that fails there without a word lets a host pass that nobody has looked at."""
    files = [path for path in FILES if path.name.startswith("preflight")]
    assert [
        where
        for where, task in found(files)
        if task.get("failed_when") is False or task.get("ignore_errors") or task.get("ignore_unreachable")
    ] == []


def test_one_action_installs_packages() -> None:
    """ansible.builtin.apt reads all lists again for each of its tasks, and fails for a source that is of no use."""
    installing = [where for where, task in found(FILES) if "ansible.builtin.apt" in task]
    assert installing == ["playbooks/tasks/hosts/upgrade.yml: Upgrade the packages"]
    assert "update_cache" not in (PROJECT / "playbooks/tasks/hosts/upgrade.yml").read_text()


def test_what_a_playbook_or_a_task_file_names_is_beside_it() -> None:
    """A dynamic include of a file that isn't there only fails in the run that needs it, such as a revert."""
    keys = {f"ansible.builtin.{kind}" for kind in ("import_tasks", "include_tasks", "import_playbook")}
    assert [
        f"{where}: {name}"
        for where, task in found([PROJECT / "site.yml", *FILES])
        for name in [*(task[key] for key in keys & task.keys()), *task.get("vars_files", [])]
        if "{{" not in name and not (PROJECT / where.partition(":")[0]).parent.joinpath(name).is_file()
    ] == []


def test_on_top_are_the_playbooks_that_people_run() -> None:
    """What other playbooks import is a phase, and below phases/."""
    on_top = {path.stem for path in PROJECT.glob("playbooks/*.yml")}
    imported = {
        (path.parent / task["ansible.builtin.import_playbook"]).resolve().relative_to(PROJECT / "playbooks")
        for path in PROJECT.glob("playbooks/**/*.yml")
        for _, task in found([path])
        if "ansible.builtin.import_playbook" in task
    }
    assert {path.parent.name for path in imported} == {"phases"}
    assert not on_top & {path.stem for path in PROJECT.glob("playbooks/phases/*.yml")}


def test_a_backing_service_is_named_in_its_row_and_in_the_wiring_alone() -> None:
    topology = yaml.safe_load((PROJECT / "playbooks/vars/topology.yml").read_text())
    named = {
        f"{path.relative_to(PROJECT)}: {row[key]}"
        for row in topology["baton_host_service_table"]
        for key in ("name", "group", "role", "unit", "listener", "interruption")
        for path in PROJECT.glob("playbooks/**/*.yml")
        if row[key] in path.read_text() and path.stem not in ("topology", "wiring")
    }
    assert named == set()


def test_each_phase_of_the_rollout_has_an_id_and_one_rescue() -> None:
    plays = [
        play
        for name in ("rollout", "processes")
        for play in yaml.safe_load((PROJECT / f"playbooks/phases/{name}.yml").read_text())
    ]
    phases = [play["vars"]["baton_phase"] for play in plays if "hosts" in play]
    assert set(outcome.NEXT) - {"connection"} <= set(phases)
    assert set(phases) > outcome.BEFORE_MIGRATION
    phases_files = (PROJECT / f"playbooks/phases/{name}.yml" for name in ("rollout", "processes"))
    files = [*phases_files, *PROJECT.glob("playbooks/tasks/rollout/*.yml")]
    rescues = [task["rescue"] for _, task in found(files) if "rescue" in task]
    assert len(rescues) > 7
    for (only,) in rescues:
        assert only["ansible.builtin.import_tasks"].endswith("record_failure.yml")


def test_what_is_told_of_the_fleet_is_told_once_and_of_a_host_by_each() -> None:
    told = [
        (where, task.get("run_once") is True, "inventory_hostname" in str(task))
        for where, task in found([path for path in FILES if "playbooks" in path.parts])
        if "ansible.builtin.debug" in task
    ]
    assert len(told) > 8
    assert [where for where, once, of_a_host in told if once == of_a_host] == []
