"""Rules for every role: defaults, argument specs and README agree, preflight exists, templates name Ansible."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
from typing import Any

import pytest
import yaml

MODULE = "baton.web.files"
END_OF_TABLE = "<!-- end of variables -->"
ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir() and not path.name.startswith("."))
TEMPLATES = sorted(
    str(path.relative_to(ROLES))
    for path in ROLES.glob("*/templates/**/*")
    # a name with a leading "_" is a partial of other templates
    if path.is_file() and not path.name.startswith("_")
)
FIRST_LINE = re.compile(r"\{\{ ansible_managed \| comment(\('[a-z]+'\))? \}\}")
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "raw": (object,),
}

pytestmark = pytest.mark.parametrize("role", NAMES)


def read(role: str, file: str) -> Any:
    path = ROLES / role / file
    return yaml.safe_load(path.read_text()) if path.exists() else None


def entry_points(role: str) -> dict[str, Any]:
    return dict(read(role, "meta/argument_specs.yml")["argument_specs"])


def options(role: str) -> dict[str, dict[str, Any]]:
    """The options of all entry points, merged."""
    merged: dict[str, dict[str, Any]] = {}
    for entry_point in entry_points(role).values():
        merged.update(entry_point.get("options") or {})
    return merged


def readme_rows(role: str) -> dict[str, tuple[str, str, str]]:
    """Type (or its values), default and description of each variable in the README's table."""
    rows = {}
    for line in (ROLES / role / "README.md").read_text().splitlines():
        cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and re.fullmatch(r"`[a-z0-9_]+`", cells[0]):
            rows[cells[0].strip("`")] = (cells[1], cells[2], cells[3])
    return rows


def shown(option: dict[str, Any]) -> str:
    """A default as the README shows it."""
    if option.get("required"):
        return "required"
    default = option.get("default")
    return "empty" if default == "" else f"`{default if isinstance(default, str) else json.dumps(default)}`"


def test_defaults_match_the_argument_specs(role: str) -> None:
    declared = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert (read(role, "defaults/main.yml") or {}) == declared


def test_example_in_the_readme_names_the_role_and_sets_what_it_requires(role: str) -> None:
    (example,) = re.findall(
        r"```yaml\n(.*?)```", (ROLES / role / "README.md").read_text().split(END_OF_TABLE)[1], re.DOTALL
    )
    names: set[str | None] = set()
    given: dict[str, Any] = {}
    pending = list(yaml.safe_load(example))
    while pending:
        part = pending.pop()
        pending += part.get("tasks", []) + part.get("roles", [])
        names |= {part.get("role"), part.get("ansible.builtin.include_role", {}).get("name")}
        given |= {name: value for name, value in part.items() if name.startswith(role)} | part.get("vars", {})
    # an inventory of one's own finds roles by their full names alone
    assert names - {None} == {f"baton.web.{role}"}
    assert set(given) <= set(options(role))
    assert {name for name, option in entry_points(role)["main"]["options"].items() if option.get("required")} <= set(
        given
    )


def test_option_is_either_required_or_has_a_default(role: str) -> None:
    # the application's own settings (such as app_source) may have neither
    undecided = [
        name
        for name, option in options(role).items()
        if name.startswith(f"{role}_") and bool(option.get("required")) == ("default" in option)
    ]
    assert undecided == []


def test_defaults_have_the_declared_types(role: str) -> None:
    wrong = []
    for name, option in options(role).items():
        default = option.get("default")
        if "default" not in option or (isinstance(default, str) and "{{" in default):
            continue
        boolean_for_a_number = isinstance(default, bool) and option["type"] in ("int", "float")
        if boolean_for_a_number or not isinstance(default, TYPES[option["type"]]):
            wrong.append(f"{name}: {default!r} is no {option['type']}")
    assert wrong == []


def test_every_default_has_a_comment(role: str) -> None:
    path = ROLES / role / "defaults/main.yml"
    lines = path.read_text().splitlines() if path.exists() else []
    # a comment may describe several variables that follow it
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if re.match(r"[a-z][a-z0-9_]*:", line) and not re.match(r"#|[a-z]", before)
    ]
    assert bare == []


def test_variable_names_begin_with_the_role_or_app(role: str) -> None:
    strange = [name for name in options(role) if not name.startswith((f"{role}_", "app_"))]
    assert strange == []


def test_every_option_has_a_description(role: str) -> None:
    assert [name for name, option in options(role).items() if not option.get("description")] == []


