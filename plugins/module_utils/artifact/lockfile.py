"""Read a project's lock, of any supported kind, into requirements for all targets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..host import untrusted
from ..host.command import BatonError, CommandError, without_credentials
from ..host.wheel_build import folder_in
from . import requirements, source, source_tree, staleness
from .requirements import Pin
from .targets import Target
from .toolchain import Tools, file_digest, key_of, parse_toml, read_toml

# The oldest Python (3.x) of a supported host: unlocked requirements are resolved for it and newer versions.
OLDEST_MINOR = 11
_NEWEST_MINOR = 30
_TREE = "@SOURCE@"
# Poetry's own command refuses a project that excludes the controller's Python, but only the hosts' Python matters.
_POETRY_EXPORT = """
import json, pathlib, sys
from cleo.io.buffered_io import BufferedIO
from packaging.utils import canonicalize_name
from poetry.factory import Factory
from poetry_plugin_export.exporter import Exporter

folder, chosen = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
poetry, output = Factory().create_poetry(folder, disable_plugins=True), BufferedIO()
stale = not poetry.locker.is_fresh()
if stale and not chosen["allow_stale"]:
    sys.exit("stale")
extras = [canonicalize_name(extra) for extra in chosen["extras"]]
groups = ["main", *map(canonicalize_name, chosen["groups"])]
known = {"extra": poetry.package.extras, "group": poetry.package.dependency_group_names(include_optional=True)}
for kind, names in (("extra", extras), ("group", groups)):
    for name in names:
        if name not in known[kind] and name != "main":
            sys.exit(f"the project has no {kind} {name!r}")
exporter = Exporter(poetry, output)
exporter.only_groups(groups).with_extras(extras).with_urls(False)
exporter.export("requirements.txt", folder, output)
print("# stale" if stale else "#", output.fetch_output(), sep="\\n")
"""
# Locks of other tools, and the command that converts them.
_OTHERS = {
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
    "pdm.lock": "pdm export --prod -o requirements.txt",
    "pylock.toml": "uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements --hash > requirements.txt",
    "environment.yml": "pip list --format=freeze > requirements.txt",
}
# Files that declare a project's requirements if nothing is locked.
_UNLOCKED = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True)
class ResolveOptions:
    """The settings that add to or override the lock."""

    lock: str = ""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    extra_requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    exclude_newer: str = ""
    refresh: bool = False
    allow_stale: bool = False


@dataclass
class Locked:
    """Requirements for all targets, and the local projects that belong to them."""

    kind: str
    path: str
    pins: list[Pin]
    locals: list[str] = field(default_factory=list)
    locked: bool = True
    warnings: list[str] = field(default_factory=list)
    requires_python: list[tuple[str, str]] = field(default_factory=list)

    def universal(self) -> list[str]:
        """Return the lines for the release's id, without credentials, so that a new token doesn't change the id."""
        return sorted({without_credentials(pin.line()) for pin in self.pins})


def find(root: Path, subdir: str, override: str) -> tuple[str, Path] | None:
    """Return kind and path of the lock, searched in the project's folder, then in its parents up to the root.

    `override`: app_release_lock. Returns None if there is none. Raises BatonError.
    """
    project = root / subdir
    if override:
        for candidate in (project / override, root / override):
            if candidate.is_file():
                return _kind(candidate), candidate
        raise BatonError(
            f"The lock {override!r} (app_release_lock) is not in the source.",
            "Give a path relative to the project's folder or to the source's root.",
        )
    folders = [project]
    while folders[-1] != root and root in folders[-1].parents:
        folders.append(folders[-1].parent)
    for name in ("uv.lock", "poetry.lock", "requirements.txt"):
        for folder in folders:
            if (folder / name).is_file():
                return _kind(folder / name), folder / name
    for name in _UNLOCKED:
        if (project / name).is_file():
            return "pyproject.toml", project / name
    return None


def _other_locks(folder: Path) -> list[str]:
    """Return sentences about locks of other tools, which would otherwise be silently ignored."""
    return [
        f"{name} is not supported: convert it to requirements with `{command}`, and commit the result."
        for name, command in _OTHERS.items()
        if (folder / name).is_file()
    ]


def _kind(path: Path) -> str:
    if path.name in _OTHERS:
        raise BatonError(
            f"{path.name} (app_release_lock) is a lock that Baton doesn't support.",
            f"Convert it to requirements with `{_OTHERS[path.name]}`, commit the result, and name it instead.",
        )
    if path.name in ("uv.lock", "poetry.lock"):
        return path.name
    return "pyproject.toml" if path.name in _UNLOCKED else "requirements.txt"


def read_pyproject(folder: Path) -> dict[str, Any]:
    """Return the content of a project's pyproject.toml; empty if there is none."""
    path = folder / "pyproject.toml"
    return read_toml(path, path.name) if path.is_file() else {}


