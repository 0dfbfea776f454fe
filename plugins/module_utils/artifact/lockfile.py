"""From a project's lock, of whatever kind, to requirements that hold on every target."""

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

# The oldest Python of a supported host: unlocked requirements are resolved for it and what is newer.
OLDEST_MINOR = 11
_NEWEST_MINOR = 30
_TREE = "@SOURCE@"
# Poetry's own command refuses a project that excludes the controller's Python; what counts is the hosts' Python.
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
# Locks of other tools, and how they are written as one that is read here.
_OTHERS = {
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
    "pdm.lock": "pdm export --prod -o requirements.txt",
    "pylock.toml": "uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements --hash > requirements.txt",
    "environment.yml": "pip list --format=freeze > requirements.txt",
}
# What a project may say its requirements in, when nothing is locked.
_UNLOCKED = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True)
class ResolveOptions:
    """The settings that say what to install beside, or instead of, what the lock says."""

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
    """Requirements that hold on every target, and the local projects that belong to them."""

    kind: str
    path: str
    pins: list[Pin]
    locals: list[str] = field(default_factory=list)
    locked: bool = True
    warnings: list[str] = field(default_factory=list)
    requires_python: list[tuple[str, str]] = field(default_factory=list)

    def universal(self) -> list[str]:
        """Lines that enter the release's id, which a new token doesn't change."""
        return sorted({without_credentials(pin.line()) for pin in self.pins})


def find(root: Path, subdir: str, override: str) -> tuple[str, Path] | None:
    """(kind, path) of the lock: in the project's folder, then in its parents up to the source's root."""
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
    """What to do about locks of other tools, which would be passed over in silence."""
    return [
        f"{name} is not read: write it as requirements with `{command}`, and commit that."
        for name, command in _OTHERS.items()
        if (folder / name).is_file()
    ]


def _kind(path: Path) -> str:
    if path.name in _OTHERS:
        raise BatonError(
            f"{path.name} (app_release_lock) is a lock that Baton doesn't read.",
            f"Write it as requirements with `{_OTHERS[path.name]}`, commit that, and name it instead.",
        )
    if path.name in ("uv.lock", "poetry.lock"):
        return path.name
    return "pyproject.toml" if path.name in _UNLOCKED else "requirements.txt"


def read_pyproject(folder: Path) -> dict[str, Any]:
    """A project's pyproject.toml, or nothing."""
    path = folder / "pyproject.toml"
    return read_toml(path, path.name) if path.is_file() else {}


