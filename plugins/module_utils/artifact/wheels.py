"""Wheels for every target: found in the index, built if there are none, packed into sets."""

from __future__ import annotations

import contextlib
import email.parser
import io
import json
import os
import platform
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from ..app import bom
from ..host import atomic_file, disk, untrusted
from ..host.command import BatonError, CommandError, run, without_credentials
from ..host.tar_check import bounded_tar
from ..host.wheel_build import ARCHIVE_ERRORS, BUILD_ENVIRONMENT, unpack_sdist
from . import lockfile, requirements, source_tree
from .download import Remote, fetch_all, sha256_of
from .requirements import Pin
from .targets import Target
from .toolchain import Tools, key_of, parse_toml, read_toml

# Baton's own package, whose build is trusted.
OWN_PACKAGE = "gunicorn-handover"

# The controller builds only pure Python, even if it has compilers: otherwise a deploy would depend on the controller,
# or install code that fits the controller's C library and not the host's.
_NO_COMPILER = dict.fromkeys(("CC", "CXX", "FC", "F77", "CARGO", "RUSTC", "LD"), "/bin/false")
_BUILD_TIMEOUT = 900
_COMPILE = ("pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate")
_COMPILED = (".c", ".cc", ".cpp", ".cxx", ".pyx", ".pxd", ".rs", ".f", ".f90", ".go")


@dataclass(frozen=True)
class Wheel:
    """A wheel in the cache."""

    path: Path
    sha256: str

    def __post_init__(self) -> None:
        try:
            parse_wheel_filename(self.path.name)
        except ValueError:
            raise BatonError(f"{self.path.name} is not a valid wheel name.", "Lock another version of it.") from None

    @property
    def name(self) -> str:
        return str(parse_wheel_filename(self.path.name)[0])

    @property
    def version(self) -> str:
        return str(parse_wheel_filename(self.path.name)[1])

    def line(self) -> str:
        """Return the wheel as a line of a requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Sdist:
    """A source distribution, or a project's folder packed as one, that has no wheel."""

    name: str
    version: str
    path: Path
    key: str


@dataclass(frozen=True)
class Unbuilt:
    """A package that a host must build, and why the controller couldn't."""

    sdist: Sdist
    target: Target
    reason: str


@dataclass
class WheelSet:
    """The wheels of one target, packed: for the venv and for the server's overlay."""

    target: str
    key: str
    archive: str
    venv: dict[str, str]
    server: dict[str, str]
    upload_bytes: int
    unpacked_bytes: int
    sha256: str = ""  # of the archive
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)  # of the wheels, by part and name
    modules: list[str] = field(default_factory=list)

    def components(self) -> list[bom.Component]:
        """Return the wheels for the bill of materials."""
        parts = {"venv": self.venv, "server": self.server}
        return [
            bom.Component(name, version, part, self.hashes[part][name])
            for part, versions in parts.items()
            for name, version in versions.items()
        ]


def _no_builds() -> list[Unbuilt]:
    return []


@dataclass
class Collected:
    """Wheels that were found or built, and packages that a host must build."""

    wheels: list[Wheel] = field(default_factory=list)
    unbuilt: list[Unbuilt] = field(default_factory=_no_builds)
    replaced: list[Pin] = field(default_factory=list)


def collect(
    pins: Sequence[Pin], target: Target, tools: Tools, *, host_builds: bool, replaceable: Iterable[str] = ()
) -> Collected:
    """Return a wheel for each pin on a target. Raises BatonError.

    `host_builds`: whether hosts can build what the controller can't. `replaceable`: packages that aren't built; those
    without a wheel are `replaced`.
    """
    collected = Collected()
    chosen: list[tuple[Pin, Remote]] = []
    sdists: list[tuple[Pin, Remote]] = []
    index = _index([pin for pin in pins if not pin.url], target, tools)
    for pin in pins:
        if pin.url:
            _collect_url(pin, target, tools, collected, host_builds)
            continue
        remote, is_wheel = _choose(pin, index, target, replaceable=pin.name in replaceable)
        if remote is None or (not is_wheel and pin.name in replaceable):
            collected.replaced.append(pin)
            continue
        (chosen if is_wheel else sdists).append((pin, remote))
    files = fetch_all([remote for _, remote in [*chosen, *sdists]], tools)
    for _, remote in chosen:
        path = files[remote]
        collected.wheels.append(Wheel(path, remote.sha256 or sha256_of(path)))
    for pin, remote in sdists:
        path = files[remote]
        _build_or_leave(
            Sdist(pin.name, pin.version, path, remote.sha256 or sha256_of(path)), target, tools, collected, host_builds
        )
    return collected


