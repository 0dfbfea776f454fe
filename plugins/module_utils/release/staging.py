"""Stage releases on a host atomically.

Runs on app servers: standard library only.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..app import bom, floors
from ..change.version import VERSION
from ..host import atomic_file, disk, sandbox, untrusted
from ..host.command import OFFLINE_UV, BatonError, CommandError, make_folder, run
from ..host.stopwatch import Stopwatch
from ..host.tar_check import TarCheck
from .import_check import ImportCheck, check_import
from .store import STAGING, ReleaseStore, check_identity, complete, in_use, locked, read_release, remove, sweep

# Memory limit of the process that compiles sources.
COMPILE_BYTES = 2**31
# Seconds to create a folder as the application's user, who can stop its own processes.
STATE_LIMIT = 60.0


@dataclass(frozen=True)
class StageRequest:
    """The release to stage, from an artifact."""

    identity: str
    target: str
    wheels: str
    source_archive: Path
    wheels_archive: Path
    source: Mapping[str, Any]
    packed: Mapping[str, Any]
    allow_old_packages: Sequence[str] = ()

    @classmethod
    def parse(
        cls,
        artifact: Mapping[str, Any],
        target: Mapping[str, Any],
        archives: Path,
        allow_old_packages: Sequence[str] = (),
    ) -> StageRequest:
        """Parse the result of the module artifact for one target. Raises BatonError."""
        python = ".".join(str(target.get("python", "")).split(".")[:2])
        key = f"py{python}-{target.get('architecture')}-glibc{target.get('glibc')}"
        sets = artifact.get("wheels") or {}
        if not artifact.get("id") or key not in sets:
            raise BatonError(
                f"The artifact has no wheels for {key}; it has {', '.join(sorted(sets)) or 'none'}.",
                "Add this host's Python, architecture and C library to app_release_targets.",
            )
        check_identity(str(artifact["id"]))
        return cls(
            identity=str(artifact["id"]),
            target=key,
            wheels=str(sets[key]["key"]),
            source_archive=archives / Path(str(artifact["source"]["path"])).name,
            wheels_archive=archives / Path(str(sets[key]["path"])).name,
            source=artifact["source"],
            packed=sets[key],
            allow_old_packages=allow_old_packages,
        )


def fits(release: Mapping[str, Any], folder: Path, wanted: StageRequest) -> bool:
    """Whether a staged release is for the wanted target and its Python still exists (upgrades may remove it)."""
    return release.get("target") == wanted.target and (folder / "venv" / "bin" / "python").exists()


def base_of(places: ReleaseStore, wanted: StageRequest) -> Path | None:
    """Return a release with the same wheels, whose venv can be reused; None if there is none."""
    for identity, release in complete(places).items():
        folder = places.releases / identity
        # releases of older versions have no bill of materials, and so no hashes of their packages
        known = (folder / bom.FILE).is_file()
        if known and release.get("wheels") == wanted.wheels and fits(release, folder, wanted):
            return folder
    return None


def query(places: ReleaseStore, wanted: StageRequest) -> dict[str, Any]:
    """Return which archives a host needs for a release. Raises BatonError if the disk lacks space."""
    release = read_release(places.releases / wanted.identity)
    staged = release is not None and fits(release, places.releases / wanted.identity, wanted)
    needs_wheels = not staged and base_of(places, wanted) is None
    if not staged:
        _check_disk(places, wanted, needs_wheels)
    uploads = []
    if not staged:
        uploads.append({"src": wanted.source["path"], "dest": str(wanted.source_archive)})
    if needs_wheels:
        uploads.append({"src": wanted.packed["path"], "dest": str(wanted.wheels_archive)})
    return {"staged": staged, "uploads": uploads, "release": release if staged else None}


def check_python(places: ReleaseStore, wanted: StageRequest) -> str:
    """Return the full version of the host's Python. Raises BatonError if it doesn't fit the wheels."""
    if not os.access(places.uv, os.X_OK):
        raise BatonError(
            f"uv is missing at {places.uv} on this host.",
            "Apply the role python_runtime first, or correct app_release_uv.",
        )
    try:
        version = run([places.python, "-I", "-c", "import platform; print(platform.python_version())"]).strip()
    except (CommandError, OSError) as error:
        raise BatonError(
            f"{places.python} doesn't run on this host ({error}).",
            "Install that Python first: the role python_runtime does, by its setting python_runtime_version.",
        ) from None
    minor = ".".join(version.split(".")[:2])
    with contextlib.suppress(ValueError, OSError):
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
        match = re.fullmatch(r"py([\d.]+)-(\w+)-glibc(\d+)\.(\d+)", wanted.target)
        if match:
            older = tuple(int(part) for part in glibc.split(".")[:2]) < (int(match[3]), int(match[4]))
            if match[1] != minor or match[2] != platform.machine() or older:
                raise BatonError(
                    f"This host has Python {minor} on {platform.machine()} with glibc {glibc}, "
                    f"but the wheels are for {wanted.target}.",
                    "Correct app_release_target for this host, so that the artifact contains its wheels.",
                )
    return version


def _check_disk(places: ReleaseStore, wanted: StageRequest, needs_wheels: bool) -> None:
    upload, unpacked = int(wanted.source["upload_bytes"]), int(wanted.source["unpacked_bytes"])
    if needs_wheels:
        # the wheels are there twice temporarily: uploaded, and unpacked for the installation
        upload += int(wanted.packed["upload_bytes"])
        unpacked += int(wanted.packed["unpacked_bytes"]) + int(wanted.packed["upload_bytes"])
    needs: dict[int, tuple[Path, int]] = {}
    for folder, amount in ((places.upload, upload), (places.releases, unpacked)):
        there = disk.existing(folder)
        device = there.stat().st_dev
        known = needs.get(device, (there, 0))
        needs[device] = (known[0], known[1] + amount)
    for there, amount in needs.values():
        missing = amount - disk.room(there)
        if missing > 0:
            needed = amount + disk.RESERVE_BYTES
            raise BatonError(
                f"The release {wanted.identity} needs {_mib(needed)} on the disk of {there}, "
                f"which has {_mib(needed - missing)} free.",
                "Free disk space there, or keep fewer releases (app_releases_keep).",
            )


def _mib(amount: int) -> str:
    return f"{amount / 1024 / 1024:.0f} MiB"


def stage(
    places: ReleaseStore, wanted: StageRequest, check: ImportCheck | None, state_dir: Path | None, owner: str
) -> dict[str, Any]:
    """Stage a release in a hidden folder, and rename it when it is complete.

    `check`: test import; None for none. `state_dir`, `owner`: folder and owner of state links. Returns the module's
    result. Raises BatonError.
    """
    old_umask = os.umask(0o022)
    try:
        with locked(places):
            final = places.releases / wanted.identity
            release = read_release(final)
            if release is not None and fits(release, final, wanted):
                return {"changed": False, "release": release, "release_path": str(final), "warnings": [], "seconds": {}}
            make_folder(places.releases)
            sweep(places)
            if final.exists():
                if wanted.identity in in_use(places):
                    raise BatonError(
                        f"The release {wanted.identity} exists for another Python, and a process runs from it.",
                        "Stop that process, or change the application so that it gets a new id.",
                    )
                remove(places, final)
            staging = places.releases / f"{STAGING}{wanted.identity}"
            try:
                return _Stage(places, wanted, staging).run(final, check, state_dir, owner)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.umask(old_umask)


class _Stage:
    def __init__(self, places: ReleaseStore, wanted: StageRequest, staging: Path) -> None:
        self.places = places
        self.wanted = wanted
        self.staging = staging
        self.wheels = staging / ".wheels"
        self.clock = Stopwatch()
        self.hashes: dict[tuple[str, str], str] = {}  # of the verified wheels, by part and name

    def run(self, final: Path, check: ImportCheck | None, state_dir: Path | None, owner: str) -> dict[str, Any]:
        version = check_python(self.places, self.wanted)
        self.staging.mkdir(mode=0o755)
        verify(self.wanted.source_archive, str(self.wanted.source["sha256"]))
        unpack(self.wanted.source_archive, self.staging / ".artifact")
        artifact = self._read_artifact()
        (self.staging / ".artifact" / "src").rename(self.staging / "src")
        self.clock.mark("unpack")
        base = base_of(self.places, self.wanted)
        packages = self._install() if base is None else self._reuse(base)
        self.clock.mark("venv" if base is None else "venv reused")
        projects = self._install_projects()
        self.clock.mark("projects")
        self._compile("src", *(("venv/lib", "server") if base is None or projects else ()))
        self.clock.mark("compile")
        components = self._components(packages, projects)
        served = {one.name: one.version for one in components if one.part != "server"}
        served.update({one.name: one.version for one in components if one.part == "server"})
        allowed = self.wanted.allow_old_packages
        where = f"The release {self.wanted.identity}, as it was installed on this host,"
        warnings = [*floors.check(served, allowed, where).values(), *self._check_venv()]
        if state_dir is not None:
            make_state(artifact.get("state_links", []), state_dir, owner)
        if check is not None:
            check_import(self.staging, artifact, check)
            self.clock.mark("import check")
        for name in (".artifact", ".uv-cache"):
            shutil.rmtree(self.staging / name, ignore_errors=True)
        for name in ("venv/.lock", "server/.lock"):
            (self.staging / name).unlink(missing_ok=True)  # uv's, which are world-writable
        release = {
            **artifact,
            "python": version,
            "target": self.wanted.target,
            "wheels": self.wanted.wheels,
            "packages": {**packages["venv"], **projects, **packages["server"]},
            "server": packages["server"],
            "venv": packages["venv"],
            "projects": projects,
            "staged": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        materials = bom.document(artifact, self.wanted.target, components, VERSION)
        (self.staging / bom.FILE).write_text(materials, encoding="utf-8")
        text = json.dumps(release, indent=2, sort_keys=True) + "\n"
        (self.staging / "release.json").write_text(text, encoding="utf-8")
        # sync before the rename: after a loss of power the release is complete or absent
        run(["sync", "--file-system", self.staging])
        self.staging.rename(final)
        atomic_file.sync_folder(self.places.releases)
        self.clock.mark("sync")
        return {
            "changed": True,
            "release": release,
            "release_path": str(final),
            "warnings": warnings,
            "seconds": self.clock.seconds,
        }

    def _read_artifact(self) -> dict[str, Any]:
        artifact = untrusted.parse_object(untrusted.read(self.staging / ".artifact" / "artifact.json"))
        if artifact.get("id") != self.wanted.identity:
            raise BatonError(
                f"{self.wanted.source_archive} contains the release {artifact.get('id')}, not {self.wanted.identity}.",
                "Upload the archive again.",
            )
        return artifact

    def _uv(self, *words: str | Path) -> str:
        environment = {
            **OFFLINE_UV,
            "UV_CACHE_DIR": str(self.staging / ".uv-cache"),  # on the releases' disk, for hard links
            "VIRTUAL_ENV": "",
        }
        # A wheel may unpack to more than its stated size, for which the free space was checked. uv should report the
        # failed write instead of being killed by the signal.
        most = int(self.wanted.source["unpacked_bytes"]) + int(self.wanted.packed["unpacked_bytes"])
        bounded = ["env", "--ignore-signal=XFSZ", "prlimit", f"--fsize={most}"]
        return run([*bounded, self.places.uv, *words], cwd=self.staging, env=environment)

    def _pip_install(self, listed: Path, found_in: Path, *words: str | Path) -> None:
        if not listed.read_text(encoding="utf-8").strip():
            return
        try:
            self._uv(
                "pip",
                "install",
                "--quiet",
                "--no-index",
                f"--find-links={found_in}",
                "--no-deps",
                "--no-build",
                "--require-hashes",
                "--link-mode=hardlink",
                f"--requirements={listed}",
                *words,
            )
        except CommandError as error:
            raise BatonError(
                f"The wheels of {self.wanted.target} can't be installed: {error.last_lines()}.",
                "Check that app_release_target describes this host, and that its disk has free space.",
            ) from None

    def _install(self) -> dict[str, dict[str, str]]:
        verify(self.wanted.wheels_archive, str(self.wanted.packed["sha256"]))
        unpack(self.wanted.wheels_archive, self.wheels)
        self.wanted.wheels_archive.unlink(missing_ok=True)  # now, because it may be large
        self._install_into_new("venv", self.wheels / "venv.txt", self.wheels / "wheels")
        (self.staging / "server").mkdir()
        self._pip_install(
            self.wheels / "server.txt", self.wheels / "wheels", f"--python={self.places.python}", "--target=server"
        )
        # scripts would contain the path of the staging folder; the server is started as a module
        shutil.rmtree(self.staging / "server" / "bin", ignore_errors=True)
        packages = {name: self._listed(name, self.wheels / f"{name}.txt") for name in ("venv", "server")}
        shutil.rmtree(self.wheels)
        return packages

    def _install_into_new(self, name: str, listed: Path, found_in: Path) -> set[Path]:
        """Install into a new venv. Returns the files of the empty venv.

        uv runs a venv's interpreter before it installs, and that executes code of installed packages (.pth files,
        sitecustomize) as root. Therefore uv must never run on a venv with packages.
        """
        venv = self.staging / name
        self._uv("venv", "--quiet", "--no-project", "--relocatable", f"--python={self.places.python}", name)
        bare = {path.relative_to(venv) for path in venv.rglob("*")}
        self._pip_install(listed, found_in, f"--python={name}/bin/python")
        return bare

    def _reuse(self, base: Path) -> dict[str, dict[str, str]]:
        """Link the packages of a release with the same wheels, without the project's own package."""
        release = read_release(base) or {}
        left_out = installed_files(base / "venv", release.get("projects", {}))
        link_tree(base / "venv", self.staging / "venv", left_out)
        link_tree(base / "server", self.staging / "server")
        self.hashes |= bom.hashes(base / bom.FILE)
        return {name: dict(release.get(name, {})) for name in ("venv", "server")}

    def _install_projects(self) -> dict[str, str]:
        listed = self.staging / ".artifact" / "project.txt"
        self.hashes = {key: value for key, value in self.hashes.items() if key[0] != "project"}
        projects = self._listed("project", listed)
        if projects:
            bare = self._install_into_new(".projects", listed, self.staging / ".artifact" / "wheels")
            installed = self.staging / ".projects"
            link_tree(installed, self.staging / "venv", bare)
            shutil.rmtree(installed)
        return projects

    def _listed(self, part: str, path: Path) -> dict[str, str]:
        """Return the versions in a list of wheels, by name; uv has verified the wheels' hashes."""
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition("==")
            found[name], _, sha256 = rest.partition(" --hash=sha256:")
            self.hashes[part, name] = sha256
        return found

    def _components(
        self, packages: Mapping[str, Mapping[str, str]], projects: Mapping[str, str]
    ) -> list[bom.Component]:
        """Return the packages that are really installed, with hashes for those in the lists."""
        found = []
        folders = {"venv": site_packages(self.staging / "venv"), "server": self.staging / "server"}
        for place, folder in folders.items():
            for name, version in sorted(installed(folder)):
                part = "project" if place == "venv" and name in projects else place
                listed = (projects if part == "project" else packages[place]).get(name, "")
                same = bool(listed) and floors.order(listed) == floors.order(version)
                sha256 = self.hashes.get((part, name), "") if same else ""
                found.append(bom.Component(name, listed if same else version, part, sha256))
        return found

    def _compile(self, *folders: str) -> None:
        # Compiled now, because workers can't write here. -S: otherwise this would run packages' .pth files as root.
        # Errors in files that aren't for this Python (templates, old tests) are ignored.
        # A source that exceeds the memory limit is compiled by the worker that imports it.
        command: list[str | Path] = ["prlimit", f"--as={COMPILE_BYTES}", self.places.python]
        # -e: the application writes where state links lead, and could link a file that only root may read
        command += ["-I", "-S", "-m", "compileall", "-qq", "-e", self.staging]
        # for a source alone, starting more processes takes longer than it saves
        parallel = ["-j", "0"] if len(folders) > 1 else []
        with contextlib.suppress(CommandError):
            run([*command, *parallel, *folders], cwd=self.staging)

    def _check_venv(self) -> list[str]:
        """Return warnings about incompatible packages, from `uv pip check`, which runs the venv's interpreter."""
        release = self.staging
        confined: list[str] = []
        if sandbox.available():
            release = sandbox.READABLE
            confined = sandbox.invocation(OFFLINE_UV, timeout=60, readable=self.staging)
        elif os.geteuid() == 0:
            return []  # without a sandbox, it would run packages' code as root
        words: list[str | Path] = [
            self.places.uv,
            "pip",
            "check",
            "--quiet",
            "--no-cache",
            f"--python={release}/venv/bin/python",
        ]
        try:
            run([*confined, *words], env=OFFLINE_UV)
        except CommandError as error:
            return [f"The locked packages are incompatible: {error.last_lines(6)}"] if error.last_lines() else []
        return []


