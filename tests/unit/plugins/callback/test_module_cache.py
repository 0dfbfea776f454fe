"""Packed modules are reused until one of their sources changes, and a broken cache is ignored."""

from __future__ import annotations

import pathlib
import re
import shutil
import types

import pytest
from ansible.parsing.dataloader import DataLoader

from tests.support import program
from tests.support.playbooks import PROJECT, Done, Playbooks, plugin

COLLECTION = PROJECT / "collections/ansible_collections/baton/web"
FILTERS = sorted(path.stem for path in PROJECT.glob("plugins/filter/*.py"))
PACKS = "ANSIBALLZ: Creating module"
REUSES = "ANSIBALLZ: using cached module"


MODULES = "ansible_collections.baton.web.plugins.modules"


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The cache of packed modules, for this test only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/baton/packed"


def facts(tmp_path: pathlib.Path) -> Done:
    """Run one of the project's modules with Ansible's debug output."""
    runner, playbook = Playbooks.written(
        tmp_path, {"tasks": [{"baton.web.host_facts": {}}]}, environment={"ANSIBLE_DEBUG": "1"}
    )
    return runner.succeed(playbook)


def test_next_run_reuses_the_packed_modules(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    first, second = facts(tmp_path).output, facts(tmp_path).output
    assert (PACKS in first, REUSES in first) == (True, False)
    assert (PACKS in second, REUSES in second) == (False, True)
    assert [path.name.split("-")[0] for path in cache.glob("*/*")] == [
        "ansible_collections.baton.web.plugins.modules.host_facts"
    ]


def test_filters_load_once_in_a_run(tmp_path: pathlib.Path) -> None:
    uses = {"ansible.builtin.assert": {"that": "{} | baton.web.failures | length == 0"}}
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [uses, uses]}, environment={"ANSIBLE_DEBUG": "1"})
    output = runner.succeed(playbook).output
    loads = re.findall(r"Loading FilterModule '.*' from .*/baton/web/plugins/filter/(\w+)\.py(.*)", output)
    assert sorted(name for name, notes in loads if "found_in_cache=True" not in notes) == FILTERS


def test_unusable_cache_is_ignored(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("not a folder")
    assert PACKS in facts(tmp_path).output


@pytest.mark.parametrize("changed", ["modules/host_facts.py", "module_utils/host/facts.py", "module_utils/host/new.py"])
def test_change_of_a_source_changes_the_cache_key(
    changed: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plugin("callback/module_cache")
    for folder in ("modules", "module_utils"):
        shutil.copytree(PROJECT / "plugins" / folder, tmp_path / "plugins" / folder)
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    before = module.cache_folder()
    assert module.cache_folder() == before
    with (tmp_path / "plugins" / changed).open("a") as file:
        file.write("\n# changed\n")
    assert module.cache_folder() != before


def test_modules_packed_while_a_source_changed_are_not_kept(
    tmp_path: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plugin("callback/module_cache")
    run = tmp_path / "run"
    run.mkdir()
    (run / "ansible_collections.baton.web.plugins.modules.deploy_lock-ZIP").write_text("of the old source")
    monkeypatch.setattr(module, "packed", lambda: run)
    run_callback = module.CallbackModule()
    run_callback.v2_playbook_on_start(types.SimpleNamespace(_loader=DataLoader()))
    before = module.cache_folder()
    monkeypatch.setattr(module, "cache_folder", lambda: cache / "another")
    run_callback.v2_playbook_on_stats(None)
    assert not list(cache.glob("*/*"))
    monkeypatch.setattr(module, "cache_folder", lambda: before)
    run_callback.v2_playbook_on_stats(None)
    assert [path.name for path in before.iterdir()] == ["ansible_collections.baton.web.plugins.modules.deploy_lock-ZIP"]


def test_modules_of_other_collections_are_not_kept(tmp_path: pathlib.Path) -> None:
    module, source, target = plugin("callback/module_cache"), tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("ansible.modules.apt-ZIP", "ansible_collections.community.crypto.plugins.modules.x509-ZIP"):
        (source / name).touch()
    for name in ("ansible.modules.copy-ZIP-part", "ansible.modules.copy-ZIP.lock"):
        (source / name).touch()
    module.store(source, target)
    assert [path.name for path in target.iterdir()] == ["ansible.modules.apt-ZIP"]


def test_only_the_most_recent_caches_are_kept(cache: pathlib.Path) -> None:
    module = plugin("callback/module_cache")
    for age in range(5):
        (cache / f"old{age}").mkdir(parents=True)
    module.cache_folder().mkdir()
    module.prune(module.cache_folder())
    assert len(list(cache.iterdir())) == module.KEPT
    assert module.cache_folder().exists()


def test_shared_variables_are_read_once(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # where Ansible finds the callback, while the playbooks of a checkout are found in the checkout
    module = program.load(COLLECTION / "plugins/callback/module_cache.py", "module_cache_of_the_collection")
    loader = DataLoader()
    monkeypatch.setattr(module, "packed", lambda: cache.with_name("run"))
    module.CallbackModule().v2_playbook_on_start(types.SimpleNamespace(_loader=loader))
    monkeypatch.setattr(loader, "load", lambda **_: pytest.fail("the file is read again"))
    # how Ansible's VariableManager reads a play's vars_files
    for root in (PROJECT, COLLECTION):
        files = sorted(root.glob("playbooks/vars/*.yml"))
        assert {path.stem for path in files} >= {"topology", "wiring", "rollout"}
        for path in map(str, files):
            assert loader.load_from_file(path, unsafe=True, cache="vaulted", trusted_as_template=True)
