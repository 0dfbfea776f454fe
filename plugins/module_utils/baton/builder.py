"""Building wheels on a host that has a compiler but no package index: the standard library alone."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .process import BatonError, CommandError, run

# 1980, the oldest time that a zip can hold: the same input gives the same wheel.
BUILD_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"}
_TIMEOUT = 3600
_INSIDE = Path("/tmp/job")  # where a confined build finds its folder


def unpack_sdist(path: Path, destination: Path) -> Path:
    """Unpack a source distribution (or a project packed by us); returns the folder to build."""
    destination.mkdir(parents=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(destination)
    else:
        with tarfile.open(path) as packed:
            _check(packed, path.name)
            packed.extractall(destination)
    marker = destination / "subdirectory"
    if marker.is_file():
        return destination / "source" / marker.read_text()
    folders = [entry for entry in destination.iterdir() if entry.is_dir()]
    return folders[0] if len(folders) == 1 else destination


def _check(packed: tarfile.TarFile, name: str) -> None:
    """Refuse what would be unpacked elsewhere, by its path or through a link; Debian 12's tarfile has no filter.

    A symlink itself may lead anywhere, as those to an application's state do.
    """
    links: set[str] = set()
    for member in packed.getmembers():
        paths = [os.path.normpath(path) for path in (member.name, *([member.linkname] if member.islnk() else []))]
        through = {str(path) for path in (Path(paths[0]), *Path(paths[0]).parents)} & links
        if through or any(os.path.isabs(path) or path.startswith("..") for path in paths):
            raise CommandError(["tar"], 1, f"{name} has a path that leads out of it: {member.name}")
        if member.issym():
            links.add(paths[0])


def _confined(out: Path) -> list[str]:
    """How a build is run by root: it is others' code, which gets a user of its own, no network, and nothing but `out`.

    Empty where there is nothing to take away, or no systemd to do so.
    """
    if os.geteuid() != 0 or not os.path.isdir("/run/systemd/system"):
        return []
    properties = ["DynamicUser=yes", "PrivateTmp=yes", f"BindPaths={out}:{_INSIDE}", f"RuntimeMaxSec={_TIMEOUT}"]
    properties += ["PrivateNetwork=yes", "PrivateDevices=yes", "ProtectHome=yes", "ProtectSystem=strict"]
    properties += ["ProtectProc=invisible", "NoNewPrivileges=yes", "CapabilityBoundingSet="]
    return ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", *(f"--property={line}" for line in properties)]


def build(job: Path, out: Path, uv: Path, python: Path, system_packages: Sequence[str]) -> list[dict[str, Any]]:
    """Build every package of a job; returns the wheels with the key of what each was built from."""
    if not uv.is_file():
        raise BatonError(f"uv is not at {uv} on this host.", "Apply the role python_runtime to it, too.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, mode=0o700)
    with tarfile.open(job) as packed:
        packed.extractall(out)
    confined = _confined(out)
    base = _INSIDE if confined else out
    environment = {
        **BUILD_ENVIRONMENT,
        "HOME": str(base),
        "UV_CACHE_DIR": str(base / "cache"),
        "UV_NO_CONFIG": "1",
        "UV_OFFLINE": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
        "TMPDIR": str(base),
    }
    built = []
    sdist = Path()
    try:
        # all of them before anything of them runs, which could put links in the way
        projects = {}
        for folder in sorted((out / "sdists").iterdir()):
            sdist = next(folder.iterdir())
            projects[sdist] = base / unpack_sdist(sdist, out / "sources" / folder.name).relative_to(out)
        if confined:
            # for a user who has no name yet; nobody else gets through the folder above
            run(["chmod", "--recursive", "a+rwX", out])
            confined += [f"--setenv={name}={value}" for name, value in environment.items()]
        for sdist, project in projects.items():
            key = sdist.parent.name
            run(
                [*confined, uv, "build", "--wheel", "--no-index", f"--find-links={base / 'wheels'}",
                 f"--python={python}", f"--out-dir={base / 'built' / key}", project],
                env=environment,
                timeout=_TIMEOUT,
            )  # fmt: skip
            # a link would be read by root
            wheel = next(path for path in (out / "built" / key).glob("*.whl") if not path.is_symlink())
            built.append({"key": key, "path": str(wheel), "filename": wheel.name})
    except CommandError as error:
        raise BatonError(
            f"{sdist.name} can't be built here with {', '.join(system_packages) or 'no system packages'}: "
            f"{error.last_lines()}.",
            "Add what it misses to app_release_build_packages, or lock a version of it that has a wheel.",
        ) from None
    return built
