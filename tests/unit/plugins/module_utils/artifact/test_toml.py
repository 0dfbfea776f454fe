"""Untrusted TOML files: their content has the expected types, or a message names what hasn't."""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import lockfile, staleness, toolchain, wheels
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError, CommandError
from hypothesis import example, given
from hypothesis import strategies as st

DEEP = ("a=" + "[" * 5000, "a=" + "{a=" * 5000, "a=" + "[" * 400 + "]" * 400)


@pytest.mark.parametrize("content", [*DEEP, "a=" + "9" * 9000, "a = '\x00'", "["])
def test_file_that_no_parser_accepts_is_reported(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    with contextlib.suppress(BatonError):  # the nesting limit depends on the Python version
        lockfile.read_pyproject(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("pyproject.toml", "tool = []", "tool is not a table"),
        ("pyproject.toml", "tool.uv = 1", "tool.uv is not a table"),
        ("pyproject.toml", "tool.uv.dev-dependencies = {}", "tool.uv.dev-dependencies is not a list"),
        ("pyproject.toml", "project.dynamic = [[]]", "an entry of project.dynamic is not a string"),
        ("pyproject.toml", "dependency-groups.dev = 'a'", "dependency-groups.dev is not a list"),
        ("pyproject.toml", "build-system.requires = 'a'", "build-system.requires is not a list"),
        ("uv.lock", "package = 1", "package is not a list"),
        ("uv.lock", "package = ['a']", "an entry of package is not a table"),
        ("uv.lock", "[[package]]\nsource = 'a'", "an entry of package.source is not a table"),
        ("poetry.lock", "metadata = []", "metadata is not a table"),
    ],
)
def test_value_of_a_wrong_type_is_named(tmp_path: pathlib.Path, file: str, content: str, reason: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(BatonError, match=f"{file} of the source can't be read: {reason}"):
        toolchain.read_toml(tmp_path / file, file)


def test_large_file_is_not_read(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "pyproject.toml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BatonError, match="is larger than"):
        lockfile.read_pyproject(tmp_path)


KEYS = st.sampled_from(
    [
        *("project", "tool", "uv", "poetry", "dependencies", "optional-dependencies", "dynamic", "dependency-groups"),
        *("build-system", "requires", "sources", "constraint-dependencies", "dev-dependencies", "requires-python"),
        *("package", "source", "editable", "virtual", "metadata", "requires-dist", "requires-dev", "manifest"),
        *("constraints", "overrides", "extras", "name", "version", "specifier", "python", "python-versions"),
    ]
)
VALUES = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.sampled_from(["", ".", "a", "a>=1", "dependencies", "a[b]==1; x", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=5)


def as_toml(found: Any) -> str:
    """A value as TOML text."""
    if isinstance(found, dict):
        return "{" + ", ".join(f"{key} = {as_toml(one)}" for key, one in found.items()) + "}"
    if isinstance(found, list):
        return "[" + ", ".join(map(as_toml, found)) + "]"
    return json.dumps(found)


@given(TABLES, TABLES)
@example({"project": {"dependencies": ["a>=1"]}}, {"package": [{"name": "a", "source": {"virtual": "."}}]})
def test_any_project_and_lock_are_read_or_reported(project: dict[str, Any], lock: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(BatonError, CommandError):
        folder = pathlib.Path(name)
        for file, content in (("pyproject.toml", project), ("uv.lock", lock), ("poetry.lock", lock)):
            (folder / file).write_text("".join(f"{key} = {as_toml(one)}\n" for key, one in content.items()))
        assert lockfile.is_package(lockfile.read_pyproject(folder)) in (True, False)
        assert isinstance(wheels._declared_requirements(folder), list)
        toolchain.read_toml(folder / "poetry.lock", "poetry.lock").get("metadata", {}).get("python-versions")
        staleness.of_uv_lock(toolchain.read_toml(folder / "uv.lock", "uv.lock"), folder, "uv.lock", folder)
