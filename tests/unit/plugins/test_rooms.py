"""The rooms of module_utils: where each may run, what it may import, and that imports go one way only."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

PLUGINS = pathlib.Path(__file__).parents[3] / "plugins"
ROOMS = sorted(path.parent for path in (PLUGINS / "module_utils").glob("*/__init__.py"))
FQ = "ansible_collections.baton.web.plugins.module_utils."
# modules whose action plugin does all of it on the controller, and the one that runs there
ON_CONTROLLER = {"artifact", "controller_info", "packages", "receipt"}


def runs_on(room: pathlib.Path) -> str:
    """Where a room's code may run, by its own word."""
    said = re.search(r"^Runs on: (controller|host|both)\.$", (room / "__init__.py").read_text(), re.MULTILINE)
    assert said, f"{room.name}/__init__.py doesn't say where it runs"
    return said[1]


def imported(path: pathlib.Path) -> Iterator[str]:
    """What a file imports: `room/NAME` for a room, else the name of the top package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            yield (
                f"room/{module.removeprefix(FQ).partition('.')[0]}"
                if module.startswith(FQ)
                else module.partition(".")[0]
            )
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            yield f"room/{path.parent.name}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"room/{name}" for name in [(node.module or "").partition(".")[0]] if name)


def test_every_file_is_in_a_room() -> None:
    assert {path.parent for path in (PLUGINS / "module_utils").rglob("*.py")} == set(ROOMS)


@pytest.mark.parametrize("room", [room for room in ROOMS if runs_on(room) != "controller"], ids=lambda room: room.name)
def test_what_runs_on_a_host_needs_nothing_but_its_python(room: pathlib.Path) -> None:
    on_hosts = {f"room/{other.name}" for other in ROOMS if runs_on(other) != "controller"}
    allowed = on_hosts | sys.stdlib_module_names
    assert {
        f"{path.name}: {name}" for path in room.glob("*.py") for name in imported(path) if name not in allowed
    } == set()


def test_a_module_takes_to_a_host_nothing_that_only_the_controller_has() -> None:
    rooms = {f"room/{room.name}" for room in ROOMS if runs_on(room) != "controller"}
    allowed = rooms | sys.stdlib_module_names | {"ansible"}
    modules = [path for path in (PLUGINS / "modules").glob("*.py") if path.stem not in ON_CONTROLLER]
    assert {f"{path.name}: {name}" for path in modules for name in imported(path) if name not in allowed} == set()


def test_rooms_depend_on_one_another_one_way_only() -> None:
    graph = {
        room.name: {
            name.removeprefix("room/")
            for path in room.glob("*.py")
            for name in imported(path)
            if name.startswith("room/") and name != f"room/{room.name}"
        }
        for room in ROOMS
    }
    assert graph["host"] == set()
    assert list(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises


def test_what_an_action_tells_goes_past_no_filter() -> None:
    """The callback makes printable what results say; what an action prints itself it doesn't see."""
    files = [*PLUGINS.glob("action/*.py"), *PLUGINS.glob("filter/*.py"), *PLUGINS.glob("module_utils/*/*.py")]
    prints = {f"{path.parent.name}/{path.name}" for path in files if "Display" in path.read_text()}
    assert prints == {"controller/action.py"}
