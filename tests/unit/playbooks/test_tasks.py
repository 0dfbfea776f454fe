"""Rules that every task of the playbooks and roles obeys."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.baton.web.plugins.module_utils.change import outcome

PROJECT = pathlib.Path(__file__).resolve().parents[3]
FILES = sorted({*PROJECT.glob("playbooks/**/*.yml"), *PROJECT.glob("roles/*/tasks/*.yml")})
# modules that create a file or folder: without a mode, root's umask on the host decides who can read it
CREATING = {
    "ansible.builtin." + name
    for name in ("assemble", "blockinfile", "copy", "file", "get_url", "lineinfile", "template", "unarchive")
} | {"community.crypto.openssl_privatekey", "community.crypto.x509_certificate"}


def tasks(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """All tasks of a file, including those in plays and blocks."""
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


def test_created_files_have_a_mode() -> None:
    assert [
        where
        for where, task in found(FILES)
        for module in CREATING & task.keys()
        if "localhost" not in str(task.get("delegate_to"))
        and task[module].get("state") not in ("absent", "link")
        and "mode" not in task[module]
    ] == []


def secrets(role: pathlib.Path) -> set[str]:
    """The role's secret options, the variables built from them, and the templates that contain them."""

    def read(file: str) -> dict[str, Any]:
        return yaml.safe_load((role / file).read_text()) if (role / file).exists() else {}

    entries = read("meta/argument_specs.yml")["argument_specs"].values()
    known = {name for entry in entries for name, option in (entry.get("options") or {}).items() if option.get("no_log")}
    # a condition only reveals whether the secret is set
    shown = {path.name: re.sub(r"{%.*?%}|\bif \w+", "", path.read_text()) for path in role.glob("templates/**/*.j2")}
    known |= {name for name, text in shown.items() if known & set(re.findall(r"\w+", text))}
    used_by = {name: set(re.findall(r"[\w.]+", str(value))) for name, value in read("vars/main.yml").items()}
    while more := {name for name, used in used_by.items() if name not in known and used & known}:
        known |= more
    return known


def test_tasks_that_write_secrets_have_no_log() -> None:
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


def test_preflight_tasks_do_not_fail_silently() -> None:
    """A check that fails silently lets an unchecked host pass."""
    files = [path for path in FILES if path.name.startswith("preflight")]
    assert [
        where
        for where, task in found(files)
        if task.get("failed_when") is False
        # a play that collects its failures reports them (test_preflight.py)
        or (task.get("ignore_errors") and "baton_defer_problems" not in task.get("vars", {}))
        or task.get("ignore_unreachable")
    ] == []


def test_only_one_task_installs_packages_by_apt() -> None:
    """ansible.builtin.apt reads all package lists in each task, and fails if one source is unusable."""
    installing = [where for where, task in found(FILES) if "ansible.builtin.apt" in task]
    assert installing == ["playbooks/tasks/hosts/upgrade.yml: Upgrade the packages"]
    assert "update_cache" not in (PROJECT / "playbooks/tasks/hosts/upgrade.yml").read_text()


def test_included_files_exist() -> None:
    """A dynamic include of a missing file fails only in the run that needs it, such as a revert."""
    keys = {f"ansible.builtin.{kind}" for kind in ("import_tasks", "include_tasks", "import_playbook")}
    assert [
        f"{where}: {name}"
        for where, task in found([PROJECT / "site.yml", *FILES])
        for name in [*(task[key] for key in keys & task.keys()), *task.get("vars_files", [])]
        if "{{" not in name and not (PROJECT / where.partition(":")[0]).parent.joinpath(name).is_file()
    ] == []


def test_top_level_playbooks_are_those_that_people_run() -> None:
    """A playbook that others import is a phase, in phases/."""
    on_top = {path.stem for path in PROJECT.glob("playbooks/*.yml")}
    imported = {
        (path.parent / task["ansible.builtin.import_playbook"]).resolve().relative_to(PROJECT / "playbooks")
        for path in PROJECT.glob("playbooks/**/*.yml")
        for _, task in found([path])
        if "ansible.builtin.import_playbook" in task
    }
    assert {path.parent.name for path in imported} == {"phases"}
    assert not on_top & {path.stem for path in PROJECT.glob("playbooks/phases/*.yml")}


def test_backing_services_are_named_only_in_topology_and_wiring() -> None:
    topology = yaml.safe_load((PROJECT / "playbooks/vars/topology.yml").read_text())
    named = {
        f"{path.relative_to(PROJECT)}: {row[key]}"
        for row in topology["baton_host_service_table"]
        for key in ("name", "group", "role", "unit", "listener", "interruption")
        for path in PROJECT.glob("playbooks/**/*.yml")
        if row[key] in path.read_text() and path.stem not in ("topology", "wiring")
    }
    assert named == set()


def test_each_rollout_phase_has_an_id_and_one_rescue() -> None:
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


def test_messages_about_the_fleet_are_shown_once_and_those_about_a_host_for_each() -> None:
    messages = [
        (where, task.get("run_once") is True, "inventory_hostname" in str(task))
        for where, task in found([path for path in FILES if "playbooks" in path.parts])
        if "ansible.builtin.debug" in task
    ]
    assert len(messages) > 8
    assert [where for where, once, about_a_host in messages if once == about_a_host] == []


def test_files_have_no_duplicate_keys(capfd: pytest.CaptureFixture[str]) -> None:
    """Ansible warns operators about them, also if one comes from a merged anchor."""
    for path in FILES:
        DataLoader().load_from_file(str(path))
    assert "duplicate" not in capfd.readouterr().err
