"""Build an artifact on the controller: the source, its locked requirements, and wheels for every target."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ..app import bom, floors
from ..change.version import VERSION
from ..host import atomic_file
from ..host.command import BatonError, CommandError, find_file, without_credentials
from ..host.stopwatch import Stopwatch
from . import asgi, lockfile, requirements, server_versions, source, source_tree, wheels
from .confinement import Confinement
from .download import sha256_of
from .requirements import Pin
from .targets import Target
from .toolchain import Tools, cache_folder, key_of

# Increase it when the layout of a release changes, so that the same input gets another id.
_LAYOUT = 1
_BUILD_COMMAND_TIMEOUT = 3600
_VERSION_VARIABLES = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "UV_DYNAMIC_VERSIONING_BYPASS",
)
# the input of gunicorn_handover's wheel; its tests and locks are not in the collection's archive
_HANDOVER_PARTS = frozenset({"LICENSE", "README.md", "pyproject.toml", "src"})
_KEPT_ARTIFACTS = 10
_KEPT_SETS = 30
_GENERATED_BYTES = 2**30  # limit for files that a build adds to a source


@dataclass(frozen=True)
class Request:
    """The input of a build; the fields correspond to the module's options."""

    app_name: str
    app_source: str
    app_version: str
    app_source_subdir: str
    app_module: str
    targets: Sequence[Target]
    server_lock: Path
    handover_source: Path
    base_dirs: Sequence[str]
    options: lockfile.ResolveOptions
    import_paths: Sequence[str] = ()
    working_directory: str = ""
    build_command: Sequence[str] = ()
    build_environment: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Mapping[str, Any]] = ()
    excluded: Sequence[str] = ()
    state_links: Sequence[Mapping[str, Any]] = ()
    state_dir: str = ""
    project_wheel: bool = True
    build: str = ""
    salt: str = ""
    allow_old_packages: Sequence[str] = ()


def build(request: Request, tools: Tools) -> dict[str, Any]:
    """Build the parts of the artifact that the cache lacks. Returns the module's result. Raises BatonError."""
    if not request.targets:
        raise BatonError(
            "There is no app server to build for.", "Add hosts to the group app_servers, or run this without --limit."
        )
    asgi.split(request.app_module)
    scratch = Path(tempfile.mkdtemp(prefix="baton-artifact-"))
    try:
        tools = replace(tools, build_environment=_version_environment(request.app_version))
        built = _Build(request, tools, scratch).run()
        # only builds of this run are reported, not those from the cache
        ran = tools.confinement.report()
        return {**built, "ran_on_controller": ran, "confined": bool(ran) and tools.confinement.works}
    except BatonError as error:
        # the operator knows a file by its place in the source, not in the copy
        raise BatonError(*(text.replace(f"{scratch}/src/", "") for text in (error.cause, error.fix))) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _version_environment(version: str) -> dict[str, str]:
    """Return variables with the version for build tools that read it from git, which a copy of the source lacks."""
    try:
        version = str(Version(version.removeprefix("v")))
    except InvalidVersion:
        version = "0.0.0"
    return dict.fromkeys(_VERSION_VARIABLES, version)