def site_packages(venv: Path) -> Path:
    """Return a venv's site-packages folder."""
    return next((venv / "lib").glob("python*/site-packages"))


def installed_files(venv: Path, projects: Iterable[str]) -> set[Path]:
    """Return the files of some packages in a venv, relative to it, from the packages' RECORD files.

    A RECORD is untrusted: it must only be used to omit files from a copy.
    """
    site = site_packages(venv)
    names = {floors.normal(name) for name in projects}
    found = set()
    for record in site.glob("*.dist-info/RECORD"):
        if floors.normal(record.parent.name.partition("-")[0]) not in names:
            continue
        for name in _recorded(record):
            path = Path(os.path.normpath(site / name))
            found.add(path)
            # compiled files aren't in RECORD; a name may be too long for the file system
            with contextlib.suppress(OSError):
                if path.is_relative_to(venv):
                    found.update(path.parent.glob(f"__pycache__/{glob.escape(path.stem)}.*.pyc"))
    return {path.relative_to(venv) for path in found if path.is_relative_to(venv)}


def _recorded(record: Path) -> list[str]:
    """Return the paths in an untrusted RECORD file; none if it is too large or isn't CSV."""
    with contextlib.suppress(OSError, csv.Error):
        rows = csv.reader(untrusted.read(record).decode(errors="replace").replace("\0", "").splitlines())
        return [row[0] for row in rows if row]
    return []