def asked_of_uv(project: Mapping[str, Any]) -> Iterable[str]:
    """Yield all strings of a pyproject.toml in which uv would insert variables, or which it would fetch with git."""
    table, own = (untrusted.mapping(project.get(name)) for name in ("project", "tool"))
    left: list[Any] = [project.get("build-system"), project.get("dependency-groups"), own.get("uv")]
    left += [table.get("dependencies"), table.get("optional-dependencies")]
    while left:  # it may be nested deeper than the recursion limit
        one = left.pop()
        if isinstance(one, dict):
            left += [f"git+{value}" if name == "git" else value for name, value in one.items()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            yield one


def is_package(project: dict[str, Any]) -> bool:
    """Whether a project has a build system and isn't marked as no package (uv, Poetry)."""
    tool = project.get("tool", {})
    return (
        "build-system" in project
        and tool.get("uv", {}).get("package", True) is not False
        and tool.get("poetry", {}).get("package-mode", True) is not False
    )


def resolve(
    root: Path, subdir: str, requirement: str, options: ResolveOptions, tools: Tools, targets: Sequence[Target]
) -> Locked:
    """Return everything that the application needs. `requirement`: set for a published package. Raises BatonError."""
    reader = _Reader(root, subdir, options, tools, targets)
    if requirement and not options.lock:
        locked = reader.compile_package(requirement)
    else:
        locked = reader.read(find(root, subdir, options.lock))
        if requirement:
            reader.add(locked, [requirement])
    if options.extra_requirements and locked.kind in ("uv.lock", "poetry.lock", "requirements.txt"):
        reader.add(locked, list(options.extra_requirements))
    locked.locals = sorted(dict.fromkeys(locked.locals))
    return locked


def check_python(locked: Locked, targets: Iterable[Target]) -> None:
    """Raise BatonError for targets that the project or its lock excludes."""
    for target in targets:
        for where, specifier in locked.requires_python:
            try:
                allowed = target.allows(specifier)
            except ValueError:
                allowed = _poetry_allows(specifier, target, where)
            if not allowed:
                raise BatonError(
                    f"{where} requires Python {specifier}, but there are app servers with Python {target.python_full}.",
                    f"Set python_runtime_version to one that {specifier} allows, or lock the application for "
                    f"{target.python}.",
                )


def _poetry_allows(specifier: str, target: Target, where: str) -> bool:
    from poetry.core.constraints.version import Version, parse_constraint

    try:
        constraint = parse_constraint(specifier)
    except (ValueError, RecursionError):
        raise BatonError(
            f"{where} requires Python {specifier[:100]!r}, which is not a version constraint.", "Correct it."
        ) from None
    patches = (0, 99) if target.patch is None else (target.patch,)
    return any(constraint.allows(Version.parse(f"{target.python}.{patch}")) for patch in patches)


class _Reader:
    def __init__(
        self, root: Path, subdir: str, options: ResolveOptions, tools: Tools, targets: Sequence[Target]
    ) -> None:
        self.root = root
        self.subdir = subdir
        self.project = root / subdir
        self.options = options
        self.tools = tools
        self.targets = targets
        self.stale = ""

    # -- locks -------------------------------------------------------------------------------------------

    def read(self, found: tuple[str, Path] | None) -> Locked:
        if found is None:
            others = _other_locks(self.project)
            if others:
                raise BatonError(
                    f"{self.subdir or 'The source'} has no uv.lock, poetry.lock, requirements.txt or pyproject.toml.",
                    others[0],
                )
            if not self.options.extra_requirements:
                raise BatonError(
                    f"No lock and no project was found in {self.subdir or 'the source'}: no uv.lock, poetry.lock, "
                    "requirements.txt or pyproject.toml.",
                    "Set app_source_subdir, app_release_lock, or app_release_extra_requirements.",
                )
            return self._compile("none", "", [], [])
        kind, path = found
        locked = {
            "uv.lock": self._uv,
            "poetry.lock": self._poetry,
            "requirements.txt": self._requirements,
            "pyproject.toml": self._pyproject,
        }[kind](path)
        if self.stale:
            locked.warnings.append(self.stale)
        if kind == "pyproject.toml":
            locked.warnings += _other_locks(self.project)
        project = read_pyproject(self.project)
        own = project.get("project", {}).get("requires-python")
        poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python")
        self._require_python(locked, self.project / "pyproject.toml", own or poetry)
        if kind != "requirements.txt" and is_package(project) and self.subdir not in locked.locals:
            locked.locals.append(self.subdir)
        return locked

    def _uv(self, path: Path) -> Locked:
        name = self._name(path)
        parsed = read_toml(path, name)
        self._refuse_stale(name, staleness.of_uv_lock(parsed, path.parent, name, self.root), "uv lock")
        # called in the project's folder: uv finds the workspace that it belongs to
        words = [
            self.tools.uv,
            "export",
            "--frozen",
            "--quiet",
            "--no-default-groups",
            "--no-editable",
            "--no-header",
            "--no-annotate",
        ]
        words += [f"--extra={extra}" for extra in self.options.extras]
        words += [f"--group={group}" for group in self.options.groups]
        try:
            text = self._read_confined(words, self.project, self.tools.uv_environment)
        except CommandError as error:
            raise BatonError(
                f"{name} can't be exported for {self.subdir or 'the project'}: {error.last_lines()}.",
                "Run `uv lock` in the project, and check app_source_subdir, app_release_extras and app_release_groups.",
            ) from None
        locked = self._from_text("uv.lock", path, text, path.parent)
        self._require_python(locked, path, parsed.get("requires-python"))
        return locked

    def _read_confined(self, words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> str:
        """Run a tool that reads a lock, confined: it obeys the source's configuration, and needs no network or home."""
        return self.tools.confinement.run(
            words, what="", cwd=cwd, environment=environment, writable=[], readable=[self.root]
        )

    def _refuse_stale(self, name: str, found: str, command: str) -> None:
        if not found:
            return
        if not self.options.allow_stale:
            raise BatonError(
                f"{name} is stale: {found}.",
                f"Run `{command}` and commit the file, or set app_release_allow_stale_lock to deploy the stale lock.",
            )
        self.stale = f"{name} is stale and deployed anyway (app_release_allow_stale_lock): {found}."

    def _poetry(self, path: Path) -> Locked:
        folder = path.parent
        options = self.options
        chosen = json.dumps({"extras": options.extras, "groups": options.groups, "allow_stale": options.allow_stale})
        name = self._name(path)
        if not (folder / "pyproject.toml").is_file():
            raise BatonError(
                f"{name} has no pyproject.toml beside it, which Poetry needs to read it.",
                "Add pyproject.toml to the source, or name another lock (app_release_lock).",
            )
        wanted = read_toml(path, name).get("metadata", {}).get("python-versions")
        read_toml(folder / "pyproject.toml", self._name(folder / "pyproject.toml"))
        inputs = file_digest([path, folder / "pyproject.toml"], self.root)

        def export() -> str:
            # -I: otherwise it would import modules of the source instead of Poetry's
            words: list[str | Path] = [self.tools.python, "-I", "-c", _POETRY_EXPORT, folder, chosen]
            environment = {"POETRY_VIRTUALENVS_CREATE": "false", "NO_COLOR": "1"}
            return self._read_confined(words, folder, environment)

        try:
            text = self._cached(["poetry", chosen, inputs], export)
        except CommandError as error:
            if error.last_lines() == "stale":
                self._refuse_stale(name, "pyproject.toml changed since poetry.lock was made", "poetry lock")
            raise BatonError(
                f"{name} can't be exported: {error.last_lines()}.",
                "Run `poetry lock` in the project, and check app_release_extras and app_release_groups.",
            ) from None
        if text.startswith("# stale"):
            self._refuse_stale(name, "pyproject.toml changed since poetry.lock was made", "poetry lock")
        locked = self._from_text("poetry.lock", path, text, folder)
        self._require_python(locked, path, wanted)
        return locked

    def _require_python(self, locked: Locked, path: Path, wanted: Any) -> None:
        """Note which versions of Python a file of the source allows, if it says that."""
        if wanted:
            locked.requires_python.append((f"{self._name(path)} of the source", str(wanted)))

    def _from_text(self, kind: str, path: Path, text: str, folder: Path) -> Locked:
        found = requirements.read_text(text, root=folder, name=path.name)
        if found.loose:
            raise BatonError(f"{self._name(path)} has {found.loose[0]!r} without a version.", "Lock the project again.")
        return Locked(kind, self._name(path), found.pins, self._relative(found.locals))

    def _requirements(self, path: Path) -> Locked:
        found = requirements.read(path, root=self.project, within=self.root)
        name = self._name(path)
        self._relative(found.locals)
        if found.hashed and not found.locals:
            return Locked("requirements.txt", name, found.pins)
        lines = found.lines
        places = [f"{place}{extras}" for place, extras in found.locals]
        if not lines and not places:
            return Locked("requirements.txt", name, [])
        try:
            locked = self._compile("requirements.txt", name, [*lines, *places], found.constraints)
        except BatonError as error:
            if found.loose or found.locals:
                raise
            # requirements that conflict may still work if pip installs them line by line
            locked = Locked("requirements.txt", name, found.pins)
            locked.warnings.append(f"{name} is installed line by line: {error.cause}")
            return locked
        named = {pin.name for pin in found.pins}
        added = sorted({pin.name for pin in locked.pins} - named)
        locked.locked = not found.loose and not [pin for pin in locked.pins if pin.name in added and self._wanted(pin)]
        locked.warnings.clear()
        if not locked.locked:
            some = ", ".join(added[:5]) + (" …" if len(added) > 5 else "")
            locked.warnings.append(
                f"{name} doesn't lock everything ({some}): the rest was resolved now, for this controller only. "
                "`uv pip compile --universal --generate-hashes` writes a complete lock."
            )
        return locked

    def _wanted(self, pin: Pin) -> bool:
        return any(target.holds(pin.marker) for target in self.targets)

    def _pyproject(self, path: Path) -> Locked:
        words = [f"--extra={extra}" for extra in self.options.extras]
        words += [f"--group={path}:{group}" for group in self.options.groups]
        return self._compile("pyproject.toml", self._name(path), [], [], [str(path), *words])

    def compile_package(self, requirement: str) -> Locked:
        """Resolve a published package with its dependencies."""
        return self._compile("package", without_credentials(requirement), [requirement], [])

    # -- resolving ---------------------------------------------------------------------------------------

    def _compile(
        self, kind: str, name: str, lines: list[str], constraints: list[str], words: Sequence[str] = ()
    ) -> Locked:
        text = self._run_compile(
            [*lines, *self.options.extra_requirements], [*constraints, *self.options.constraints], words, name
        )
        found = requirements.read_text(text, root=self.root, name="resolved")
        locked = Locked(kind, name, found.pins, self._relative(found.locals), locked=False)
        locked.warnings.append(
            f"{name or 'The application'} is not locked: its dependencies were resolved now, for this controller only. "
            "With a lock (uv.lock, poetry.lock, hashed requirements.txt) every controller installs the same versions: "
            "`uv lock` in the project writes one."
        )
        return locked

    def add(self, locked: Locked, extra: list[str]) -> None:
        """Resolve additional requirements without changing the lock's versions."""
        bounds = [pin.line(hashes=False) for pin in locked.pins if not pin.url]
        text = self._run_compile(extra, [*bounds, *self.options.constraints], (), "app_release_extra_requirements")
        present = {pin.name for pin in locked.pins}
        locked.pins += [pin for pin in requirements.read_text(text, root=self.root).pins if pin.name not in present]

    def _run_compile(self, lines: list[str], constraints: list[str], words: Sequence[str], name: str) -> str:
        projects = [self.root / path for path in source_tree.walk(self.root) if os.path.basename(path) in _UNLOCKED]
        shown = [line.replace(str(self.root), _TREE) for line in [*lines, *words]]
        bounds = [constraint.replace(str(self.root), _TREE) for constraint in constraints]
        parts = [
            "compile",
            shown,
            bounds,
            self.options.exclude_newer,
            file_digest(projects, self.root),
            # another token doesn't change an index's packages
            without_credentials(self.tools.index_url),
            [without_credentials(url) for url in self.tools.extra_index_urls],
        ]
        failures: list[CommandError] = []
        for floor in self._floors():

            def compile_for(floor: int = floor) -> str:
                return self._compile_for(floor, lines, constraints, words)

            try:
                return self._cached([*parts, floor], compile_for)
            except CommandError as error:
                failures.append(error)
        raise BatonError(
            f"The requirements of {name or 'the application'} can't be resolved: {failures[-1].last_lines()}.",
            "Correct them, or set app_release_constraints, app_release_exclude_newer or "
            "app_release_extra_requirements.",
        )

    def _floors(self) -> list[int]:
        # the project's own minimum first, so that the result doesn't depend on the hosts
        project = read_pyproject(self.project).get("project", {})
        wanted = str(project.get("requires-python", ""))
        minors = [
            minor for minor in range(OLDEST_MINOR, _NEWEST_MINOR) if Target(minor, "x86_64", (2, 17)).allows(wanted)
        ]
        oldest = [min(target.minor for target in self.targets)] if self.targets else []
        return list(dict.fromkeys([*minors[:1], *oldest])) or [OLDEST_MINOR]

    def _compile_for(self, floor: int, lines: list[str], constraints: list[str], words: Sequence[str]) -> str:
        with tempfile.TemporaryDirectory(prefix="baton-resolve-") as scratch:
            # in an empty folder: uv reads its configuration, including indexes, from the working directory
            inputs = list(words)
            addresses: dict[str, str] = {}
            lines = [self._checked_out(line, Path(scratch), addresses) for line in lines]
            if any(str(self.root) in text for text in [*lines, *inputs]):
                self._refuse_controller()
                # in a copy: a build writes into the project's folder
                copy = Path(scratch, "source")
                source_tree.duplicate(self.root, copy)
                lines, inputs = ([text.replace(str(self.root), str(copy)) for text in some] for some in (lines, inputs))
                addresses[str(copy)] = str(self.root)
            if lines:
                (Path(scratch) / "requirements.in").write_text("\n".join(lines) + "\n")
                inputs.append("requirements.in")
            if constraints:
                (Path(scratch) / "constraints.txt").write_text("\n".join(constraints) + "\n")
                inputs += ["--constraint", "constraints.txt"]
            if self.options.exclude_newer:
                inputs.append(f"--exclude-newer={self.options.exclude_newer}")
            argv = [
                *(self.tools.uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"),
                *("--no-annotate", f"--python-version=3.{floor}", f"--python={self.tools.python}", *inputs),
            ]
            what = "builds for resolving the requirements"
            text = self.tools.ask_with_builds(argv, Path(scratch), what)
            for place, address in addresses.items():
                text = text.replace(place, address)
            return text

    def _refuse_controller(self) -> None:
        """Refuse such requirements in all projects of the source: uv reads those that another one names."""
        for name in source_tree.walk(self.root):
            if os.path.basename(name) == "pyproject.toml":
                with contextlib.suppress(ValueError):  # for example a test's fixture, which uv can't read either
                    project = parse_toml((self.root / name).read_text(encoding="utf-8"))
                    requirements.refuse_controller(asked_of_uv(project), name)

    def _checked_out(self, line: str, scratch: Path, addresses: dict[str, str]) -> str:
        """Check out a git requirement with the operator's credentials, which a build must not get.

        Returns the requirement with a local path; `addresses` gets the URL for that path.
        """
        match = re.match(r"(\S+)\s*@\s*(git\+[^\s;]+)(.*)", line)
        if match is None:
            return line
        url, _, fragment = match[2].partition("#")
        folder = scratch / f"git{len(addresses)}"
        commit = fetch_git(match[1], url, folder, self.tools)
        subdirectory = re.search(r"subdirectory=([^&]+)", fragment)
        inside = subdirectory[1] if subdirectory else "."
        project = folder_in(folder, inside)
        if project is None:
            raise BatonError(
                f"The subdirectory {inside!r} of the requirement {match[1]} is no folder of its repository.",
                "Correct the subdirectory, and lock the application again.",
            )
        place = project.resolve().as_uri()
        bare = url[: -len(ref) - 1] if (ref := source.classify(url, "", []).ref) else url
        addresses[place] = f"{bare}@{commit}" + (f"#{fragment}" if fragment else "")
        return f"{match[1]} @ {place}{match[3]}"

    def _cached(self, parts: list[Any], make: Callable[[], str]) -> str:
        """Return a cached resolution, which is independent of the source's path."""

        def without_root() -> str:
            return str(make()).replace(str(self.root), _TREE)

        text = self.tools.cached("resolved", f"{key_of(parts)}.txt", without_root, refresh=self.options.refresh)
        return text.replace(_TREE, str(self.root))

    # -- paths -------------------------------------------------------------------------------------------

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def _relative(self, places: list[tuple[Path, str]]) -> list[str]:
        root = os.path.realpath(self.root)
        found = []
        for place, _extras in places:
            real = os.path.realpath(place)
            relative = os.path.relpath(real, root)
            if relative.startswith(".."):
                raise BatonError(
                    f"The requirement {place} leads out of the source.",
                    "Set app_source to the folder that contains both, and app_source_subdir to the project.",
                )
            if not os.path.exists(real):
                raise BatonError(
                    f"The local requirement {relative} is not in the source.",
                    "Add it to the repository, or correct the lock.",
                )
            found.append("" if relative == "." else relative)
        return found


def fetch_git(name: str, url: str, folder: Path, tools: Tools) -> str:
    """Fetch a git dependency into a folder. Returns the commit. Raises BatonError."""
    try:
        return source.fetch(source.classify(url, "", []), folder, tools.cache)
    except BatonError as error:
        raise BatonError(
            f"{name}, which the application needs from {url}, can't be fetched: {error.cause}",
            "Give the user who runs the playbook access to that repository, or correct the requirement and lock again.",
        ) from None


def package_name(requirement: str) -> str:
    """Return the normalized package name of a requirement."""
    return canonicalize_name(Requirement(requirement).name)


def for_target(pins: Iterable[Pin], target: Target) -> list[Pin]:
    """Return the pins for a target, one per package, without markers. Raises BatonError for conflicting pins."""
    chosen: dict[str, Pin] = {}
    for pin in sorted(pins):
        if not target.holds(pin.marker):
            continue
        known = chosen.get(pin.name)
        if known is not None and (known.version, known.url) != (pin.version, pin.url):
            if target.patch is None:
                # the marker depends on Python's patch release, which is unknown: assume a recent one
                pin = max(known, pin, key=lambda one: re.findall(r"\d+", one.version))
            else:
                raise BatonError(
                    f"{pin.name} is pinned to {known.version} and {pin.version} for {target.key}.",
                    "Lock the application again.",
                )
        chosen[pin.name] = replace(pin, marker="")
    return [chosen[name] for name in sorted(chosen)]