def _index(pins: Sequence[Pin], target: Target, tools: Tools) -> dict[str, dict[str, Any]]:
    """Return the index's files for each pin, queried with uv, so that uv's configuration applies."""
    if not pins:
        return {}
    lines = [pin.line(marker=False, hashes=False) for pin in pins]
    key = key_of(lines, target.minor, tools.index_url, tools.extra_index_urls)
    asked = ["--no-deps", "--format=pylock.toml", f"--python-version={target.python}"]
    what = "builds for the metadata of packages without a wheel"
    try:
        found = parse_toml(tools.cached("index", f"{key}.toml", lambda: _compile(lines, asked, what, tools)))
    except CommandError as error:
        raise BatonError(
            f"The index doesn't have all locked packages for Python {target.python}: {error.last_lines()}.",
            "Check that app_release_index_url (or the controller's uv settings) names the index that has them, "
            "or lock the application again.",
        ) from None
    return {canonicalize_name(package["name"]): package for package in found.get("packages", [])}


def _compile(lines: Sequence[str], asked: Sequence[str], what: str, tools: Tools) -> str:
    """Resolve requirements with uv and the operator's configuration."""
    requirements.refuse_controller(lines, what)
    with tempfile.TemporaryDirectory(prefix="baton-index-") as scratch:
        Path(scratch, "requirements.in").write_text("\n".join(lines) + "\n")
        return ask_index([*_COMPILE, *asked, "requirements.in"], Path(scratch), what, tools)


def _choose(
    pin: Pin, index: dict[str, dict[str, Any]], target: Target, *, replaceable: bool = False
) -> tuple[Remote | None, bool]:
    package = index.get(pin.name, {})
    offered = [(_remote(entry), True) for entry in package.get("wheels", [])]
    if "archive" in package:
        offered.append((_remote(package["archive"]), False))
    if "sdist" in package:
        offered.append((_remote(package["sdist"]), False))
    known = {value.partition(":")[2] for value in pin.hashes if value.startswith("sha256:")}
    allowed = [(remote, is_wheel) for remote, is_wheel in offered if not known or remote.sha256 in known]
    ranked = sorted(
        (rank, remote.filename, remote)
        for remote, is_wheel in allowed
        if is_wheel and (rank := target.rank(remote.filename)) is not None
    )
    if ranked:
        return ranked[0][2], True
    for remote, is_wheel in allowed:
        if not is_wheel:
            return remote, False
    if replaceable:
        return None, False
    if offered and not allowed:
        raise BatonError(
            f"No file of {pin.name} {pin.version} in the index has a hash of the lock.",
            "Lock the application again, or set app_release_index_url to the index that it was locked with.",
        )
    raise BatonError(
        f"{pin.name} {pin.version} has neither a wheel for {target.key} nor a source distribution.",
        "Lock a version that has one for this Python and architecture.",
    )


def _remote(entry: dict[str, Any]) -> Remote:
    url = entry.get("url") or Path(entry["path"]).resolve().as_uri()
    return Remote(url, str(entry.get("hashes", {}).get("sha256", "")))


def _collect_url(pin: Pin, target: Target, tools: Tools, collected: Collected, host_builds: bool) -> None:
    if pin.url.startswith("git+"):
        sdist = _git_sdist(pin, tools)
    else:
        known = [value.partition(":")[2] for value in pin.hashes if value.startswith("sha256:")]
        fragment = re.search(r"sha256=([0-9a-f]{64})", urlsplit(pin.url).fragment)
        remote = Remote(pin.url.partition("#")[0], fragment[1] if fragment else known[0] if len(known) == 1 else "")
        path = fetch_all([remote], tools)[remote]
        if path.suffix == ".whl":
            collected.wheels.append(Wheel(path, sha256_of(path)))
            return
        sdist = Sdist(pin.name, "", path, sha256_of(path))
    _build_or_leave(sdist, target, tools, collected, host_builds)


