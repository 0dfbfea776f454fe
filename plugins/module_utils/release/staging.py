"""Releases on a host: staged whole or not at all, never half; removed only when nothing lives on them.

Everything here runs on app servers: the standard library alone.
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
from ..host.command import BatonError, CommandError, make_folder, run
from ..host.stopwatch import Stopwatch
from ..host.tar_check import TarCheck
from .import_check import ImportCheck, check_import
from .store import STAGING, ReleaseStore, check_identity, complete, in_use, locked, read_release, remove, sweep

# Memory that a process may have which compiles sources.
COMPILE_BYTES = 2**31


@dataclass(frozen=True)
class StageRequest:
    """The release that an artifact describes."""

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
        """Read what artifact returned, for one kind of host."""
        python = ".".join(str(target.get("python", "")).split(".")[:2])
        key = f"py{python}-{target.get('architecture')}-glibc{target.get('glibc')}"
        sets = artifact.get("wheels") or {}
        if not artifact.get("id") or key not in sets:
            raise BatonError(
                f"The artifact has no wheels for {key}; it has {', '.join(sorted(sets)) or 'none'}.",
                "Give this host's Python, architecture and C library among app_release_targets.",
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
    """Whether a staged release is what is wanted and its Python still there (a distribution may have moved on)."""
    return release.get("target") == wanted.target and (folder / "venv" / "bin" / "python").exists()


def base_of(places: ReleaseStore, wanted: StageRequest) -> Path | None:
    """A release with the same wheels, whose venv can be taken over."""
    for identity, release in complete(places).items():
        folder = places.releases / identity
        # a release of an older Baton has no bill of materials, and so no hashes of what its venv is made of
        known = (folder / bom.FILE).is_file()
        if known and release.get("wheels") == wanted.wheels and fits(release, folder, wanted):
            return folder
    return None


def query(places: ReleaseStore, wanted: StageRequest) -> dict[str, Any]:
    """What a host needs to be sent for a release; refuses when the disk hasn't the room."""
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
    """The full version of the host's Python; refuses one that the wheels weren't chosen for."""
    if not os.access(places.uv, os.X_OK):
        raise BatonError(
            f"uv is not at {places.uv} on this host.", "Apply the role python_runtime first, or correct app_release_uv."
        )
    try:
        version = run([places.python, "-I", "-c", "import platform; print(platform.python_version())"]).strip()
    except (CommandError, OSError) as error:
        raise BatonError(
            f"{places.python} doesn't run on this host ({error}).",
            "Install it first (role python_runtime), or correct app_release_python.",
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
                    "Correct app_release_target for it, so that the artifact brings its wheels.",
                )
    return version


def _check_disk(places: ReleaseStore, wanted: StageRequest, needs_wheels: bool) -> None:
    upload, unpacked = int(wanted.source["upload_bytes"]), int(wanted.source["unpacked_bytes"])
    if needs_wheels:
        # the wheels lie there twice for a while: uploaded, and unpacked to be installed from
        upload += int(wanted.packed["upload_bytes"])
        unpacked += int(wanted.packed["unpacked_bytes"]) + int(wanted.packed["upload_bytes"])
    needs: dict[int, tuple[Path, int]] = {}
    for folder, amount in ((places.upload, upload), (places.releases, unpacked)):
        there = _existing(folder)
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
                "Make room there, or keep fewer releases (app_releases_keep).",
            )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _mib(amount: int) -> str:
    return f"{amount / 1024 / 1024:.0f} MiB"


