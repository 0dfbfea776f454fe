"""The collection as a team installs it: from its archive, into an empty folder, with the team's own inventory."""

from __future__ import annotations

import configparser
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tomllib
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.change.version import VERSION

from tests.support import collection
from tests.support.collection import run
from tests.support.playbooks import PROJECT, Playbooks

# what a team needs; everything else belongs to this repository
SHIPPED = {
    *("MANIFEST.json", "FILES.json", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"),
    *(
        "requirements.txt",
        "requirements.yml",
        "docs",
        "handover",
        "inventories",
        "meta",
        "playbooks",
        "plugins",
        "roles",
    ),
}
# the playbooks that people run
PLAYBOOKS = sorted(
    path.stem
    for path in (PROJECT / "playbooks").glob("*.yml")
    if path.stem in re.findall(r"playbooks/(\w+)\.yml", (PROJECT / "README.md").read_text())
)
HOSTS = """
app_servers: {hosts: {web1.test: {ansible_host: 127.0.0.1, ansible_port: 9}}}
all:
  vars:
    app_name: shop
    app_source: https://git.example.org/shop.git
    app_module: shop:app
    nginx_site_server_names: [shop.example.org]
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The collection's archive, built from a checkout that contains everything that must not be packed."""
    checkout = tmp_path_factory.mktemp("checkout")
    collection.copy_checkout(checkout)
    for unwanted in (
        *(".venv/bin/python", ".cache/x", ".mypy_cache/x", ".github/x", ".ansible/x", "dist/x", "build/x"),
        *("plugins/action/__pycache__/x.pyc", "roles/app_release/.ruff_cache/x", "handover/.hypothesis/x"),
        *("handover/src/gunicorn_handover/__pycache__/x", "handover/dist/x.whl", "handover/build/x"),
        *("handover/src/gunicorn_handover.egg-info/x", "baton-web-0.1.0.tar.gz", "inventories/.x"),
        *("inventories/production/secrets/x", "inventories/eu/hosts.yml", "inventories/demo/tls/ca.key"),
    ):
        (checkout / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (checkout / unwanted).write_text("x")
    return collection.pack(checkout, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def team(archive: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A team's repository, set up as README.md describes, with a host that can't be reached."""
    folder = tmp_path_factory.mktemp("team")
    collection.install(archive, folder)
    (folder / "inventory/hosts.yml").write_text(HOSTS)
    shutil.rmtree(folder / "inventory/group_vars")
    return folder


def test_archive_contains_only_what_a_team_needs(archive: pathlib.Path) -> None:
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert {name.partition("/")[0] for name in names} == SHIPPED
    assert [
        name
        for name in names
        if re.search(r"(^|/)(\.|__pycache__|(tests|dist|build)(/|$))|\.egg-info|requirements-test", name)
    ] == []
    assert {name.split("/")[1] for name in names if name.startswith("inventories/")} == {"example"}


def test_archive_contains_all_roles_plugins_and_playbooks(archive: pathlib.Path) -> None:
    done = subprocess.run(
        ["git", "ls-files", "roles", "plugins", "playbooks", "meta", "docs", "handover/src", "inventories/example"],
        cwd=PROJECT,
        check=True,
        text=True,
        capture_output=True,
    )
    with tarfile.open(archive) as packed:
        assert {name for name in done.stdout.split() if os.path.lexists(PROJECT / name)} <= set(packed.getnames())


def test_version_is_the_same_everywhere() -> None:
    versions = {
        "galaxy.yml": yaml.safe_load((PROJECT / "galaxy.yml").read_text())["version"],
        "pyproject.toml": tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"],
        "CHANGELOG.md": re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)[0],
    }
    assert versions == dict.fromkeys(versions, VERSION)


def test_checkout_requires_the_collections_dependencies() -> None:
    required = yaml.safe_load((PROJECT / "requirements.yml").read_text())["collections"]
    wanted = yaml.safe_load((PROJECT / "galaxy.yml").read_text())["dependencies"]
    assert {entry["name"]: entry["version"] for entry in required} == wanted


def test_used_collections_are_required_and_no_others() -> None:
    wanted = set(yaml.safe_load((PROJECT / "galaxy.yml").read_text())["dependencies"])
    known = "|".join(re.escape(path.parent.name + "." + path.name) for path in others())
    files = [path for folder in ("roles", "playbooks", "plugins", "fleet", "molecule") for path in used(folder)]
    used_ones = {name for path in files for name in re.findall(rf"\b({known})\.\w+", path.read_text(encoding="utf-8"))}
    # a Python package of Ansible's own
    used_ones -= {name for name in used_ones if name == "ansible.utils" and name not in wanted}
    assert used_ones == wanted


def others() -> list[pathlib.Path]:
    """The collections that the package `ansible` contains."""
    import ansible_collections

    roots = [pathlib.Path(root) for root in ansible_collections.__path__]
    return [path for root in roots for path in root.glob("*/*") if (path / "MANIFEST.json").exists()]


def used(folder: str) -> list[pathlib.Path]:
    suffixes = (".yml", ".j2") if folder != "plugins" else (".py",)
    return [path for path in (PROJECT / folder).rglob("*") if path.suffix in suffixes and path.is_file()]


def test_example_ansible_cfg_matches_the_checkouts() -> None:
    def settings(path: str) -> dict[str, Any]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(PROJECT / path)
        return {f"{section}.{key}": value for section in parser.sections() for key, value in parser[section].items()}

    ours, theirs = settings("ansible.cfg"), settings("inventories/example/ansible.cfg")
    assert theirs == ours | {"defaults.inventory": "inventory"}


# of the checkout's playbooks, `make lint` checks the syntax
@pytest.mark.long
def test_playbooks_pass_the_syntax_check(team: pathlib.Path) -> None:
    assert {"site", "deploy", "rollback", "status"} <= set(PLAYBOOKS)
    done = run(team, "ansible-playbook", "--syntax-check", *(f"baton.web.{name}" for name in PLAYBOOKS))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("baton.web.site", "--check"), ("baton.web.deploy",), ("baton.web.status",)])
def test_run_stops_at_an_unreachable_host(team: pathlib.Path, words: tuple[str, ...]) -> None:
    done = run(team, "ansible-playbook", *words)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(r"web1\.test .*can't be reached: .*Connection refused", output), output


def test_run_without_the_callback_names_ansible_cfg(team: pathlib.Path) -> None:
    done = run(team, "ansible-playbook", "baton.web.deploy", ANSIBLE_CALLBACKS_ENABLED="baton.web.module_cache")
    assert done.returncode != 0
    assert "ansible.cfg" in done.stdout + done.stderr


def test_modules_and_roles_have_documentation(team: pathlib.Path) -> None:
    modules = sorted(path.stem for path in (PROJECT / "plugins/modules").glob("*.py"))
    done = run(team, "ansible-doc", "--json", *(f"baton.web.{name}" for name in modules))
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert {name.removeprefix("baton.web.") for name, about in found.items() if about.get("doc")} == set(modules)
    roles = yaml.safe_load(run(team, "ansible-doc", "--json", "--list", "-t", "role", "baton.web").stdout)
    assert {name.removeprefix("baton.web.") for name in roles} == {path.name for path in (PROJECT / "roles").iterdir()}


@pytest.mark.parametrize("group", ["app", "health"])
def test_modules_of_an_action_group_have_its_options(group: str) -> None:
    wanted = {"app": {"name"}, "health": {"health_path", "health_listen", "health_host"}}[group]
    runtime = yaml.safe_load((PROJECT / "meta/runtime.yml").read_text())
    modules = runtime["action_groups"][group]
    done = run(PROJECT, "ansible-doc", "--json", *(f"baton.web.{name}" for name in modules))
    for name, about in json.loads(done.stdout).items():
        assert wanted <= about["doc"]["options"].keys(), name


def test_action_group_options_apply_from_module_defaults(tmp_path: pathlib.Path) -> None:
    # one module with an action, and one without
    play = {
        "module_defaults": {"group/baton.web.app": {"name": "shop"}},
        "tasks": [
            {"baton.web.rehearse": {}, "ignore_errors": True, "register": "rehearsed"},
            {"baton.web.history_info": {}, "register": "history"},
            {
                "ansible.builtin.assert": {
                    "that": ["'missing required' not in rehearsed.msg", "history.candidates == []"]
                }
            },
        ],
    }
    runner, playbook = Playbooks.written(tmp_path, play, host="ansible_connection=local")
    assert "shop" in runner.succeed(playbook).words
