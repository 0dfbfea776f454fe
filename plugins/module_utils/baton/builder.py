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


def unpack_sdist(path: Path, destination: Path) -> Path:
    """Unpack a source distribution (or a project packed by us); returns the folder to build."""
    destination.mkdir(parents=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(destination)
    else:
        with tarfile.open(path) as packed:
            for member in packed.getmembers():
                where = os.path.normpath(member.name)
                if os.path.isabs(where) or where.startswith(".."):
                    raise CommandError(["tar"], 1, f"{path.name} has a path that leads out of it: {member.name}")
            packed.extractall(destination)
    marker = destination / "subdirectory"
    if marker.is_file():
        return destination / "source" / marker.read_text()
    folders = [entry for entry in destination.iterdir() if entry.is_dir()]
    return folders[0] if len(folders) == 1 else destination


def build(job: Path, out: Path, uv: Path, python: Path, system_packages: Sequence[str]) -> list[dict[str, Any]]:
    """Build every package of a job; returns the wheels with the key of what each was built from."""
    if not uv.is_file():
        raise BatonError(f"uv is not at {uv} on this host.", "Apply the role python_runtime to it, too.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, mode=0o700)
    with tarfile.open(job) as packed:
        packed.extractall(out)
    environment = {
        **BUILD_ENVIRONMENT,
        "UV_CACHE_DIR": str(out / "cache"),
        "UV_NO_CONFIG": "1",
        "UV_OFFLINE": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
        "TMPDIR": str(out),
    }
    built = []
    for folder in sorted((out / "sdists").iterdir()):
        sdist = next(folder.iterdir())
        made = out / "built" / folder.name
        try:
            project = unpack_sdist(sdist, out / "sources" / folder.name)
            run(
                [uv, "build", "--wheel", "--no-index", f"--find-links={out / 'wheels'}",
                 f"--python={python}", f"--out-dir={made}", project],
                env=environment,
                timeout=_TIMEOUT,
            )  # fmt: skip
        except CommandError as error:
            raise BatonError(
                f"{sdist.name} can't be built here with {', '.join(system_packages) or 'no system packages'}: "
                f"{error.last_lines()}.",
                "Add what it misses to app_release_build_packages, or lock a version of it that has a wheel.",
            ) from None
        wheel = next(made.glob("*.whl"))
        built.append({"key": folder.name, "path": str(wheel), "filename": wheel.name})
    return built