def _git_sdist(pin: Pin, tools: Tools) -> Sdist:
    url, _, fragment = pin.url.partition("#")
    subdir = next((part.partition("=")[2] for part in fragment.split("&") if part.startswith("subdirectory=")), "")
    with tempfile.TemporaryDirectory(prefix="baton-git-") as scratch:
        checkout = Path(scratch) / "source"
        commit = lockfile.fetch_git(pin.name, url, checkout, tools)
        key = key_of("git", without_credentials(url), commit, subdir)
        return pack_project(checkout, subdir, pin.name, key, tools)


def pack_project(folder: Path, subdir: str, name: str, key: str, tools: Tools) -> Sdist:
    """Pack a project's whole source for a build; the whole, because a build may read parent folders."""
    place = tools.folder("projects", key) / f"{name or 'project'}.tar.gz"
    if not place.is_file():
        source_tree.pack(
            place, {"source": folder}, {"subdirectory": subdir}, int(BUILD_ENVIRONMENT["SOURCE_DATE_EPOCH"])
        )
    return Sdist(name, "", place, key)


def built_folder(key: str, target: Target | None, tools: Tools) -> Path:
    """Return the cache folder of a built wheel: of one target, or of all targets for a pure wheel (None)."""
    return tools.folder("built", key, target.key if target else "any")


def built_pure(key: str, tools: Tools) -> Wheel | None:
    """Return the pure wheel that an earlier run built; None if there is none."""
    paths = sorted(built_folder(key, None, tools).glob("*.whl"))
    return Wheel(paths[0], sha256_of(paths[0])) if paths else None


def _built(sdist: Sdist, target: Target, tools: Tools) -> Wheel | None:
    for folder in (built_folder(sdist.key, None, tools), built_folder(sdist.key, target, tools)):
        for path in sorted(folder.glob("*.whl")):
            if target.rank(path.name) is not None:
                return Wheel(path, sha256_of(path))
    return None


def _build_or_leave(sdist: Sdist, target: Target, tools: Tools, collected: Collected, host_builds: bool) -> None:
    wheel = _built(sdist, target, tools)
    if wheel is None and host_builds and _compiles(sdist.path):
        collected.unbuilt.append(Unbuilt(sdist, target, "it has sources to compile"))
        return
    if wheel is None:
        try:
            wheel = build_pure(sdist, tools)
        except (CommandError, BatonError) as error:
            if isinstance(error, BatonError) and not host_builds:
                raise
            reason = error.last_lines() if isinstance(error, CommandError) else error.cause
            collected.unbuilt.append(Unbuilt(sdist, target, reason))
            return
        if target.rank(wheel.path.name) is None:
            raise BatonError(f"{wheel.path.name} doesn't fit {target.key}.", "Lock another version of it.")
    collected.wheels.append(wheel)