def asked_of_uv(project: Mapping[str, Any]) -> Iterable[str]:
    """All that a pyproject.toml may have uv put variables into, or fetch by git, whatever else is wrong with it."""
    table, own = (untrusted.mapping(project.get(name)) for name in ("project", "tool"))
    left: list[Any] = [project.get("build-system"), project.get("dependency-groups"), own.get("uv")]
    left += [table.get("dependencies"), table.get("optional-dependencies")]
    while left:  # it may be nested deeper than a function calls itself
        one = left.pop()
        if isinstance(one, dict):
            left += [f"git+{value}" if name == "git" else value for name, value in one.items()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            yield one


def is_package(project: dict[str, Any]) -> bool:
    """Whether a project says how it is built, and wants to be."""
    tool = project.get("tool", {})
    return (
        "build-system" in project
        and tool.get("uv", {}).get("package", True) is not False
        and tool.get("poetry", {}).get("package-mode", True) is not False
    )


def resolve(
    root: Path, subdir: str, requirement: str, wishes: ResolveOptions, tools: Tools, targets: Sequence[Target]
) -> Locked:
    """Make out everything the application needs. `requirement` is set for a published package."""
    reader = _Reader(root, subdir, wishes, tools, targets)
    if requirement and not wishes.lock:
        locked = reader.compile_package(requirement)
    else:
        locked = reader.read(find(root, subdir, wishes.lock))
        if requirement:
            reader.add(locked, [requirement])
    if wishes.extra_requirements and locked.kind in ("uv.lock", "poetry.lock", "requirements.txt"):
        reader.add(locked, list(wishes.extra_requirements))
    locked.locals = sorted(dict.fromkeys(locked.locals))
    return locked


def check_python(locked: Locked, targets: Iterable[Target]) -> None:
    """Refuse targets that the project or its lock excludes."""
    for target in targets:
        for where, specifier in locked.requires_python:
            try:
                allowed = target.allows(specifier)
            except ValueError:
                allowed = _poetry_allows(specifier, target, where)
            if not allowed:
                raise BatonError(
                    f"{where} asks for Python {specifier}, but there are app servers with Python {target.python_full}.",
                    f"Set python_runtime_version to one that {specifier} allows, or lock the application for "
                    f"{target.python}.",
                )


def _poetry_allows(specifier: str, target: Target, where: str) -> bool:
    from poetry.core.constraints.version import Version, parse_constraint

    try:
        constraint = parse_constraint(specifier)
    except (ValueError, RecursionError):
        raise BatonError(f"{where} asks for Python {specifier[:100]!r}, which is no version.", "Correct it.") from None
    patches = (0, 99) if target.patch is None else (target.patch,)
    return any(constraint.allows(Version.parse(f"{target.python}.{patch}")) for patch in patches)


class _Reader:
    def __init__(
        self, root: Path, subdir: str, wishes: ResolveOptions, tools: Tools, targets: Sequence[Target]
    ) -> None:
        self.root = root
        self.subdir = subdir
        self.project = root / subdir
        self.wishes = wishes
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
            if not self.wishes.extra_requirements:
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
        if own:
            locked.requires_python.append((f"{self._name(self.project / 'pyproject.toml')} of the source", str(own)))
        poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python")
        if poetry and not own:
            locked.requires_python.append((f"{self._name(self.project / 'pyproject.toml')} of the source", str(poetry)))
        if kind != "requirements.txt" and is_package(project) and self.subdir not in locked.locals:
            locked.locals.append(self.subdir)
        return locked

    def _uv(self, path: Path) -> Locked:
        name = self._name(path)
        parsed = read_toml(path, name)
        self._refuse_stale(name, staleness.of_uv_lock(parsed, path.parent, name, self.root), "uv lock")
        # whatever stays in the wrong place, uv itself finds the workspace a project belongs to
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
        words += [f"--extra={extra}" for extra in self.wishes.extras]
        words += [f"--group={group}" for group in self.wishes.groups]
        try:
            text = self._read_confined(words, self.project, self.tools.uv_environment)
        except CommandError as error:
            raise BatonError(
                f"{name} can't be exported for {self.subdir or 'the project'}: {error.last_lines()}.",
                "Run `uv lock` in the project, and check app_source_subdir, app_release_extras and app_release_groups.",
            ) from None
        locked = self._from_text("uv.lock", path, text, path.parent)
        wanted = parsed.get("requires-python")
        if wanted:
            locked.requires_python.append((f"{name} of the source", str(wanted)))
        return locked

    def _read_confined(self, words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> str:
        """Run a tool that reads a lock. It obeys what a source configures, and needs neither network nor a home."""
        return self.tools.confinement.run(
            words, what="", cwd=cwd, environment=environment, writable=[], readable=[self.root]
        )

    def _refuse_stale(self, name: str, found: str, command: str) -> None:
        if not found:
            return
        if not self.wishes.allow_stale:
            raise BatonError(
                f"{name} is stale: {found}.",
                f"Run `{command}` and commit the file, or set app_release_allow_stale_lock to deploy what it has.",
            )
        self.stale = f"{name} is stale, and deployed as it is (app_release_allow_stale_lock): {found}."

    def _poetry(self, path: Path) -> Locked:
        folder = path.parent
        wishes = self.wishes
        chosen = json.dumps({"extras": wishes.extras, "groups": wishes.groups, "allow_stale": wishes.allow_stale})
        name = self._name(path)
        if not (folder / "pyproject.toml").is_file():
            raise BatonError(
                f"{name} has no pyproject.toml beside it, which Poetry needs to read it.",
                "Add that to the source, or name another lock (app_release_lock).",
            )
        wanted = read_toml(path, name).get("metadata", {}).get("python-versions")
        read_toml(folder / "pyproject.toml", self._name(folder / "pyproject.toml"))
        inputs = file_digest([path, folder / "pyproject.toml"], self.root)

        def export() -> str:
            # isolated: it would import modules of the source in place of Poetry's
            words: list[str | Path] = [self.tools.python, "-I", "-c", _POETRY_EXPORT, folder, chosen]
            environment = {"POETRY_VIRTUALENVS_CREATE": "false", "NO_COLOR": "1"}
            return self._read_confined(words, folder, environment)

        try:
            text = self._remember(["poetry", chosen, inputs], export)
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
        if wanted:
            locked.requires_python.append((f"{name} of the source", str(wanted)))
        return locked

    def _from_text(self, kind: str, path: Path, text: str, folder: Path) -> Locked:
        found = requirements.read_text(text, root=folder, name=path.name)
        if found.loose:
            raise BatonError(
                f"{self._name(path)} leaves {found.loose[0]!r} without a version.", "Lock the project again."
            )
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
            # what pip installs line by line can contradict itself and still work
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
                f"{name} doesn't lock everything ({some}): the rest was resolved now, for this controller. "
                "`uv pip compile --universal --generate-hashes` writes one that does."
            )
        return locked

    def _wanted(self, pin: Pin) -> bool:
        return any(target.holds(pin.marker) for target in self.targets)

    def _pyproject(self, path: Path) -> Locked:
        words = [f"--extra={extra}" for extra in self.wishes.extras]
        words += [f"--group={path}:{group}" for group in self.wishes.groups]
        return self._compile("pyproject.toml", self._name(path), [], [], [str(path), *words])

    def compile_package(self, requirement: str) -> Locked:
        """A published package with all it needs."""
        return self._compile("package", without_credentials(requirement), [requirement], [])

    # -- resolving ---------------------------------------------------------------------------------------

    def _compile(
        self, kind: str, name: str, lines: list[str], constraints: list[str], words: Sequence[str] = ()
    ) -> Locked:
        text = self._run_compile(
            [*lines, *self.wishes.extra_requirements], [*constraints, *self.wishes.constraints], words, name
        )
        found = requirements.read_text(text, root=self.root, name="resolved")
        locked = Locked(kind, name, found.pins, self._relative(found.locals), locked=False)
        locked.warnings.append(
            f"{name or 'The application'} is not locked: its dependencies were resolved now, for this controller. "
            "A lock (uv.lock, poetry.lock, hashed requirements.txt) makes every controller install the same: "
            "`uv lock` in the project writes one."
        )
        return locked

    def add(self, locked: Locked, extra: list[str]) -> None:
        """Resolve more requirements on top of a lock, changing nothing in it."""
        bounds = [pin.line(hashes=False) for pin in locked.pins if not pin.url]
        text = self._run_compile(extra, [*bounds, *self.wishes.constraints], (), "app_release_extra_requirements")
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
            self.wishes.exclude_newer,
            file_digest(projects, self.root),
            # with another token they have the same packages
            without_credentials(self.tools.index_url),
            [without_credentials(url) for url in self.tools.extra_index_urls],
        ]
        failures: list[CommandError] = []
        for floor in self._floors():

            def compile_for(floor: int = floor) -> str:
                return self._compile_for(floor, lines, constraints, words)

            try:
                return self._remember([*parts, floor], compile_for)
            except CommandError as error:
                failures.append(error)
        raise BatonError(
            f"The requirements of {name or 'the application'} can't be resolved: {failures[-1].last_lines()}.",
            "Correct them, or set app_release_constraints, app_release_exclude_newer or "
            "app_release_extra_requirements.",
        )

    def _floors(self) -> list[int]:
        # first what the project says, so that the result doesn't depend on which hosts there are
        project = read_pyproject(self.project).get("project", {})
        wanted = str(project.get("requires-python", ""))
        minors = [
            minor for minor in range(OLDEST_MINOR, _NEWEST_MINOR) if Target(minor, "x86_64", (2, 17)).allows(wanted)
        ]
        oldest = [min(target.minor for target in self.targets)] if self.targets else []
        return list(dict.fromkeys([*minors[:1], *oldest])) or [OLDEST_MINOR]

    def _compile_for(self, floor: int, lines: list[str], constraints: list[str], words: Sequence[str]) -> str:
        with tempfile.TemporaryDirectory(prefix="baton-resolve-") as scratch:
            # a folder of its own: uv reads its configuration, indexes among it, from where it is called
            inputs = list(words)
            addresses: dict[str, str] = {}
            lines = [self._checked_out(line, Path(scratch), addresses) for line in lines]
            if any(str(self.root) in text for text in [*lines, *inputs]):
                self._refuse_controller()
                # a build writes into the project's folder
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
            if self.wishes.exclude_newer:
                inputs.append(f"--exclude-newer={self.wishes.exclude_newer}")
            argv = [
                *(self.tools.uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"),
                *("--no-annotate", f"--python-version=3.{floor}", f"--python={self.tools.python}", *inputs),
            ]
            what = "what resolving the requirements had to build"
            text = self.tools.ask_with_builds(argv, Path(scratch), what)
            for place, address in addresses.items():
                text = text.replace(place, address)
            return text

    def _refuse_controller(self) -> None:
        """Of a folder uv reads the projects in it, too, as far as one names another."""
        for name in source_tree.walk(self.root):
            if os.path.basename(name) == "pyproject.toml":
                with contextlib.suppress(ValueError):  # of a test's file, say: uv can't read it either
                    project = parse_toml((self.root / name).read_text(encoding="utf-8"))
                    requirements.refuse_controller(asked_of_uv(project), name)

    def _checked_out(self, line: str, scratch: Path, addresses: dict[str, str]) -> str:
        """A git requirement as a folder: with the operator's access to it, which a build must not have."""
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
                f"The requirement {match[1]} is in {inside!r} of its repository, which is no folder of it.",
                "Correct its subdirectory, and lock the application again.",
            )
        place = project.resolve().as_uri()
        bare = url[: -len(ref) - 1] if (ref := source.classify(url, "", []).ref) else url
        addresses[place] = f"{bare}@{commit}" + (f"#{fragment}" if fragment else "")
        return f"{match[1]} @ {place}{match[3]}"

    def _remember(self, parts: list[Any], make: Callable[[], str]) -> str:
        """What was resolved once, wherever the source lies."""

        def anywhere() -> str:
            return str(make()).replace(str(self.root), _TREE)

        text = self.tools.remembered("resolved", f"{key_of(parts)}.txt", anywhere, refresh=self.wishes.refresh)
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
                    "Set app_source to the folder that holds both, and app_source_subdir to the project.",
                )
            if not os.path.exists(real):
                raise BatonError(
                    f"The local requirement {relative} is not in the source.",
                    "Add it to the repository, or correct the lock.",
                )
            found.append("" if relative == "." else relative)
        return found


