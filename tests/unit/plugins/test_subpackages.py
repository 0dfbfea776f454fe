"""The subpackages of module_utils: where each may run, what it may import, and that imports go in one direction."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

PLUGINS = pathlib.Path(__file__).parents[3] / "plugins"
SUBPACKAGES = sorted(path.parent for path in (PLUGINS / "module_utils").glob("*/__init__.py"))
FQ = "ansible_collections.baton.web.plugins.module_utils."
# modules without host code: their action does everything on the controller, or they run there
ON_CONTROLLER = {"artifact", "controller_info", "packages", "receipt"}


def runs_on(subpackage: pathlib.Path) -> str:
    """Where a subpackage's code may run, as its __init__.py states."""
    found = re.search(r"^Runs on: (controller|host|both)\.$", (subpackage / "__init__.py").read_text(), re.MULTILINE)
    assert found, f"{subpackage.name}/__init__.py doesn't say where it runs"
    return found[1]


def imported(path: pathlib.Path) -> Iterator[str]:
    """What a file imports: `subpackage/NAME`, or the name of the top-level package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            yield (
                f"subpackage/{module.removeprefix(FQ).partition('.')[0]}"
                if module.startswith(FQ)
                else module.partition(".")[0]
            )
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            yield f"subpackage/{path.parent.name}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"subpackage/{name}" for name in [(node.module or "").partition(".")[0]] if name)


def test_every_file_is_in_a_subpackage() -> None:
    assert {path.parent for path in (PLUGINS / "module_utils").rglob("*.py")} == set(SUBPACKAGES)


@pytest.mark.parametrize(
    "subpackage",
    [subpackage for subpackage in SUBPACKAGES if runs_on(subpackage) != "controller"],
    ids=lambda subpackage: subpackage.name,
)
def test_host_code_imports_only_the_standard_library(subpackage: pathlib.Path) -> None:
    on_hosts = {f"subpackage/{other.name}" for other in SUBPACKAGES if runs_on(other) != "controller"}
    allowed = on_hosts | sys.stdlib_module_names
    assert {
        f"{path.name}: {name}" for path in subpackage.glob("*.py") for name in imported(path) if name not in allowed
    } == set()


def test_modules_import_no_controller_code() -> None:
    host_code = {f"subpackage/{other.name}" for other in SUBPACKAGES if runs_on(other) != "controller"}
    allowed = host_code | sys.stdlib_module_names | {"ansible"}
    modules = [path for path in (PLUGINS / "modules").glob("*.py") if path.stem not in ON_CONTROLLER]
    assert {f"{path.name}: {name}" for path in modules for name in imported(path) if name not in allowed} == set()


def test_imports_go_in_one_direction() -> None:
    graph = {
        subpackage.name: {
            name.removeprefix("subpackage/")
            for path in subpackage.glob("*.py")
            for name in imported(path)
            if name.startswith("subpackage/") and name != f"subpackage/{subpackage.name}"
        }
        for subpackage in SUBPACKAGES
    }
    assert graph["host"] == set()
    assert list(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises
    assert list(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises


def test_only_the_action_base_prints_to_the_display() -> None:
    """The callback escapes results; text that an action prints itself bypasses it."""
    files = [*PLUGINS.glob("action/*.py"), *PLUGINS.glob("filter/*.py"), *PLUGINS.glob("module_utils/*/*.py")]
    prints = {f"{path.parent.name}/{path.name}" for path in files if "Display" in path.read_text()}
    assert prints == {"controller/action.py"}