def link_tree(source: Path, destination: Path, left_out: Container[Path] = frozenset()) -> None:
    """Hard-link the files of a tree into another one; existing files are replaced. Raises BatonError.

    This is safe because nothing writes into the files afterwards: uv replaces files.
    """
    root = os.path.realpath(destination)
    for folder, folders, names in os.walk(source):
        inside = Path(folder).relative_to(source)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        wanted = [name for name in [*names, *links] if inside / name not in left_out]
        if not wanted:
            continue
        target = destination / inside
        target.mkdir(parents=True, exist_ok=True)
        if not f"{os.path.realpath(target)}/".startswith(f"{root}/"):
            raise BatonError(
                f"A package contains a link at {inside} that leads out of the release.", "Check the locked packages."
            )
        for name in wanted:
            if os.path.lexists(target / name):
                (target / name).unlink()
            _link(os.path.join(folder, name), str(target / name))


def _link(source: str, destination: str) -> str:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)
    return destination


def installed(folder: Path) -> set[tuple[str, str]]:
    """Return names and versions of the packages in a folder, from the names of their .dist-info folders."""
    found = set()
    for path in folder.glob("*.dist-info"):
        # untrusted: a name may contain any characters
        name, _, version = untrusted.printable(path.name).removesuffix(".dist-info").partition("-")
        found.add((floors.normal(name), version))
    return found