def fetch_git(name: str, url: str, folder: Path, tools: Tools) -> str:
    """Fetch a git dependency; returns the commit."""
    try:
        return source.fetch(source.classify(url, "", []), folder, tools.cache)
    except BatonError as error:
        raise BatonError(
            f"{name}, which the application needs from {url}, can't be fetched: {error.cause}",
            "Give whoever runs the playbook access to that repository, or correct the requirement and lock again.",
        ) from None


def package_name(requirement: str) -> str:
    """The name in a requirement."""
    return canonicalize_name(Requirement(requirement).name)


def for_target(pins: Iterable[Pin], target: Target) -> list[Pin]:
    """The pins that hold on a target, one a package, without markers."""
    chosen: dict[str, Pin] = {}
    for pin in sorted(pins):
        if not target.holds(pin.marker):
            continue
        known = chosen.get(pin.name)
        if known is not None and (known.version, known.url) != (pin.version, pin.url):
            if target.patch is None:
                # the marker tells patch releases apart and we don't know which: believe in a newer one
                pin = max(known, pin, key=lambda one: re.findall(r"\d+", one.version))
            else:
                raise BatonError(
                    f"{pin.name} is pinned to {known.version} and {pin.version} for {target.key}.",
                    "Lock the application again.",
                )
        chosen[pin.name] = replace(pin, marker="")
    return [chosen[name] for name in sorted(chosen)]
