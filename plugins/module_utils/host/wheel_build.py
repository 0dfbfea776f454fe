"""Build wheels on a host that has a compiler but no package index."""

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
from .command import OFFLINE_UV, BatonError, CommandError, run
from .tar_check import TarCheck, bounded_tar

# A fixed time, 1980, the oldest that zip can represent, so that the same input gives the same wheel.
BUILD_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"}
_TIMEOUT = 3600
_LONGEST = 4096  # characters of a path
# what reading an untrusted archive may raise: if it is damaged, truncated, encrypted, or has invalid names
ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


def unpack_sdist(path: Path, destination: Path) -> Path:
    """Unpack a source distribution or a project packed by Baton. Returns the folder to build. Raises CommandError."""
    destination.mkdir(parents=True)
    try:
        _unpack(path, destination)
    except disk.TooLargeError as error:
        raise CommandError(["tar"], 1, f"{path.name} {error}") from None
    except ARCHIVE_ERRORS as error:
        raise CommandError(["tar"], 1, f"{path.name} can't be unpacked ({error or type(error).__name__})") from None
    marker = destination / "subdirectory"
    # in a package it may be a link to a file that only root can read
    if marker.is_file() and not marker.is_symlink():
        with marker.open(encoding="utf-8", errors="replace") as file:
            subdirectory = file.read(_LONGEST)
        if project := folder_in(destination / "source", subdirectory):
            return project
        raise CommandError(["tar"], 1, f"{path.name} has no folder {subdirectory!r} to build")
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
            # no other owner and no set-user-ID bit, which root would apply
            member.mode, member.uid, member.gid, member.uname, member.gname = member.mode & 0o777, 0, 0, "", ""
        packed.extractall(destination)


def folder_in(root: Path, subdirectory: str) -> Path | None:
    """Return a subfolder of a source; None if it isn't a folder or leads out of the source."""
    folder = root / subdirectory
    # a name may be too long, and a link may point to itself
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if folder.is_dir() and folder.resolve().is_relative_to(root.parent.resolve() / root.name):
            return folder
    return None


def build(job: Path, out: Path, uv: Path, python: Path, system_packages: Sequence[str]) -> list[dict[str, Any]]:
    """Build every package of a job. Returns the wheels with the keys of their sources. Raises BatonError."""
    if not uv.is_file():
        raise BatonError(f"uv is missing at {uv} on this host.", "Apply the role python_runtime to this host too.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, mode=0o700)
    with tarfile.open(job) as packed:
        packed.extractall(out)
    sdist = Path()
    try:
        # unpack all of them before any of their code runs
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
            "If a header, a library or a program is missing, add its package to app_release_build_packages; "
            "otherwise lock a version of it that has a wheel.",
        ) from None


def _built(place: Path, project: Path, wheels: Path, uv: Path, python: Path) -> Path:
    """Build one package, confined with its own dynamic user if possible: the code is untrusted."""
    confined = sandbox.available()
    inside, found_in = (sandbox.WRITABLE, sandbox.READABLE) if confined else (place, wheels)
    # everything in the build's own folder: the next build's user couldn't write to this one's files
    environment = {
        **BUILD_ENVIRONMENT,
        **OFFLINE_UV,
        "HOME": str(inside),
        "UV_CACHE_DIR": str(inside / "cache"),
        "TMPDIR": str(inside),
    }
    before = []
    if confined:
        # for the dynamic user; the parent folder keeps other users out
        run(["chmod", "--recursive", "a+rwX", place])
        before = sandbox.invocation(environment, timeout=_TIMEOUT, writable=place, readable=wheels)
    run(
        [*before, uv, "build", "--wheel", "--no-index", f"--find-links={found_in}", f"--python={python}",
         f"--out-dir={inside / 'built'}", inside / project.relative_to(place)],
        env=environment,
        timeout=_TIMEOUT,
    )  # fmt: skip
    # a build's output may be a link or a pipe
    built = place.resolve() / "built"
    for wheel in sorted(built.glob("*.whl")):
        if wheel.resolve() == wheel and stat.S_ISREG(wheel.lstat().st_mode):
            return wheel
    raise CommandError(["uv", "build"], 0, "it produced no wheel")