def test_description_of_dictionaries_names_their_keys(role: str) -> None:
    missing = []
    for name, option in options(role).items():
        # it may refer to another option with the same keys
        named = [one["description"] for other, one in options(role).items() if f"`{other}`" in option["description"]]
        described = " ".join([option["description"], *named])
        pending = [option]
        while pending:
            keys = pending.pop().get("options") or {}
            missing += [f"{name}: {key}" for key in keys if not re.search(rf"\b{key}\b", described)]
            pending += keys.values()
    assert missing == []


def test_readme_lists_every_variable_with_type_and_default(role: str) -> None:
    expected = {}
    for name, option in options(role).items():
        kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
        if "choices" in option:
            assert option["type"] != "list", "role-readmes must say that these are the elements' values"
            kind = " or ".join(", ".join(f"`{one}`" for one in option["choices"]).rsplit(", ", 1))
        expected[name] = (kind, shown(option), option["description"])
    assert readme_rows(role) == expected


def test_preflight_is_an_entry_point_with_the_options_of_main(role: str) -> None:
    entries = entry_points(role)
    assert "preflight" in entries
    assert entries["preflight"].get("options") == entries["main"].get("options")
    assert (ROLES / role / "tasks/preflight.yml").is_file()


def test_compare_has_the_options_of_main_and_changes_nothing(role: str) -> None:
    entries = entry_points(role)
    tasks = read(role, "tasks/compare.yml") or []
    assert ("compare" in entries) == bool(tasks)
    if tasks:
        assert entries["compare"].get("options") == entries["main"].get("options")
    for task in tasks:
        if MODULE in task:
            # it must not write, show contents, or count as a change
            assert (task["check_mode"], task["diff"], task["changed_when"]) == (True, False, False), task["name"]
        else:
            assert task["ansible.builtin.import_tasks"] == "version.yml"
    # it must compare everything that the role writes or removes
    written_or_purged = [task for name in ("configure", "purge") for task in read(role, f"tasks/{name}.yml") or []]
    compared, written = (
        set(re.findall(r"__\w+", " ".join(task["baton.web.files"]["files"] for task in listed if MODULE in task)))
        for listed in (tasks, written_or_purged if tasks else [])
    )
    assert compared == written


def test_main_begins_with_preflight(role: str) -> None:
    first = read(role, "tasks/main.yml")[0]
    assert "preflight.yml" in (
        first.get("ansible.builtin.import_tasks", ""),
        first.get("ansible.builtin.include_tasks", ""),
    )


def test_preflight_changes_nothing(role: str) -> None:
    reading = {
        "ansible.builtin.assert",
        "ansible.builtin.fail",
        "ansible.builtin.stat",
        "ansible.builtin.slurp",
        "ansible.builtin.find",
        "ansible.builtin.import_tasks",
        "ansible.builtin.include_tasks",
    }
    changing = []
    for path in sorted((ROLES / role / "tasks").glob("preflight*.yml")):
        pending = list(yaml.safe_load(path.read_text()))
        while pending:
            task = pending.pop()
            pending += task.get("block", []) + task.get("rescue", [])
            module = next((key for key in task if "." in key or key.startswith("baton_")), None)
            # a command or one of Baton's modules must declare that it changes nothing, and run in check mode too
            says_so = task.get("changed_when") is False and task.get("check_mode") is False
            if module and module not in reading and not says_so:
                changing.append(f"{path.name}: {task.get('name')} ({module})")
    assert changing == []


def test_private_variables_begin_with_the_role(role: str) -> None:
    strange = [name for name in read(role, "vars/main.yml") or {} if not name.startswith(f"__{role}_")]
    assert strange == []


def test_registers_are_private_or_documented_outputs(role: str) -> None:
    readme = (ROLES / role / "README.md").read_text()
    strange = []
    for path in sorted((ROLES / role / "tasks").glob("*.yml")):
        for name in re.findall(r"^\s*register: (\S+)", path.read_text(), re.MULTILINE):
            is_output = name.startswith(f"{role}_") and name in readme
            if not name.startswith(f"__{role}_") and not is_output:
                strange.append(name)
    assert strange == []


def test_templates_begin_with_ansible_managed(role: str) -> None:
    nameless = []
    for template in TEMPLATES:
        if template.split("/")[0] != role:
            continue
        lines = (ROLES / template).read_text().splitlines()
        if lines and lines[0].startswith("#!"):
            lines = lines[1:]
        if not lines or not FIRST_LINE.fullmatch(lines[0]):
            nameless.append(template)
    assert nameless == []