def _compiles(path: Path) -> bool:
    """Whether a source distribution contains files for a compiler."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        else:
            with bounded_tar(path, disk.Allowance(path.parent)) as packed:
                names = packed.getnames()
    except ARCHIVE_ERRORS:
        return False
    return any(name.endswith(_COMPILED) for name in names)


def build_pure(sdist: Sdist, tools: Tools) -> Wheel:
    """Build a wheel on the controller. Raises BatonError, and CommandError if it fails or isn't pure Python.

    The build's requirements are fetched first: the build itself has no network and no credentials.
    """
    with tempfile.TemporaryDirectory(prefix="baton-build-") as folder:
        scratch = Path(folder)
        project = unpack_sdist(sdist.path, scratch / "source")
        declared = _declared_requirements(project)
        try:
            built = _build(sdist, project, scratch, declared, tools)
        except CommandError:
            asked = _asked_requirements(sdist, project, scratch, declared, tools)
            if not asked:
                raise
            built = _build(sdist, project, scratch, [*declared, *asked], tools)
        place = built_folder(sdist.key, None, tools) / built.name
        shutil.copyfile(built, place)
    return Wheel(place, sha256_of(place))


def _build(sdist: Sdist, project: Path, scratch: Path, needed: Sequence[str], tools: Tools) -> Path:
    out = scratch / "out"
    words: list[str | Path] = [tools.uv, "build", "--wheel", f"--python={tools.python}", f"--out-dir={out}", project]
    _run_build(sdist, scratch, words, needed, tools)
    # a build's output may be a link or a pipe
    built = next((path for path in sorted(out.glob("*.whl")) if stat.S_ISREG(path.lstat().st_mode)), None)
    if built is None or out.is_symlink():
        raise CommandError(["uv", "build"], 0, "the build produced no wheel")
    if not built.name.endswith("-none-any.whl"):
        raise CommandError(["uv", "build"], 0, f"the wheel is for one platform only: {built.name}")
    return built


def _run_build(sdist: Sdist, scratch: Path, words: Sequence[str | Path], needed: Sequence[str], tools: Tools) -> str:
    """Run a command that starts a package's build backend, with wheels of its requirements and without an index."""
    environment = {**tools.build_environment, **tools.uv_environment, **_NO_COMPILER, **BUILD_ENVIRONMENT}
    here = controller()
    if here is not None:
        links = scratch / "needed"
        shutil.rmtree(links, ignore_errors=True)
        links.mkdir()
        for wheel in _wheels_for(sdist.name, needed, here, tools):
            shutil.copyfile(wheel.path, links / wheel.path.name)
        environment |= {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(links)}
    return tools.confinement.run(
        words,
        what="" if sdist.name == OWN_PACKAGE else f"the build of {f'{sdist.name} {sdist.version}'.strip()}",
        cwd=scratch,
        environment=environment if here is not None else {**environment, **tools.index_environment},
        writable=[scratch],
        index=here is None,
        network=here is None,
        timeout=_BUILD_TIMEOUT,
    )