def verify(archive: Path, sha256: str) -> None:
    """Raise BatonError if an archive doesn't have the hash of the controller's."""
    try:
        with archive.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BatonError(
            f"The archive {archive} can't be read ({error}).", "Upload it again; check the disk."
        ) from None
    if found != sha256:
        raise BatonError(
            f"{archive} on this host differs from the controller's: its hash is {found[:12]}…, not {sha256[:12]}….",
            "Deploy again. If the error remains, remove the file with that name from the controller's cache "
            "(app_release_cache_dir), and check who can write to this host's disk.",
        )


def unpack(archive: Path, destination: Path) -> None:
    """Unpack an archive that Baton made. Raises BatonError, also for a name that leads out of the folder."""
    destination.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            # not the `data` filter: it refuses absolute links, which state links are
            packed.extraction_filter = staticmethod(lambda member, _path: member)
            check = TarCheck()
            for member in packed:
                if member.islnk() or check.why_not(member):
                    raise BatonError(f"{archive.name} has the unexpected entry {member.name}.", "Upload it again.")
                packed.extract(member, destination)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BatonError(
            f"The archive {archive} can't be unpacked ({error}).", "Upload it again; check the disk."
        ) from None


def make_state(links: Sequence[Mapping[str, Any]], state_dir: Path, owner: str) -> None:
    """Create the folders that state links refer to, as their owner. Raises BatonError."""
    identity: dict[str, Any] = {}
    if owner and os.geteuid() == 0:
        account = pwd.getpwnam(owner)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        if links and not state_dir.exists():
            make_folder(state_dir, 0o750)
            os.chown(state_dir, account.pw_uid, account.pw_gid, follow_symlinks=False)
    for entry in links:
        target = state_dir / str(entry["target"])
        folder = target if entry.get("directory", True) else target.parent
        # as the owner: root would follow links that the application may have placed there
        try:
            made = subprocess.run(
                ["mkdir", "--parents", "--mode=0750", folder],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                umask=0o027,
                timeout=STATE_LIMIT,
                **identity,
            )
            failed = (made.stderr.strip() or f"status {made.returncode}") if made.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"it took longer than {STATE_LIMIT:.0f} s"
        if failed:
            raise BatonError(
                f"{folder} can't be created as {owner or 'this user'} ({failed}).",
                "Correct owner and mode of the folders above it.",
            )