class _Build:
    def __init__(self, request: Request, tools: Tools, scratch: Path) -> None:
        self.request = request
        self.tools = tools
        self.scratch = scratch
        self.tree = scratch / "src"
        self.plain = self.tree  # the source that projects' wheels are built from
        self.subdir = source_tree.inside(request.app_source_subdir, "app_source_subdir")
        self.clock = Stopwatch()
        self.warnings: list[str] = []
        self.old: set[str] = set()  # packages that were warned of

    def run(self) -> dict[str, Any]:
        request = self.request
        origin = source.classify(request.app_source, request.app_version, request.base_dirs)
        commit = source.fetch(origin, self.tree, self.tools.cache)
        if not (self.tree / self.subdir).is_dir():
            raise BatonError(f"The source {origin} has no folder {self.subdir!r}.", "Correct app_source_subdir.")
        self.clock.mark("source")
        self._prepare()
        self.clock.mark("prepare")

        wanted = origin.where if origin.kind == "package" else ""
        locked = lockfile.resolve(self.tree, self.subdir, wanted, request.options, self.tools, request.targets)
        lockfile.check_python(locked, request.targets)
        self.warnings += locked.warnings
        self.clock.mark("lock")
        pinned = self._pins(locked)
        self.clock.mark("floors")

        digest = source_tree.digest(self.tree)
        import_paths = self._import_paths()
        identity, handover_digest = self._identity(digest, locked, import_paths)
        version = self._version(origin, commit, locked)
        self.clock.mark("id")

        handover = self._handover(handover_digest)
        sets: dict[str, wheels.WheelSet] = {}
        unbuilt: list[wheels.Unbuilt] = []
        for target, (app_pins, overlay) in pinned.items():
            found = self._wheel_set(app_pins, overlay, handover, target)
            if isinstance(found, wheels.WheelSet):
                sets[target.key] = found
            else:
                unbuilt += found
        self.clock.mark("wheels")
        projects = self._projects(locked, digest if self.plain == self.tree else source_tree.digest(self.plain))
        self.clock.mark("projects")
        if unbuilt:
            return self._unbuilt(unbuilt, identity)

        self._check_wheels(sets.values(), projects, import_paths)
        release = {
            "id": identity,
            "app_name": request.app_name,
            "source": str(origin),
            "version": version,
            "module": request.app_module,
            "working_directory": self._working_directory(),
            "import_paths": import_paths,
            "lock": locked.kind,
            "lock_path": locked.path,
            "locked": locked.locked,
            "state_links": self._state_directories(),
        }
        return self._packed(release, sets, projects)

    def _packed(
        self, release: dict[str, Any], sets: Mapping[str, wheels.WheelSet], projects: list[wheels.Wheel]
    ) -> dict[str, Any]:
        """Pack everything, and return the module's result. `sets`: by target."""
        archive, created, source_bytes, sha256 = self._archive(release, projects)
        boms = self._boms({**release, "created": created}, sets.values(), projects)
        self.clock.mark("archive")
        self._prune()
        return {
            "complete": True,
            "builds": [],
            "id": release["id"],
            "release": {**release, "created": created},
            "source": {
                "path": archive,
                "sha256": sha256,
                "upload_bytes": os.path.getsize(archive),
                "unpacked_bytes": source_bytes,
            },
            "wheels": {
                key: {
                    "key": found_set.key,
                    "path": found_set.archive,
                    "sha256": found_set.sha256,
                    "upload_bytes": found_set.upload_bytes,
                    "unpacked_bytes": found_set.unpacked_bytes,
                    "venv": found_set.venv,
                    "server": found_set.server,
                }
                for key, found_set in sets.items()
            },
            "boms": boms,
            "warnings": self.warnings,
            "seconds": self.clock.seconds,
        }

    # -- the source --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        request = self.request
        links = [source_tree.inside(str(entry["path"]), "app_release_state_links") for entry in request.state_links]
        if not all(links):
            raise BatonError("app_release_state_links has an entry without a path.", "Add a path of the source.")
        # check that no link leads out of the source before anything is read, written or run
        source_tree.check(self.tree, links, request.excluded)
        if request.build_command:
            self._run_build_command()
            source_tree.exclude(self.tree, source_tree.NEVER)
            source_tree.check(self.tree, links, request.excluded)
        if request.excluded or links or request.files:
            # these changes are for the release only: a project's wheel is built from the original source
            self.plain = self.scratch / "plain"
            source_tree.duplicate(self.tree, self.plain)
            source_tree.without_links_out(self.plain)
            for added in request.files:
                if added.get("build"):
                    self._add_file(self.plain, added)
        source_tree.exclude(self.tree, request.excluded)
        for entry, path in zip(request.state_links, links, strict=True):
            place = source_tree.place(self.tree, path, "app_release_state_links")
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.join(request.state_dir, str(entry.get("target") or path)))
        for added in request.files:
            self._add_file(self.tree, added)
        source_tree.check(self.tree, links)

    def _add_file(self, root: Path, entry: Mapping[str, Any]) -> None:
        path = source_tree.inside(str(entry["path"]), "app_release_files")
        content, origin = entry.get("content"), entry.get("src")
        if not path or (content is None) == (origin is None):
            raise BatonError(
                f"The entry {path!r} of app_release_files is incomplete.", "Give path, and either content or src."
            )
        if origin is not None:
            data = find_file(str(origin), self.request.base_dirs, "app_release_files").read_bytes()
        else:
            data = str(content).encode()
        place = source_tree.place(root, path, "app_release_files")
        if place.is_dir() and not place.is_symlink():
            raise BatonError(f"app_release_files: {path} is a folder of the source.", "Name a file in it.")
        place.unlink(missing_ok=True)
        place.write_bytes(data)
        place.chmod(0o755 if int(str(entry.get("mode") or "0644"), 8) & 0o100 else 0o644)

    def _run_build_command(self) -> None:
        """Run the build command in the copy of the source, or restore its cached result for the same source."""
        request = self.request
        words, environment = list(request.build_command), dict(request.build_environment)
        key = key_of("build", source_tree.digest(self.tree), self.subdir, words, environment)
        kept = self.tools.folder("trees") / f"{key}.tar"
        if kept.is_file():
            os.utime(kept)
            shutil.rmtree(self.tree)
            with tarfile.open(kept) as packed:
                packed.extractall(self.scratch)
            return
        confinement = self.tools.confinement
        try:
            confinement.run(
                words,
                what="app_release_build_command",
                cwd=self.tree / self.subdir,
                environment=environment,
                writable=[self.tree],
                network=True,  # a front-end build fetches packages
                timeout=_BUILD_COMMAND_TIMEOUT,
            )
        except CommandError as error:
            seen = (
                "It sees the system's programs, but no home and no programs installed there "
                "(app_release_build_confinement: off removes this restriction)."
                if confinement.works
                else "It runs with an empty home."
            )
            raise BatonError(
                f"app_release_build_command failed: {error.last_lines()}.",
                f"Try it in a fresh copy of the source, install the programs that it needs on the controller, and put "
                f"the variables that it needs into app_release_build_environment. {seen}",
            ) from None
        part = kept.with_name(f".{kept.name}.{os.getpid()}")
        with tarfile.open(part, "w") as packing:
            packing.add(self.tree, "src", filter=_kept)
        part.replace(kept)

    def _import_paths(self) -> list[str]:
        name, _ = asgi.split(self.request.app_module)
        project = self.tree / self.subdir
        paths = []
        # a src folder that is itself a package is imported as `src.…`; as an import path it could hide modules of the
        # standard library with the same names
        inner = project / "src"
        if inner.is_dir() and not (inner / "__init__.py").exists() and name.partition(".")[0] != "src":
            paths.append(os.path.join("src", self.subdir, "src"))
        paths.append(os.path.join("src", self.subdir).rstrip("/"))
        added = [self._folder(path, "app_release_import_paths") for path in self.request.import_paths]
        paths += [os.path.join("src", path).rstrip("/") for path in added]
        return list(dict.fromkeys(paths))

    def _roots(self, import_paths: Sequence[str]) -> list[Path]:
        """Return the folders of import paths, which begin with `src`, the source's folder in a release."""
        return [self.tree / path.removeprefix("src").lstrip("/") for path in import_paths]

    def _working_directory(self) -> str:
        wanted = self.request.working_directory
        clean = self._folder(wanted, "app_release_working_directory") if wanted else self.subdir
        return os.path.join("src", clean).rstrip("/")

    def _folder(self, path: str, what: str) -> str:
        """Return a folder's path in the source; `path` is relative to its top or to the project's folder."""
        tried = {os.path.normpath(place) for place in (path, os.path.join(self.subdir, path))}
        found = [source_tree.inside(place, what) for place in sorted(tried) if (self.tree / place).is_dir()]
        if len(found) > 1:
            raise BatonError(
                f"{what}: {path!r} is ambiguous, it matches two folders of the source: {' and '.join(found)}.",
                "Give the path from the top of the source; if necessary, exclude the other with app_release_exclude.",
            )
        if not found:
            raise BatonError(
                f"{what}: {path!r} is not a folder of the source (searched {' and '.join(sorted(tried))}).",
                "Give the path from the top of the source, or from the project's folder in it.",
            )
        return found[0]

    def _state_directories(self) -> list[dict[str, Any]]:
        return [
            {
                "path": str(entry["path"]),
                "target": str(entry.get("target") or entry["path"]),
                "directory": entry.get("directory", True) is not False,
            }
            for entry in self.request.state_links
        ]

    def _identity(self, digest: str, locked: lockfile.Locked, import_paths: list[str]) -> tuple[str, str]:
        request = self.request
        handover = request.handover_source
        if not (handover / "pyproject.toml").is_file():
            raise BatonError(
                f"{handover} contains no Python project.", "Set app_release_handover_source to the folder handover/."
            )
        copy = self.scratch / "handover"
        source_tree.copy(handover, copy)
        source_tree.exclude(copy, [f"/{path.name}" for path in copy.iterdir() if path.name not in _HANDOVER_PARTS])
        handover_digest = source_tree.digest(copy)
        parts = {
            "layout": _LAYOUT,
            "tree": digest,
            "requirements": locked.universal(),
            "locals": locked.locals,
            "server": sorted(pin.line() for pin in requirements.read(request.server_lock).pins),
            "supported": server_versions.SUPPORTED,
            "handover": handover_digest,
            "module": request.app_module,
            "import_paths": import_paths,
            "working_directory": self._working_directory(),
            "state_links": self._state_directories(),
            "project_wheel": request.project_wheel,
            "salt": request.salt,
        }
        return key_of(parts)[:16], handover_digest

    def _version(self, origin: source.Source, commit: str, locked: lockfile.Locked) -> str:
        if origin.kind == "git":
            return f"{origin.ref} ({commit[:12]})" if origin.ref and not commit.startswith(origin.ref) else commit[:12]
        if origin.kind == "package":
            name = lockfile.package_name(origin.where)
            return next((pin.version or without_credentials(pin.url) for pin in locked.pins if pin.name == name), "")
        declared = lockfile.read_pyproject(self.tree / self.subdir).get("project", {}).get("version", "")
        return self.request.app_version or source.describe(Path(origin.where)) or str(declared)

    # -- wheels ------------------------------------------------------------------------------------------

    def _pins(self, locked: lockfile.Locked) -> dict[Target, tuple[list[Pin], list[Pin]]]:
        """Return the pins of the application and of the server's overlay, by target. Raises BatonError for old ones."""
        server = requirements.read(self.request.server_lock).pins
        found = {}
        for target in sorted({target.key: target for target in self.request.targets}.values()):
            app_pins = lockfile.for_target(locked.pins, target)
            found[target] = app_pins, server_versions.overlay(lockfile.for_target(server, target), app_pins)
        for app_pins, overlay in found.values():
            # the versions of packages with a URL are only known from their wheels
            served = {pin.name: pin.version for pin in (*app_pins, *overlay)}
            self._check_floors(served, locked.path or "The application")
        return found

    def _check_wheels(
        self, sets: Collection[wheels.WheelSet], projects: list[wheels.Wheel], import_paths: Sequence[str]
    ) -> None:
        """Raise BatonError for old packages, and for an application's module that no wheel and no import path has."""
        local = {wheel.name: wheel.version for wheel in projects}
        for found in sets:
            self._check_floors({**found.venv, **local, **found.server}, f"The wheels for {found.target}")
        own, roots = wheels.modules(projects), self._roots(import_paths)
        for found in sets:
            asgi.check(self.request.app_module, roots, self.tree, [*found.modules, *own])

    def _check_floors(self, served: Mapping[str, str], where: str) -> None:
        """Raise BatonError for packages of the web processes that are too old; collects warnings for allowed ones."""
        found = floors.check(served, self.request.allow_old_packages, f"{where} (read on the controller)")
        # the same warning may come from several targets, and from both lock and wheels
        self.warnings += [warning for old, warning in found.items() if old not in self.old]
        self.old.update(found)

    def _handover(self, digest: str) -> wheels.Wheel:
        if known := wheels.built_pure(digest, self.tools):
            return known
        sdist = wheels.pack_project(self.scratch / "handover", "", wheels.OWN_PACKAGE, digest, self.tools)
        try:
            return wheels.build_pure(sdist, self.tools)
        except CommandError as error:
            raise BatonError(
                f"The wheel of gunicorn_handover can't be built: {error.last_lines()}.",
                "Check app_release_handover_source and the controller's package index.",
            ) from None

    def _wheel_set(
        self, app_pins: list[Pin], overlay: list[Pin], handover: wheels.Wheel, target: Target
    ) -> wheels.WheelSet | list[wheels.Unbuilt]:
        tools, host_builds = self.tools, bool(self.request.build)
        key = key_of(
            [pin.line() for pin in app_pins],
            [pin.line() for pin in overlay],
            handover.sha256,
            target.key,
            tools.index_url,
            tools.extra_index_urls,
        )
        known = wheels.cached_set(key, tools)
        if known is not None:
            return known
        ours = wheels.collect(overlay, target, tools, host_builds=host_builds)
        mine = {wheel.name: wheel for wheel in ours.wheels}
        venv = wheels.collect(app_pins, target, tools, host_builds=host_builds, replaceable=mine)
        if venv.unbuilt or ours.unbuilt:
            return [*venv.unbuilt, *ours.unbuilt]
        for pin in venv.replaced:
            # the web service uses Baton's version anyway; no other fits for the application's other processes
            venv.wheels.append(mine[pin.name])
            self.warnings.append(
                f"{pin.name} {pin.version} has no wheel for {target.key}: the application gets "
                f"{mine[pin.name].version} instead, the server's version."
            )
        return wheels.pack_set(target, venv.wheels, [*ours.wheels, handover], tools, key)

    def _projects(self, locked: lockfile.Locked, digest: str) -> list[wheels.Wheel]:
        """Return wheels of the local projects, for their metadata and entry points, and for workspace members' code."""
        found = []
        for path in locked.locals:
            if path == self.subdir and not self.request.project_wheel:
                continue
            place = self.tree / path
            if place.is_file() and place.suffix == ".whl":
                found.append(wheels.Wheel(place, sha256_of(place)))
                continue
            wheel = self._project(path, digest)
            found.append(wheel)
            if path == self.subdir:
                self._add_generated(wheel)
        return found

    def _project(self, path: str, digest: str) -> wheels.Wheel:
        key = key_of("project", digest, path, self.tools.build_environment)
        if known := wheels.built_pure(key, self.tools):
            return known
        sdist = wheels.pack_project(self.plain, path, os.path.basename(path) or self.request.app_name, key, self.tools)
        try:
            return wheels.build_pure(sdist, self.tools)
        except CommandError as error:
            where = path or "the project"
            raise BatonError(
                f"A wheel of {where} can't be built on the controller: {error.last_lines()}.",
                "Correct its [build-system], or set app_release_project_wheel to false if it needs no installation. "
                "If the build needs a file of app_release_files, set `build: true` for it.",
            ) from None

    def _add_generated(self, wheel: wheels.Wheel) -> None:
        """Add files that a build generates in a package, such as a version module, to the source, which is imported."""
        roots, left = self._roots(self._import_paths()), _GENERATED_BYTES
        with wheels.opened(wheel.path) as archive:
            for entry in archive.infolist():
                name = entry.filename
                top = name.partition("/")[0]
                if name.endswith("/") or re.search(r"\.(dist-info|data)\Z", top) or "/" not in name:
                    continue
                root = next((root for root in roots if (root / top).is_dir()), None)
                # the build is untrusted: a name may lead out of the source
                clean = source_tree.inside(name, f"the wheel {wheel.path.name}")
                if root is None or os.path.lexists(root / clean):
                    continue
                left -= entry.file_size  # zipfile reads at most this many bytes
                if left < 0:
                    raise BatonError(
                        f"The build of {wheel.name} generated more than {_GENERATED_BYTES >> 20} MiB of files that "
                        "aren't in the source.",
                        "Reduce them, or set app_release_project_wheel to false.",
                    )
                inside = str((root / clean).relative_to(self.tree))
                place = source_tree.place(self.tree, inside, f"the wheel {wheel.path.name}")
                with archive.open(entry) as content, place.open("wb") as file:
                    shutil.copyfileobj(content, file)

    def _unbuilt(self, unbuilt: list[wheels.Unbuilt], identity: str) -> dict[str, Any]:
        if not self.request.build:
            first = unbuilt[0]
            names = sorted({f"{one.sdist.name} {one.sdist.version}".strip() for one in unbuilt})
            raise BatonError(
                f"No wheel of {', '.join(names)} fits {first.target.key}, and the controller can't build "
                f"{first.sdist.name} as pure Python: {first.reason}.",
                "Set app_release_builder to one host for each kind of app server (or app_release_build: host"
                " to use the app servers), and app_release_build_packages to the headers that the build needs.",
            )
        kinds = sorted({one.target for one in unbuilt})
        jobs = [wheels.pack_job([one for one in unbuilt if one.target == kind], self.tools) for kind in kinds]
        return {
            "complete": False,
            "id": identity,
            "builds": jobs,
            "warnings": self.warnings,
            "seconds": self.clock.seconds,
        }

    # -- the archive -------------------------------------------------------------------------------------

    def _archive(self, release: dict[str, Any], projects: list[wheels.Wheel]) -> tuple[str, str, int, str]:
        """Pack the source and the projects' wheels, or reuse the cached archive, whose time is that of its build.

        Returns the path, the time of creation, the unpacked bytes and the SHA-256.
        """
        place = self.tools.folder("artifacts", self.request.app_name)
        archive, notes = place / f"{release['id']}-src.tar.gz", place / f"{release['id']}.json"
        if archive.is_file() and notes.is_file():
            known = json.loads(notes.read_text(encoding="utf-8"))
            os.utime(archive)
            # notes of older versions have no hash
            sha256 = str(known.get("sha256") or sha256_of(archive))
            return str(archive), str(known["created"]), int(known["unpacked_bytes"]), sha256
        now = int(time.time())
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        folder = self.scratch / "project-wheels"
        folder.mkdir()
        for wheel in projects:
            shutil.copyfile(wheel.path, folder / wheel.path.name)
        texts = {
            "artifact.json": json.dumps({**release, "created": created}, indent=2, sort_keys=True) + "\n",
            "project.txt": "".join(f"{wheel.line()}\n" for wheel in projects),
        }
        source_tree.pack(archive, {"src": self.tree, "wheels": folder}, texts, now)
        unpacked = 2 * source_tree.size(self.tree) + 2 * source_tree.size(folder)
        sha256 = sha256_of(archive)
        atomic_file.write(notes, json.dumps({"created": created, "unpacked_bytes": unpacked, "sha256": sha256}))
        return str(archive), created, unpacked, sha256

    def _boms(
        self, release: dict[str, Any], sets: Iterable[wheels.WheelSet], projects: list[wheels.Wheel]
    ) -> dict[str, str]:
        """Write the bills of materials beside the archive. Returns their paths by target."""
        place = self.tools.folder("artifacts", self.request.app_name)
        local = [bom.Component(wheel.name, wheel.version, "project", wheel.sha256) for wheel in projects]
        paths = {}
        for found_set in sets:
            path = place / f"{release['id']}-{found_set.target}{bom.SUFFIX}"
            text = bom.document(release, found_set.target, [*found_set.components(), *local], VERSION)
            atomic_file.write(path, text)
            paths[found_set.target] = str(path)
        return paths

    def _prune(self) -> None:
        """Remove old archives from the cache; they can be built again quickly."""
        artifacts = self.tools.folder("artifacts", self.request.app_name)
        _keep_newest(artifacts, "*-src.tar.gz", _KEPT_ARTIFACTS)
        for path in artifacts.glob(f"*{bom.SUFFIX}"):
            if not (artifacts / f"{path.name.partition('-')[0]}-src.tar.gz").is_file():
                path.unlink(missing_ok=True)
        _keep_newest(self.tools.folder("sets"), "wheels-*.tar", _KEPT_SETS)
        _keep_newest(self.tools.folder("trees"), "*.tar", _KEPT_ARTIFACTS)


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Filter the result of a build command: no caches, and no special files, which could block when read."""
    plain = entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()
    return entry if plain and Path(entry.name).name not in source_tree.NEVER else None


def _keep_newest(folder: Path, pattern: str, count: int) -> None:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[count:]:
        path.unlink(missing_ok=True)


def build_from_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Build an artifact from the module's options. Returns the module's result. Raises BatonError."""
    options = lockfile.ResolveOptions(
        lock=parameters["lock"],
        extras=tuple(parameters["extras"]),
        groups=tuple(parameters["groups"]),
        extra_requirements=tuple(parameters["extra_requirements"]),
        constraints=tuple(parameters["constraints"]),
        exclude_newer=parameters["exclude_newer"],
        refresh=parameters["refresh"],
        allow_stale=parameters["allow_stale_lock"],
    )
    request = Request(
        app_name=parameters["app_name"],
        app_source=parameters["app_source"],
        app_version=parameters["app_version"],
        app_source_subdir=parameters["app_source_subdir"],
        app_module=parameters["app_module"],
        targets=[Target.parse(raw) for raw in parameters["targets"]],
        server_lock=Path(parameters["server_lock"]),
        handover_source=Path(parameters["handover_source"]),
        base_dirs=parameters["base_dirs"],
        options=options,
        import_paths=parameters["import_paths"],
        working_directory=parameters["working_directory"],
        build_command=parameters["build_command"],
        build_environment={name: str(value) for name, value in parameters["build_environment"].items()},
        files=parameters["files"],
        excluded=parameters["exclude"],
        state_links=parameters["state_links"],
        state_dir=parameters["state_dir"] or f"/var/lib/{parameters['app_name']}",
        project_wheel=parameters["project_wheel"],
        build=parameters["build"],
        salt=parameters["salt"],
        allow_old_packages=parameters["allow_old_packages"],
    )
    tools = Tools(
        cache_folder(parameters["cache_dir"]),
        parameters["index_url"],
        list(parameters["extra_index_urls"]),
        confinement=Confinement(parameters["build_confinement"]),
    )
    return build(request, tools)