def controller() -> Target | None:
    """Return the controller's own target, for the requirements of its builds; None if it isn't Linux with glibc."""
    try:
        known = re.fullmatch(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        known = None
    if known is None or sys.platform != "linux":
        return None
    glibc = (int(known[1]), int(known[2]))
    return Target(sys.version_info.minor, platform.machine(), glibc, sys.version_info.micro)


def build_requirements(sdist: Sdist, target: Target, tools: Tools) -> list[Wheel]:
    """Return wheels of everything that a package's build needs, for a host without an index. Raises BatonError."""
    with tempfile.TemporaryDirectory(prefix="baton-build-") as scratch:
        project = unpack_sdist(sdist.path, Path(scratch) / "source")
        declared = _declared_requirements(project)
        asked = _asked_requirements(sdist, project, Path(scratch), declared, tools)
    return _wheels_for(sdist.name, [*declared, *asked], target, tools)


def _declared_requirements(project: Path) -> list[str]:
    pyproject = project / "pyproject.toml"
    try:
        system = read_toml(pyproject, pyproject.name) if pyproject.is_file() else {}
    except BatonError as error:
        raise CommandError(["uv", "build"], 1, error.cause) from None
    # PEP 518: setuptools is the default
    wanted = system.get("build-system", {}).get("requires", ["setuptools>=40.8", "wheel"])
    try:
        # parsed, because a line of a requirements file could also name a file or an index
        return [str(Requirement(line)) for line in wanted]
    except (InvalidRequirement, TypeError, RecursionError) as error:
        raise CommandError(["uv", "build"], 1, f"its build-system has an invalid requirement: {error}") from None


def _wheels_for(name: str, wanted: Sequence[str], target: Target, tools: Tools) -> list[Wheel]:
    """Return wheels of build requirements and their dependencies, as resolved the first time."""
    if not wanted:
        return []
    index = [without_credentials(url) for url in (tools.index_url, *tools.extra_index_urls)]
    key = key_of(sorted(wanted), target.python, index)
    asked, what = ["--generate-hashes", f"--python-version={target.python}"], f"builds for {name}'s build requirements"
    try:
        text = tools.cached("resolved", f"build-{key}.txt", lambda: _compile(wanted, asked, what, tools))
    except CommandError as error:
        raise BatonError(
            f"The build requirements of {name} can't be resolved: {error.last_lines()}.",
            "Lock a version of it that has a wheel, or one that builds with current tools.",
        ) from None
    pins = requirements.read_text(text, root=tools.folder("resolved")).pins
    needed = [replace(pin, marker="") for pin in pins if target.holds(pin.marker)]
    collected = collect(needed, target, tools, host_builds=False)
    if collected.unbuilt:
        first = collected.unbuilt[0]
        raise BatonError(
            f"The build of {name} needs {first.sdist.name}, which has no wheel for {target.key} either.",
            f"Lock a version of {name} that has a wheel.",
        )
    return collected.wheels


def ask_index(words: Sequence[str], cwd: Path, what: str, tools: Tools) -> str:
    """Run uv to resolve pins or build requirements. Raises CommandError.

    Runs first without builds and with the operator's whole configuration. Only if a package has no metadata without a
    build, runs again confined, with just the index settings.
    """
    argv = [tools.uv, *words, f"--python={tools.python}"]
    try:
        return run([*argv, "--no-build"], cwd=cwd, env=tools.environment)
    except CommandError as error:
        if "building" not in error.output.lower():
            raise
    return tools.ask_with_builds(argv, cwd, what)


_ASK = """
import json, os, sys
from build import ProjectBuilder
from build.env import DefaultIsolatedEnv

out = os.dup(1)
os.dup2(2, 1)
with DefaultIsolatedEnv(installer="uv") as isolated:
    builder = ProjectBuilder.from_isolated_env(isolated, sys.argv[1])
    isolated.install(builder.build_system_requires)
    os.write(out, json.dumps(sorted(builder.get_requires_for_build("wheel"))).encode())
"""


def _asked_requirements(sdist: Sdist, project: Path, scratch: Path, declared: Sequence[str], tools: Tools) -> list[str]:
    """Return requirements that the build backend reports beside the declared ones, such as setup_requires."""
    try:
        output = json.loads(_run_build(sdist, scratch, [tools.python, "-I", "-c", _ASK, project], declared, tools))
        return sorted(str(Requirement(line)) for line in output)
    except (CommandError, BatonError, ValueError, TypeError, RecursionError):
        return []  # untrusted code, which may fail in any way


def pack_job(unbuilt: Sequence[Unbuilt], tools: Tools) -> dict[str, Any]:
    """Pack what a host needs to build packages for one target. Returns the job with the folders for the results."""
    target = unbuilt[0].target
    sdists = sorted({one.sdist.key: one.sdist for one in unbuilt}.values(), key=lambda sdist: sdist.key)
    needed: dict[str, Wheel] = {}
    for sdist in sdists:
        needed.update({wheel.path.name: wheel for wheel in build_requirements(sdist, target, tools)})
    key = key_of(target.key, [sdist.key for sdist in sdists], sorted(needed))[:16]
    archive = tools.folder("jobs") / f"build-{key}.tar"
    part = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(part, "w") as tar:
        for sdist in sdists:
            tar.add(sdist.path, f"sdists/{sdist.key}/{sdist.path.name}")
        for name, wheel in sorted(needed.items()):
            tar.add(wheel.path, f"wheels/{name}")
    part.replace(archive)
    return {
        "target": target.key,
        "python": target.python,
        "packages": [f"{sdist.name} {sdist.version}".strip() for sdist in sdists],
        "archive": str(archive),
        "results": {sdist.key: str(built_folder(sdist.key, target, tools)) for sdist in sdists},
    }


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel; errors of reading it within the block become BatonError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except ARCHIVE_ERRORS as error:
        raise BatonError(
            f"{path.name} can't be read as a wheel ({error or type(error).__name__}).", "Lock another version of it."
        ) from None


def metadata(path: Path) -> tuple[str, list[str]]:
    """Return Requires-Python and the file names of a wheel. Raises BatonError."""
    with opened(path) as archive:
        names = archive.namelist()
        inside = next((name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)), "")
        if not inside:
            raise BatonError(f"{path.name} is not a wheel: it has no metadata.", "Lock another version of it.")
        with archive.open(inside) as file:
            # the headers come first; the rest may be very large
            message = email.parser.HeaderParser().parsestr(file.read(untrusted.SIZE).decode(errors="replace"))
    return str(message.get("Requires-Python") or ""), names


