"""Whether a lock is up to date with its project's requirements.

Compares with the copy of each project's requirements in uv.lock. `uv lock --check` isn't used: it also fails for a lock
that was made with another index than the controller's. Ignores markers, which uv normalizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from .toolchain import read_toml

# a requirement without its marker: name, extras, specifier
_Asked = tuple[str, frozenset[str], str]


def of_uv_lock(lock: Mapping[str, Any], folder: Path, name: str, root: Path) -> str:
    """Return the first difference between uv.lock and the projects that it locks, as text; '' if there is none."""
    for package in lock.get("package", []):
        source = package.get("source", {})
        place = source.get("editable", source.get("virtual", source.get("directory")))
        path = folder / str(place) / "pyproject.toml"
        if place is None or not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            continue
        shown = str(Path(str(place)) / "pyproject.toml")
        project = read_toml(path, shown)
        found = _of_project(package, project)
        if found is None and str(place) == ".":
            found = _of_bounds(lock.get("manifest", {}), project)
        if found:
            return (
                f"{shown} requires {found[0]}, which {name} doesn't have"
                if found[1]
                else f"it has {found[0]}, which {shown} no longer requires"
            )
    return ""


def _of_bounds(manifest: Mapping[str, Any], project: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return the first difference between constraints and overrides of the lock and the project."""
    asked = project.get("tool", {}).get("uv", {})
    for kind in ("constraint", "override"):
        wanted = {one for line in asked.get(f"{kind}-dependencies", []) if (one := _of_line(line, set())) is not None}
        known = {_of_entry(entry, set()) for entry in manifest.get(f"{kind}s", [])}
        for one in sorted(wanted ^ known, key=str):
            return _shown(one), one in wanted
    return None


def _of_project(package: Mapping[str, Any], project: Mapping[str, Any]) -> tuple[str, bool] | None:
    metadata = package.get("metadata", {})
    table = project.get("project", {})
    elsewhere: set[str] = {canonicalize_name(one) for one in project.get("tool", {}).get("uv", {}).get("sources", {})}
    extras = table.get("optional-dependencies", {})
    pairs: list[tuple[list[Any], Iterable[Mapping[str, Any]]]] = []
    if not {"dependencies", "optional-dependencies"} & set(table.get("dynamic", [])):
        asked = [*table.get("dependencies", []), *(line for lines in extras.values() for line in lines)]
        pairs.append((asked, metadata.get("requires-dist", [])))
    groups = dict(project.get("dependency-groups", {}))
    legacy = project.get("tool", {}).get("uv", {}).get("dev-dependencies", [])
    if legacy:
        groups["dev"] = [*groups.get("dev", []), *legacy]
    locked = {canonicalize_name(group): lines for group, lines in metadata.get("requires-dev", {}).items()}
    for group, lines in groups.items():
        if all(isinstance(line, str) for line in lines):  # not one that includes another
            pairs.append((list(lines), locked.get(canonicalize_name(group), [])))
    for lines, entries in pairs:
        wanted = {one for line in lines if (one := _of_line(line, elsewhere)) is not None}
        known = {_of_entry(entry, elsewhere) for entry in entries}
        own = canonicalize_name(str(package.get("name", "")))
        for one in sorted(wanted - known, key=str):
            if one[0] != own:  # uv expands the project's own extras
                return _shown(one), True
        for one in sorted(known - wanted, key=str):
            if one[0] != own and len(wanted) == len(lines):
                return _shown(one), False
    return None


def _of_line(line: Any, elsewhere: set[str]) -> _Asked | None:
    try:
        requirement = Requirement(str(line))
    except InvalidRequirement:
        return None
    name = canonicalize_name(requirement.name)
    specifier = "" if requirement.url or name in elsewhere else _normal(str(requirement.specifier))
    return name, frozenset(map(canonicalize_name, requirement.extras)), specifier


def _of_entry(entry: Mapping[str, Any], elsewhere: set[str]) -> _Asked:
    name = canonicalize_name(str(entry.get("name", "")))
    specifier = "" if name in elsewhere else _normal(str(entry.get("specifier", "")))
    return name, frozenset(map(canonicalize_name, entry.get("extras", []))), specifier


def _normal(specifier: str) -> str:
    try:
        return ",".join(sorted(str(one) for one in SpecifierSet(specifier)))
    except InvalidSpecifier:
        return specifier


def _shown(asked: _Asked) -> str:
    name, extras, specifier = asked
    chosen = ",".join(sorted(extras))
    return f"{name}[{chosen}]{specifier}" if extras else f"{name}{specifier}"
