"""Building wheels on a host that has a compiler but no package index: the standard library alone."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import disk, sandbox
from .command import BatonError, CommandError, run
from .tar_check import TarCheck, bounded_tar

# 1980, the oldest time that a zip can hold: the same input gives the same wheel.
BUILD_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"}
_TIMEOUT = 3600
_LONGEST = 4096  # characters of a path
# what reading an archive of others may raise: damaged, cut, encrypted, of a kind that isn't known, names that are none
ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


def unpack_sdist(path: Path, destination: Path) -> Path:
    """Unpack a source distribution (or a project packed by us); returns the folder to build. Raises CommandError."""
    destination.mkdir(parents=True)
    try:
        _unpack(path, destination)
    except disk.TooLargeError as error:
        raise CommandError(["tar"], 1, f"{path.name} {error}") from None
    except ARCHIVE_ERRORS as error:
        raise CommandError(["tar"], 1, f"{path.name} can't be unpacked ({error or type(error).__name__})") from None
    marker = destination / "subdirectory"
    # of a package it may be a link to what only root reads, and would be told
    if marker.is_file() and not marker.is_symlink():
        with marker.open(encoding="utf-8", errors="replace") as file:
            subdirectory = file.read(_LONGEST)
        if project := folder_in(destination / "source", subdirectory):
            return project
        raise CommandError(["tar"], 1, f"{path.name} is to be built in {subdirectory!r}, which is no folder of it")
    folders = [entry for entry in destination.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return folders[0] if len(folders) == 1 else destination


def _unpack(path: Path, destination: Path) -> None:
    allowance = disk.Allowance(destination)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                allowance.take(entry.file_size)  # no more than that is written of it
            archive.extractall(destination)
        return
    with bounded_tar(path, allowance) as packed:
        check = TarCheck()
        for member in packed.getmembers():
            if why := check.why_not(member):
                raise CommandError(["tar"], 1, f"{path.name} {why}")
            # neither another owner nor a set-user-ID bit, which root would give them
            member.mode, member.uid, member.gid, member.uname, member.gname = member.mode & 0o777, 0, 0, "", ""
        packed.extractall(destination)


def folder_in(root: Path, subdirectory: str) -> Path | None:
    """A folder of a source, wherever links in it lead; None for what is no folder of it."""
    folder = root / subdirectory
    # a name may be too long, a link lead to itself
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if folder.is_dir() and folder.resolve().is_relative_to(root.parent.resolve() / root.name):
            return folder
    return None


def build(job: Path, out: Path, uv: Path, python: Path, system_packages: Sequence[str]) -> list[dict[str, Any]]:
    """Build every package of a job; returns the wheels with the key of what each was built from."""
    if not uv.is_file():
        raise BatonError(f"uv is not at {uv} on this host.", "Apply the role python_runtime to it, too.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, mode=0o700)
    with tarfile.open(job) as packed:
        packed.extractall(out)
    sdist = Path()
    try:
        # all of them before anything of them runs
        builds = []
        for folder in sorted((out / "sdists").iterdir()):
            sdist = next(folder.iterdir())
            place = out / "builds" / folder.name
            builds.append((sdist, place, unpack_sdist(sdist, place / "source")))
        built = []
        for sdist, place, project in builds:
            wheel = _built(place, project, out / "wheels", uv, python)
            built.append({"key": sdist.parent.name, "path": str(wheel), "filename": wheel.name})
        return built
    except CommandError as error:
        raise BatonError(
            f"{sdist.name} can't be built here with {', '.join(system_packages) or 'no system packages'}: "
            f"{error.last_lines()}.",
            "If it misses a header, a library or a program, add the package that has it to app_release_build_packages; "
            "otherwise lock a version of it that has a wheel.",
        ) from None


def _built(place: Path, project: Path, wheels: Path, uv: Path, python: Path) -> Path:
    """Build one, as a user of its own where root does it: others' code, which sees no other build."""
    confined = sandbox.available()
    inside, found_in = (sandbox.WRITABLE, sandbox.READABLE) if confined else (place, wheels)
    # all of it in the build's own folder: the next one is another user, who could not write what this one has made
    environment = {
        **BUILD_ENVIRONMENT,
        "HOME": str(inside),
        "UV_CACHE_DIR": str(inside / "cache"),
        "UV_NO_CONFIG": "1",
        "UV_OFFLINE": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
        "TMPDIR": str(inside),
    }
    before = []
    if confined:
        # for a user who has no name yet; nobody else gets through the folder above
        run(["chmod", "--recursive", "a+rwX", place])
        before = sandbox.invocation(environment, timeout=_TIMEOUT, writable=place, readable=wheels)
    run(
        [*before, uv, "build", "--wheel", "--no-index", f"--find-links={found_in}", f"--python={python}",
         f"--out-dir={inside / 'built'}", inside / project.relative_to(place)],
        env=environment,
        timeout=_TIMEOUT,
    )  # fmt: skip
    # what a build leaves may be a link or a pipe, which root would follow or wait for
    built = place.resolve() / "built"
    for wheel in sorted(built.glob("*.whl")):
        if wheel.resolve() == wheel and stat.S_ISREG(wheel.lstat().st_mode):
            return wheel
    raise CommandError(["uv", "build"], 0, "it left no wheel")