def pack_set(target: Target, venv: Sequence[Wheel], server: Sequence[Wheel], tools: Tools, set_key: str) -> WheelSet:
    """Pack wheels with two lists: those of the venv and those of the server's overlay. Raises BatonError."""
    for wheel in [*venv, *server]:
        requires, _ = metadata(wheel.path)
        if requires and not _allows(target, requires):
            raise BatonError(
                f"{wheel.name} {wheel.version} requires Python {requires}, but there are app servers with Python "
                f"{target.python_full}.",
                f"Lock the application for {target.python}, or set python_runtime_version to one that {requires} "
                "allows.",
            )
    lists = {
        "venv.txt": "".join(f"{wheel.line()}\n" for wheel in sorted(venv, key=lambda one: one.name)),
        "server.txt": "".join(f"{wheel.line()}\n" for wheel in sorted(server, key=lambda one: one.name)),
    }
    key = key_of(target.key, lists)[:16]
    archive = tools.folder("sets") / f"wheels-{key}.tar"
    unique = {wheel.path.name: wheel for wheel in [*venv, *server]}
    unpacked = 0
    for wheel in [*venv, *server]:
        with opened(wheel.path) as zipped:
            # sources count twice, because they are compiled
            unpacked += sum(
                (4096 * -(-entry.file_size // 4096)) * (2 if entry.filename.endswith(".py") else 1)
                for entry in zipped.infolist()
            )
    if not archive.is_file():
        part = archive.with_name(f".{archive.name}.{os.getpid()}")
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, text in sorted(lists.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
            for name, wheel in sorted(unique.items()):
                entry = tarfile.TarInfo(f"wheels/{name}")
                entry.size = wheel.path.stat().st_size
                with wheel.path.open("rb") as content:
                    tar.addfile(entry, content)
        part.replace(archive)
    packed = WheelSet(
        target=target.key,
        key=key,
        archive=str(archive),
        venv={wheel.name: wheel.version for wheel in venv},
        server={wheel.name: wheel.version for wheel in server},
        upload_bytes=archive.stat().st_size,
        unpacked_bytes=unpacked,
        sha256=sha256_of(archive),
        hashes={
            "venv": {wheel.name: wheel.sha256 for wheel in venv},
            "server": {wheel.name: wheel.sha256 for wheel in server},
        },
        modules=modules([*venv, *server]),
    )
    atomic_file.write(tools.folder("sets") / f"{set_key}.json", json.dumps(packed.__dict__))
    return packed


def cached_set(key: str, tools: Tools) -> WheelSet | None:
    """Return the cached set for these requirements; None if there is none."""
    path = tools.folder("sets") / f"{key}.json"
    if not path.is_file():
        return None
    found = WheelSet(**json.loads(path.read_text(encoding="utf-8")))
    # sets of older versions have no hash
    if not found.sha256 or not Path(found.archive).is_file():
        return None
    os.utime(found.archive)
    return found


def _allows(target: Target, requires: str) -> bool:
    try:
        return target.allows(requires)
    except ValueError:
        return True  # invalid; pip ignores it too


def modules(wheels: Iterable[Wheel]) -> list[str]:
    """Return the dotted names of the modules in wheels."""
    names: set[str] = set()
    for wheel in wheels:
        for path in metadata(wheel.path)[1]:
            names.update(module_names(path))
    return sorted(names)


def module_names(path: str) -> list[str]:
    """Return the dotted name of the module that a file defines, in a list; empty if it defines none."""
    match = re.fullmatch(r"((?:[^/.]+/)*)([^/.]+)(?:\.py|\.[^/]*\.so|\.so)", path)
    if match is None or ".dist-info/" in path:
        return []
    folders = match[1].rstrip("/").replace("/", ".")
    if match[2] in ("__init__", "__main__"):
        return [folders] if folders and match[2] == "__init__" else []
    return [f"{folders}.{match[2]}" if folders else match[2]]