def stage(
    places: ReleaseStore, wanted: StageRequest, check: ImportCheck | None, state_dir: Path | None, owner: str
) -> dict[str, Any]:
    """Make a release: everything in a hidden folder beside, release.json last, then one rename."""
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
                        f"The release {wanted.identity} is here for another Python, and a process runs from it.",
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
        self.hashes: dict[tuple[str, str], str] = {}  # of the wheels that were verified, by part and name

    def run(self, final: Path, check: ImportCheck | None, state_dir: Path | None, owner: str) -> dict[str, Any]:
        version = check_python(self.places, self.wanted)
        self.staging.mkdir(mode=0o755)
        verify(self.wanted.source_archive, str(self.wanted.source["sha256"]))
        unpack(self.wanted.source_archive, self.staging / ".artifact")
        artifact = self._read_artifact()
        (self.staging / ".artifact" / "src").rename(self.staging / "src")
        self.clock.mark("unpack")
        base = base_of(self.places, self.wanted)
        packages = self._install() if base is None else self._take_over(base)
        self.clock.mark("venv" if base is None else "venv taken over")
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
            (self.staging / name).unlink(missing_ok=True)  # uv's, and writable by everybody
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
        # all of it is on the disk before its name is: a host that loses power has the release or hasn't
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
                f"{self.wanted.source_archive} holds the release {artifact.get('id')}, not {self.wanted.identity}.",
                "Upload the archive again.",
            )
        return artifact

    def _uv(self, *words: str | Path) -> str:
        environment = {
            "UV_CACHE_DIR": str(self.staging / ".uv-cache"),  # on the releases' disk: files are linked, not copied
            "UV_NO_CONFIG": "1",
            "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
            "VIRTUAL_ENV": "",
        }
        # a wheel may hold more than it says, by which the disk was judged; uv is to tell of it, not to be killed
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
                "Check that app_release_target describes this host, and that its disk has room.",
            ) from None

    def _install(self) -> dict[str, dict[str, str]]:
        verify(self.wanted.wheels_archive, str(self.wanted.packed["sha256"]))
        unpack(self.wanted.wheels_archive, self.wheels)
        self.wanted.wheels_archive.unlink(missing_ok=True)  # which may be as large as what becomes of it
        self._install_into_new("venv", self.wheels / "venv.txt", self.wheels / "wheels")
        (self.staging / "server").mkdir()
        self._pip_install(
            self.wheels / "server.txt", self.wheels / "wheels", f"--python={self.places.python}", "--target=server"
        )
        # commands there would name this folder by the path it has now; the server is started as a module
        shutil.rmtree(self.staging / "server" / "bin", ignore_errors=True)
        packages = {name: self._listed(name, self.wheels / f"{name}.txt") for name in ("venv", "server")}
        shutil.rmtree(self.wheels)
        return packages

    def _install_into_new(self, name: str, listed: Path, found_in: Path) -> set[Path]:
        """Install into a venv that nothing is in yet; returns the files that it has without a package.

        uv asks a venv's interpreter before it installs, and that runs what packages have put there (.pth files,
        sitecustomize), here as root. So uv never gets to see a venv with packages.
        """
        venv = self.staging / name
        self._uv("venv", "--quiet", "--no-project", "--relocatable", f"--python={self.places.python}", name)
        bare = {path.relative_to(venv) for path in venv.rglob("*")}
        self._pip_install(listed, found_in, f"--python={name}/bin/python")
        return bare

    def _take_over(self, base: Path) -> dict[str, dict[str, str]]:
        """The same wheels are installed already: link them, without the project that was installed from the source."""
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
        """The versions in a list of wheels by name; uv has held each wheel against its hash."""
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition("==")
            found[name], _, sha256 = rest.partition(" --hash=sha256:")
            self.hashes[part, name] = sha256
        return found

    def _components(
        self, packages: Mapping[str, Mapping[str, str]], projects: Mapping[str, str]
    ) -> list[bom.Component]:
        """What is installed, whatever the lists say; a hash has what they name."""
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
        # Workers can't write here. Without -S this would run the .pth files of the packages, as root.
        # Files that aren't for this Python (templates, old tests) fail quietly.
        # What takes more memory than any honest source is compiled when it is imported, by its user.
        command: list[str | Path] = ["prlimit", f"--as={COMPILE_BYTES}", self.places.python]
        command += ["-I", "-S", "-m", "compileall", "-qq"]
        # to start the others takes longer than what a source alone takes
        parallel = ["-j", "0"] if len(folders) > 1 else []
        with contextlib.suppress(CommandError):
            run([*command, *parallel, *folders], cwd=self.staging)

    def _check_venv(self) -> list[str]:
        """Whether the packages fit together, which uv asks the venv's interpreter."""
        environment = {"UV_NO_CONFIG": "1", "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
        release = self.staging
        confined: list[str] = []
        if sandbox.available():
            release = sandbox.READABLE
            confined = sandbox.invocation(environment, timeout=60, readable=self.staging)
        elif os.geteuid() == 0:
            return []  # it would run as root what packages have put into the venv
        words: list[str | Path] = [
            self.places.uv,
            "pip",
            "check",
            "--quiet",
            "--no-cache",
            f"--python={release}/venv/bin/python",
        ]
        try:
            run([*confined, *words], env=environment)
        except CommandError as error:
            return [f"The locked packages don't fit together: {error.last_lines(6)}"] if error.last_lines() else []
        return []


def site_packages(venv: Path) -> Path:
    """Where a venv has its packages."""
    return next((venv / "lib").glob("python*/site-packages"))


def installed_files(venv: Path, projects: Iterable[str]) -> set[Path]:
    """The files that some packages have in a venv, by their own records, relative to it.

    A record is its package's word: it is only used to leave files of that venv out of a copy.
    """
    site = site_packages(venv)
    names = {floors.normal(name) for name in projects}
    found = set()
    for record in site.glob("*.dist-info/RECORD"):
        if floors.normal(record.parent.name.partition("-")[0]) in names:
            # a package's word: a file that is too large or no table names nothing
            rows: list[list[str]] = []
            with contextlib.suppress(OSError, csv.Error):
                rows = list(csv.reader(untrusted.read(record).decode(errors="replace").replace("\0", "").splitlines()))
            for row in rows:
                if row:
                    path = Path(os.path.normpath(site / row[0]))
                    found.add(path)
                    # what was compiled of it stands in no record; a name may be too long to be one
                    with contextlib.suppress(OSError):
                        if path.is_relative_to(venv):
                            found.update(path.parent.glob(f"__pycache__/{glob.escape(path.stem)}.*.pyc"))
    return {path.relative_to(venv) for path in found if path.is_relative_to(venv)}


def link_tree(source: Path, destination: Path, left_out: Container[Path] = frozenset()) -> None:
    """Link the files of a tree into another one, with the folders that they need; names that are taken are replaced.

    No file is written into afterwards: uv replaces files.
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
                f"A package has put a link at {inside} that leads out of the release.", "Look into what is locked."
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
    """Names and versions of the packages in a folder, as their metadata's folders are called."""
    found = set()
    for path in folder.glob("*.dist-info"):
        # a package's word, as a name may be anything
        name, _, version = untrusted.printable(path.name).removesuffix(".dist-info").partition("-")
        found.add((floors.normal(name), version))
    return found


def verify(archive: Path, sha256: str) -> None:
    """Refuse an archive that isn't the one that the controller made."""
    try:
        with archive.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BatonError(
            f"The archive {archive} can't be read ({error}).", "Upload it again; check the disk."
        ) from None
    if found != sha256:
        raise BatonError(
            f"{archive} on this host isn't what the controller made: its hash is {found[:12]}…, not {sha256[:12]}….",
            "Deploy again. If it stays so, remove the file of that name from the controller's cache "
            "(app_release_cache_dir), and look into who can write on this host's disk.",
        )


def unpack(archive: Path, destination: Path) -> None:
    """Unpack an archive of ours; a name that leads out of the folder is refused all the same."""
    destination.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            # state links are absolute on purpose: the `data` filter of newer Pythons would refuse them
            packed.extraction_filter = staticmethod(lambda member, _path: member)
            check = TarCheck()
            for member in packed:
                if member.islnk() or check.why_not(member):
                    raise BatonError(
                        f"{archive.name} has the entry {member.name}, which doesn't belong into it.", "Upload it again."
                    )
                packed.extract(member, destination)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BatonError(
            f"The archive {archive} can't be unpacked ({error}).", "Upload it again; check the disk."
        ) from None


def make_state(links: Sequence[Mapping[str, Any]], state_dir: Path, owner: str) -> None:
    """Folders that the source's symlinks lead to."""
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
        # by the owner: root would follow the links that the application may have there
        made = subprocess.run(
            ["mkdir", "--parents", "--mode=0750", folder],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            umask=0o027,
            **identity,
        )
        if made.returncode:
            raise BatonError(f"{folder} can't be made as {owner or 'this user'} ({made.stderr.strip()}).", "See to it.")
