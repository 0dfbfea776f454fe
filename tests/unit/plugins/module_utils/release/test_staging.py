from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import os
import pathlib
import pwd
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import floors
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.host import credential, disk
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.module_utils.release import import_check, staging, store
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support import systemd_run
from tests.support.machine import HERE
from tests.support.program import write_script

MAIN = "import os\nasync def app(scope, receive, send): ...\n"


@pytest.fixture
def release_store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> store.ReleaseStore:
    (tmp_path / "opt").mkdir()
    (tmp_path / "bin").mkdir()
    systemd_run.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return store.ReleaseStore(
        releases=tmp_path / "opt/releases",
        current=tmp_path / "opt/current",
        state=tmp_path / "state",
        uv=pathlib.Path(sys.executable).parent / "uv",
        python=pathlib.Path(sys.executable),
    )


def upload(release_store: store.ReleaseStore, built: dict[str, Any]) -> staging.StageRequest:
    """Do what the action does: query, and upload what is missing."""
    request = staging.StageRequest.parse(built, HERE, release_store.upload)
    release_store.upload.mkdir(parents=True, exist_ok=True)
    for item in staging.query(release_store, request)["uploads"]:
        pathlib.Path(item["dest"]).write_bytes(pathlib.Path(item["src"]).read_bytes())
    return request


def stage(
    release_store: store.ReleaseStore, built: dict[str, Any], check: import_check.ImportCheck | None = None
) -> dict[str, Any]:
    result: dict[str, Any] = staging.stage(release_store, upload(release_store, built), check, None, "")
    return result


def create_release(
    release_store: store.ReleaseStore, identity: str, staged: str, complete: bool = True
) -> pathlib.Path:
    folder: pathlib.Path = release_store.releases / identity
    (folder / "src").mkdir(parents=True)
    if complete:
        (folder / "release.json").write_text(json.dumps({"id": identity, "staged": staged}))
    return folder


@pytest.fixture
def five_releases(release_store: store.ReleaseStore) -> store.ReleaseStore:
    for number in range(1, 6):
        create_release(release_store, f"r{number}", f"2026-01-0{number}T00:00:00Z")
    release_store.current.symlink_to("releases/r2")
    return release_store


def staged(release_store: store.ReleaseStore) -> list[str]:
    return sorted(folder.name for folder in release_store.releases.iterdir())


def test_release_is_staged_completely_and_runs(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    built = build()
    result = stage(release_store, built)
    folder = release_store.releases / built["id"]
    assert result["changed"]
    assert result["release_path"] == str(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == ["bom.cdx.json", "release.json", "server", "src", "venv"]
    found = json.loads((folder / "release.json").read_text())
    assert found["id"] == built["id"]
    assert found["packages"]["idna"] == "3.10"
    assert found["packages"]["uvloop"] == found["server"]["uvloop"]
    assert found["python"].startswith(HERE["python"])
    code = "import idna, gunicorn, gunicorn_handover, main; print(idna.__file__, gunicorn.__file__, main.__file__)"
    paths = [folder / "server", *(folder / path for path in found["import_paths"])]
    shown = subprocess.run(
        [folder / "venv/bin/python", "-B", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, paths))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [str(pathlib.Path(path).relative_to(folder)).split("/")[0] for path in shown] == ["venv", "server", "src"]
    assert list((folder / "src").rglob("main.*.pyc")), "workers can't write it later"
    assert list((folder / "venv").rglob("idna/__pycache__/core.*.pyc"))
    for path in folder.rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o022, path
        assert not path.is_dir() or path.stat().st_mode & 0o055 == 0o055, path
    assert not stage(release_store, built)["changed"]


def test_change_of_code_reuses_the_venv(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    first, second = build(), build(MAIN + "#")
    stage(release_store, first)
    request = staging.StageRequest.parse(second, HERE, release_store.upload)
    assert [pathlib.Path(item["src"]).name for item in staging.query(release_store, request)["uploads"]] == [
        f"{second['id']}-src.tar.gz"
    ]
    result = stage(release_store, second)
    assert "venv reused" in result["seconds"]
    one, two = (next((release_store.releases / built["id"]).rglob("idna/core.py")) for built in (first, second))
    assert one.stat().st_ino == two.stat().st_ino
    folder = release_store.releases / second["id"]
    for path in (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        assert b".staging-" not in path.read_bytes(), path
        assert first["id"].encode() not in path.read_bytes(), path


# packages may install this, and every Python that starts in their venv without -S runs it
STARTUP = "import pathlib; pathlib.Path({marker!r}).write_text('started')"


def test_staging_runs_no_code_from_a_venv(
    release_store: store.ReleaseStore, build: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    first = build()
    stage(release_store, first)
    marker = tmp_path / "marker"
    (site,) = (release_store.releases / first["id"] / "venv/lib").glob("*/site-packages")
    (site / "dependency.pth").write_text(STARTUP.format(marker=str(marker)) + "\n")
    (site / "sitecustomize.py").write_text(STARTUP.format(marker=str(marker)))
    second = build(MAIN + "# changed\n")
    result = stage(release_store, second)
    (copied,) = pathlib.Path(result["release_path"]).glob("venv/lib/*/site-packages/dependency.pth")
    assert copied.stat().st_ino == (site / "dependency.pth").stat().st_ino  # reused, so it could have been run
    assert not marker.exists()


PROJECT = """
[tool.hatch.build.targets.wheel]
packages = ["{package}"]
[tool.hatch.build.targets.wheel.force-include]
"startup.pth" = "startup.pth"
"""


@pytest.fixture
def project(
    write: Callable[..., pathlib.Path],
    pyproject: Callable[..., str],
    make_request: Callable[..., Any],
    tools: Any,
    tmp_path: pathlib.Path,
) -> Callable[[str], dict[str, Any]]:
    """An artifact whose source is itself a package of this name, with a .pth file and a command."""

    def make(package: str) -> dict[str, Any]:
        rest = f'[project.scripts]\nhello = "{package}.main:hello"\n' + PROJECT.format(package=package)
        files = {
            "pyproject.toml": pyproject("project", ["idna==3.10"], rest=rest),
            "startup.pth": STARTUP.format(marker=str(tmp_path / "marker")) + "\n",
            f"{package}/__init__.py": "",
            f"{package}/main.py": MAIN + "def hello(): ...\n",
            "requirements.txt": "idna==3.10\n-e .\n",
        }
        source = write(package, files)
        request = make_request(source, app_module=f"{package}.main:app", targets=[Target.parse(HERE)])
        built: dict[str, Any] = artifact.build(request, tools)
        return built

    return make


def test_files_of_a_replaced_project_are_removed(
    release_store: store.ReleaseStore, project: Callable[[str], dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    for package in ("before", "after"):
        result = stage(release_store, project(package))
        venv = pathlib.Path(result["release_path"]) / "venv"
        (site,) = venv.glob("lib/*/site-packages")
        names = {path.name for path in site.iterdir()}
        assert {"idna", "project-1.0.dist-info", "startup.pth", package} <= names
        assert not {"before", "after"} - {package} & names
        # the command works wherever the release is
        assert "exec" in (venv / "bin/hello").read_text().splitlines()[1]
        assert not (tmp_path / "marker").exists()
    assert "venv reused" in result["seconds"]


def test_files_outside_the_venv_are_ignored_in_a_record(tmp_path: pathlib.Path) -> None:
    info = tmp_path / "venv/lib/python3.11/site-packages/evil_one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text(
        f'{"a" * 300}/b/x.py,,\nevil.py,,\n../../../../outside,,\n/etc/passwd,,\n"../../../bin/a,b",,\n'
    )
    found = staging.installed_files(tmp_path / "venv", ["Evil.One"])
    names = {str(path) for path in found if "aaa" not in str(path)}
    assert names == {"lib/python3.11/site-packages/evil.py", "bin/a,b"}
    assert staging.installed_files(tmp_path / "venv", ["other"]) == set()


def test_tree_is_not_linked_through_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source/share").mkdir(parents=True)
    (tmp_path / "source/share/file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "destination").mkdir()
    (tmp_path / "destination/share").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BatonError, match="leads out of the release"):
        staging.link_tree(tmp_path / "source", tmp_path / "destination")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_failed_staging_leaves_nothing(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    good, broken = build(), build("raise RuntimeError('no luck')\napp = None\n")
    stage(release_store, good)
    check = import_check.ImportCheck(user=getpass.getuser(), timeout=30)
    with pytest.raises(BatonError, match="RuntimeError: no luck"):
        stage(release_store, broken, check)
    assert staged(release_store) == [good["id"]]


def test_import_check_has_the_environment_and_hides_secrets(
    release_store: store.ReleaseStore,
    build: Callable[..., Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "environment").write_text('# comment\nGREETING="say \\"hi\\" \\$1"\n')
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/TOKEN").write_text("s3cret-value\n")
    check = import_check.ImportCheck(
        user=getpass.getuser(),
        environment_file=str(tmp_path / "environment"),
        credentials_dir=str(tmp_path / "secrets"),
    )
    good = MAIN + "assert os.environ['GREETING'] == 'say \"hi\" $1'\nassert os.environ['TOKEN'] == 's3cret-value'\n"
    stage(release_store, build(good), check)
    with pytest.raises(BatonError) as caught:
        stage(release_store, build(MAIN + "raise ValueError(os.environ['TOKEN'])\n"), check)
    assert "s3cret" not in str(caught.value)
    assert "ValueError: ***" in str(caught.value)
    # the same with an encrypted secret
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "key"))
    (tmp_path / "secrets/TOKEN").unlink()
    encrypted = tmp_path / "secrets/TOKEN.host.cred"
    encrypted.write_bytes(credential.encrypted(encrypted, b"s3cret-value\n"))
    with pytest.raises(BatonError) as caught:
        stage(release_store, build(good + "raise ValueError(os.environ['TOKEN'])\n"), check)
    assert "ValueError: ***" in str(caught.value)
    # also parts of a secret, and secrets whose names can't be variables
    (tmp_path / "secrets/database.url").write_text("postgresql://links:another-s3cret@db/links\n")
    with pytest.raises(BatonError) as caught:
        stage(release_store, build(MAIN + "raise ValueError('another-s3cret', os.environ['TOKEN'][:10])\n"), check)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("application = 1\n", "has no 'app'; it has: application"),
        ("app = 3\n", "is a int, which can't be called"),
        ("import time\ntime.sleep(60)\n", "took longer than 1 s"),
        ("import sys\nsys.exit(0)\n", r"can't be imported as user \w+:\nit ended with exit status 0\. "),
        ("import os\nos.write(2, b'bye')\nos._exit(0)\n", r"can't be imported as user \w+:\nbye "),
        ("raise RuntimeError('\\x1b[2J\\u202e' + 'x' * 10**6 + 'end')\n", "^[^\x1b\u202e]{0,2000}x{900}end Correct"),
        ("import os\nos.close(1)\nos.close(2)\ndef app(): ...\n", ""),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef app(): ...\n", ""),
    ],
)
def test_results_of_the_import_check(
    text: str, message: str, release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    check = import_check.ImportCheck(user=getpass.getuser(), timeout=1 if "took" in message else 30)
    if not message:
        assert stage(release_store, build(text), check)["changed"]
        return
    with pytest.raises(BatonError, match=message):
        stage(release_store, build(text), check)
    assert staged(release_store) == []


def test_source_that_needs_too_much_memory_is_not_compiled(
    release_store: store.ReleaseStore, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(release_store, build())
    monkeypatch.setattr(staging, "COMPILE_BYTES", 2**27)
    for more, compiled in (("LARGE = [" + "None," * 1_000_000 + "]\n", False), ("SMALL = []\n", True)):
        cache = pathlib.Path(stage(release_store, build(MAIN + more))["release_path"], "src/__pycache__")
        assert bool(list(cache.glob("main.*"))) == compiled


def test_files_that_state_links_lead_to_are_not_compiled(
    release_store: store.ReleaseStore, build: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    state = tmp_path / "state-of-application"
    state.mkdir()
    (tmp_path / "private.py").write_text("PASSWORD = 'not for the application'\n")
    (state / "local.py").symlink_to(tmp_path / "private.py")
    links = [{"path": "local.py", "directory": False}]
    result = stage(release_store, build(state_links=links, state_dir=str(state)))
    compiled = {path.name.split(".")[0] for path in pathlib.Path(result["release_path"], "src").rglob("*.pyc")}
    assert compiled == {"main"}


def test_incomplete_release_is_removed(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    built = build()
    create_release(release_store, built["id"], "", complete=False)
    create_release(release_store, f".staging-{built['id']}", "")
    create_release(release_store, ".removing-old", "")
    assert store.complete(release_store) == {}
    assert not staging.query(release_store, staging.StageRequest.parse(built, HERE, release_store.upload))["staged"]
    assert stage(release_store, built)["changed"]
    assert staged(release_store) == [built["id"]]


def test_release_without_its_python_is_staged_again(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    built = build()
    stage(release_store, built)
    (release_store.releases / built["id"] / "venv/bin/python").unlink()
    assert not staging.query(release_store, staging.StageRequest.parse(built, HERE, release_store.upload))["staged"]
    assert stage(release_store, built)["changed"]


@pytest.mark.parametrize("target", ["", "py3.11-x86_64-glibc2.0", "py9"])
def test_release_for_another_target_is_neither_kept_nor_reused(
    release_store: store.ReleaseStore, build: Callable[..., Any], target: str
) -> None:
    built = build()
    file = pathlib.Path(stage(release_store, built)["release_path"]) / "release.json"
    request = staging.StageRequest.parse(built, HERE, release_store.upload)
    assert staging.query(release_store, request)["uploads"] == []
    assert staging.base_of(release_store, request) is not None
    file.write_text(json.dumps({**json.loads(file.read_text()), "target": target}))
    assert len(staging.query(release_store, request)["uploads"]) == 2
    assert staging.base_of(release_store, request) is None


@pytest.mark.parametrize("wheels", ["", "~"])
def test_venv_with_other_wheels_is_not_reused(
    release_store: store.ReleaseStore, build: Callable[..., Any], wheels: str
) -> None:
    built = build()
    stage(release_store, built)
    request = staging.StageRequest.parse(built, HERE, release_store.upload)
    assert staging.base_of(release_store, dataclasses.replace(request, wheels=wheels)) is None


@pytest.mark.parametrize("kind", [{"python": "3.99"}, {"python": "3.0"}, {"architecture": "a"}, {"architecture": "z"}])
def test_host_of_another_kind_is_refused(
    release_store: store.ReleaseStore, build: Callable[..., Any], kind: dict[str, str]
) -> None:
    built = build()
    host = {**HERE, **kind}
    key = f"py{host['python']}-{host['architecture']}-glibc{host['glibc']}"
    with pytest.raises(BatonError, match=rf"no wheels for {re.escape(key)}; it has py3\."):
        staging.StageRequest.parse(built, host, release_store.upload)
    built["wheels"][key] = next(iter(built["wheels"].values()))
    # only the first two parts of a version of Python matter
    request = staging.StageRequest.parse(built, {**host, "python": f"{host['python']}.7"}, release_store.upload)
    assert request.target == key
    with pytest.raises(BatonError, match=rf"the wheels are for {re.escape(key)}"):
        staging.check_python(release_store, request)


def test_python_that_does_not_run_is_refused(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    request = staging.StageRequest.parse(build(), HERE, release_store.upload)
    for python in ("/bin/false", "/nowhere/python"):
        with pytest.raises(BatonError, match=f"{python} doesn't run on this host"):
            staging.check_python(dataclasses.replace(release_store, python=pathlib.Path(python)), request)


@pytest.mark.parametrize(("glibc", "refused"), [("2.0", False), ("2.999", True), ("3.0", True)])
def test_wheels_for_a_newer_glibc_are_refused(
    release_store: store.ReleaseStore, build: Callable[..., Any], glibc: str, refused: bool
) -> None:
    built = build()
    host = {**HERE, "glibc": glibc}
    built["wheels"] = {f"py{HERE['python']}-{HERE['architecture']}-glibc{glibc}": next(iter(built["wheels"].values()))}
    request = staging.StageRequest.parse(built, host, release_store.upload)
    if not refused:
        assert staging.check_python(release_store, request).startswith(HERE["python"])
        return
    with pytest.raises(BatonError, match=rf"with glibc 2\.\d+, but the wheels are for .*-glibc{glibc}"):
        staging.check_python(release_store, request)


def test_missing_uv_is_reported_with_the_role(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    bare = dataclasses.replace(release_store, uv=pathlib.Path("/nowhere/uv"))
    with pytest.raises(BatonError, match=r"uv is missing at /nowhere/uv.*python_runtime"):
        stage(bare, build())
    assert staged(bare) == []


def test_too_little_disk_space_is_reported_before_the_upload(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    built = build()
    built["source"]["unpacked_bytes"] = 1 << 60
    with pytest.raises(BatonError, match=r"needs \d+ MiB on the disk of .* MiB free"):
        staging.query(release_store, staging.StageRequest.parse(built, HERE, release_store.upload))
    assert not release_store.upload.exists()


@pytest.mark.parametrize(("missing", "refused"), [(0, False), (1, True)])
def test_reserve_of_disk_space_stays_free(
    release_store: store.ReleaseStore,
    build: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    missing: int,
    refused: bool,
) -> None:
    built = build()
    (packed,) = built["wheels"].values()
    # on one disk: uploaded archives, their contents, and the wheels once more for the installation
    needed = sum(int(built["source"][key]) + int(packed[key]) for key in ("upload_bytes", "unpacked_bytes"))
    needed += int(packed["upload_bytes"]) + disk.RESERVE_BYTES
    real = os.statvfs(release_store.releases.parent)
    fields = [*real]
    fields[1], fields[4] = 1, needed - missing  # f_frsize, f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert disk.RESERVE_BYTES == 100 * 2**20
    request = staging.StageRequest.parse(built, HERE, release_store.upload)
    if not refused:
        assert not staging.query(release_store, request)["staged"]
        return
    free = (needed - missing) / 2**20
    with pytest.raises(BatonError, match=rf"needs {needed / 2**20:.0f} MiB on the disk of .* has {free:.0f} MiB free"):
        staging.query(release_store, request)


def test_truncated_upload_is_named(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    request = upload(release_store, build())
    request.source_archive.write_bytes(request.source_archive.read_bytes()[:100])
    with pytest.raises(BatonError, match=r"-src\.tar\.gz on this host differs from the controller's"):
        staging.stage(release_store, request, None, None, "")
    assert staged(release_store) == []


def test_archive_with_a_changed_byte_is_refused(release_store: store.ReleaseStore, build: Callable[..., Any]) -> None:
    request = upload(release_store, build())
    content = bytearray(request.wheels_archive.read_bytes())
    content[len(content) // 2] ^= 1
    request.wheels_archive.write_bytes(content)
    with pytest.raises(BatonError, match=r"wheels-.*\.tar on this host differs from the controller's: its hash is "):
        staging.stage(release_store, request, None, None, "")
    assert staged(release_store) == []


@pytest.mark.parametrize("part", ["wheels", "source"])
def test_wheel_with_a_changed_byte_is_refused_by_the_installer(
    release_store: store.ReleaseStore, project: Callable[[str], dict[str, Any]], tmp_path: pathlib.Path, part: str
) -> None:
    """Even if the archive around it matches its hash."""

    def change_time(folder: pathlib.Path) -> None:
        wheel = next((folder / "wheels").glob("idna-*.whl" if part == "wheels" else "*.whl"))
        content = bytearray(wheel.read_bytes())
        # the time of the first file in it, so that the zip stays valid
        content[10] ^= 1
        wheel.write_bytes(content)

    request = repacked(upload(release_store, project("pack")), part, tmp_path / "open", change_time)
    with pytest.raises(BatonError, match=r"(?s)can't be installed: .*Hash mismatch"):
        staging.stage(release_store, request, None, None, "")
    assert staged(release_store) == []


def test_wheel_larger_than_declared_fails_early_and_leaves_nothing(
    release_store: store.ReleaseStore, build: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    """A zip declares the size of a file twice; its deflated content may continue after that."""

    def larger(folder: pathlib.Path) -> None:
        wheel = next((folder / "wheels").glob("idna-*.whl"))
        known = hashlib.sha256(wheel.read_bytes()).hexdigest()
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        piece = deflate.compress(bytes(2**26)) + deflate.flush(zlib.Z_FULL_FLUSH)
        content = piece * 64 + deflate.flush()  # 4 GiB
        # zipfile would compress the content again: it is stored, and declared as deflated afterwards
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("idna/zeros", content)
        data = bytearray(wheel.read_bytes())
        for signature, name, method in ((b"PK\3\4", 30, 8), (b"PK\1\2", 46, 10)):
            found = next(one.start() for one in re.finditer(re.escape(signature), data)
                         if data[one.start() + name:].startswith(b"idna/zeros"))  # fmt: skip
            data[found + method : found + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        wheel.write_bytes(data)
        listed = folder / "venv.txt"
        listed.write_text(listed.read_text().replace(known, hashlib.sha256(data).hexdigest()))

    request = repacked(upload(release_store, build()), "wheels", tmp_path / "open", larger)
    with pytest.raises(BatonError, match=r"(?s)can't be installed: .*File too large"):
        staging.stage(release_store, request, None, None, "")
    assert staged(release_store) == []


def repacked(
    request: staging.StageRequest, part: str, folder: pathlib.Path, change: Callable[[pathlib.Path], None]
) -> staging.StageRequest:
    """The request with changed content of an uploaded archive, and the hash of that content."""
    archive = request.wheels_archive if part == "wheels" else request.source_archive
    with tarfile.open(archive) as packed:
        packed.extractall(folder)
    change(folder)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name)
    changed = {"sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    if part == "wheels":
        return dataclasses.replace(request, packed={**request.packed, **changed})
    return dataclasses.replace(request, source={**request.source, **changed})


def test_bill_of_materials_lists_what_is_installed(
    release_store: store.ReleaseStore, project: Callable[[str], dict[str, Any]]
) -> None:
    built = project("first")
    result = stage(release_store, built)
    text = (pathlib.Path(result["release_path"]) / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == pathlib.Path(built["boms"][result["release"]["target"]]).read_text(), "as beside the artifact"
    found = {part["name"]: part for part in json.loads(text)["components"]}
    code = "import importlib.metadata as m; print(*(f'{d.name.lower()}={d.version}' for d in m.distributions()))"
    shown = subprocess.run(
        ["venv/bin/python", "-I", "-c", f"import sys; sys.path.append('server'); {code}"],
        cwd=release_store.releases / built["id"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {f"{name.replace('_', '-')}={one['version']}" for name, one in found.items()} == set(shown)
    assert {"idna", "project", "gunicorn", "gunicorn-handover", "uvloop", "h11"} <= set(found)
    assert found["idna"]["purl"] == "pkg:pypi/idna@3.10"
    # the hash of the published wheel
    published = "946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
    assert found["idna"]["hashes"] == [{"alg": "SHA-256", "content": published}]
    assert all(len(one["hashes"]) == 1 for one in found.values())

    # a reused venv keeps what is known about its wheels
    other = project("other")
    again = stage(release_store, other)
    assert "venv reused" in again["seconds"]
    second = (pathlib.Path(again["release_path"]) / "bom.cdx.json").read_text()
    assert second == pathlib.Path(other["boms"][again["release"]["target"]]).read_text()
    assert second != text


def test_package_without_a_wheel_is_listed_without_a_hash(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    built = build()
    stage(release_store, built)
    (site,) = (release_store.releases / built["id"] / "venv/lib").glob("*/site-packages")
    for name in ("Smuggled_One-1.0", "no version", "\udcff-1"):
        (site / f"{name}.dist-info").mkdir()
        (site / f"{name}.dist-info/METADATA").write_text("Name: idna\n")
    (site / "idna-3.10.dist-info").rename(site / "idna-3.9.dist-info")
    result = stage(release_store, build(MAIN + "#"))
    text = (pathlib.Path(result["release_path"]) / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = {one["name"]: one for one in json.loads(text)["components"]}
    assert {"no version", "smuggled-one"} < set(found)
    assert len(found) == len({path.name for path in site.glob("*.dist-info")}) + len(result["release"]["server"])
    assert found["smuggled-one"]["version"] == "1.0"
    assert found["idna"]["version"] == "3.9"
    assert "hashes" not in found["smuggled-one"]
    assert "hashes" not in found["idna"]


def test_installed_packages_are_checked_against_the_minimum_versions(
    release_store: store.ReleaseStore, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build()
    request = upload(release_store, built)
    oldest = floors.Floor("3.11", "3.10 can't spell")
    monkeypatch.setitem(floors.FLOORS, "idna", oldest)
    with pytest.raises(BatonError) as failure:
        staging.stage(release_store, request, None, None, "")
    assert str(failure.value) == (
        f"The release {built['id']}, as it was installed on this host, has idna 3.10, older than 3.11: "
        "3.10 can't spell. Lock idna>=3.11, or deploy it anyway with app_release_allow_old_packages: [idna]."
    )
    assert staged(release_store) == []
    request = dataclasses.replace(upload(release_store, built), allow_old_packages=["idna"])
    result = staging.stage(release_store, request, None, None, "")
    assert "idna 3.10, older than 3.11" in result["warnings"][0]


def test_packages_that_the_server_replaces_are_not_checked(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    result = stage(release_store, build(requirements="idna==3.10\nh11==0.14.0\n"))
    assert (result["release"]["venv"]["h11"], result["warnings"]) == ("0.14.0", [])
    text = (pathlib.Path(result["release_path"]) / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {
        one["version"]: [entry["value"] for entry in one["properties"]]
        for one in json.loads(text)["components"]
        if one["name"] == "h11"
    }
    assert parts.pop("0.14.0") == ["venv"]
    assert list(parts.values()) == [["server"]]


def test_archive_cannot_write_outside_its_folder(tmp_path: pathlib.Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(BatonError, match="evil"):
        staging.unpack(tmp_path / "bad.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "linked"),
    [
        (tarfile.LNKTYPE, "src/main.py"),
        (tarfile.LNKTYPE, "/etc/shadow"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_archive_has_no_devices_or_hard_links(tmp_path: pathlib.Path, kind: bytes, linked: str) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("src/main.py"))
        entry = tarfile.TarInfo("src/odd")
        entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, linked, 1, 3
        packed.addfile(entry)
    with pytest.raises(BatonError, match=r"bad\.tar has the unexpected entry src/odd"):
        staging.unpack(tmp_path / "bad.tar", tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out/src/odd")


def test_concurrent_runs_wait_for_each_other(release_store: store.ReleaseStore) -> None:
    order = []

    def second() -> None:
        with store.locked(release_store):
            order.append("second")

    with store.locked(release_store):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_prune_keeps_the_newest_and_the_current(five_releases: store.ReleaseStore) -> None:
    result = store.prune(five_releases, 2, dry=True)
    assert (result["changed"], result["removed"]) == (True, ["r3", "r1"])
    assert staged(five_releases) == ["r1", "r2", "r3", "r4", "r5"]
    assert store.prune(five_releases, 2, dry=False)["removed"] == ["r3", "r1"]
    assert staged(five_releases) == ["r2", "r4", "r5"]
    assert not store.prune(five_releases, 2, dry=False)["changed"]


def test_prune_removes_releases_that_never_served_first(five_releases: store.ReleaseStore) -> None:
    five_releases.state.mkdir(parents=True, exist_ok=True)
    (five_releases.state / "active.json").write_text(json.dumps({"served": ["r2", "r3", "r1"]}))
    assert store.prune(five_releases, 2, dry=False)["removed"] == ["r5", "r4"]
    assert staged(five_releases) == ["r1", "r2", "r3"]


@pytest.fixture
def in_use_release(five_releases: store.ReleaseStore) -> Iterator[store.ReleaseStore]:
    process = subprocess.Popen(["sleep", "60"], cwd=five_releases.releases / "r1/src")
    yield five_releases
    process.kill()
    process.wait()


def test_sweep_keeps_a_release_that_a_process_uses(in_use_release: store.ReleaseStore) -> None:
    for name in ("r1", "r5"):
        (in_use_release.releases / name / "release.json").unlink()
    assert store.sweep(in_use_release) == ["r5"]
    assert (in_use_release.releases / "r1/src").is_dir()


def test_release_that_a_process_uses_is_not_replaced(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    built = build()
    stage(release_store, built)
    folder = release_store.releases / built["id"]
    (folder / "venv/bin/python").unlink()  # as an upgrade of the distribution's Python does
    with subprocess.Popen(["sleep", "60"], cwd=folder / "src") as process:
        try:
            with pytest.raises(BatonError, match="a process runs from it"):
                stage(release_store, built)
            assert (folder / "release.json").exists()
        finally:
            process.kill()
    assert stage(release_store, built)["changed"]


def test_prune_keeps_a_release_that_a_process_uses(in_use_release: store.ReleaseStore) -> None:
    store.prune(in_use_release, 0, dry=False)
    assert staged(in_use_release) == ["r1", "r2"]


def test_mapped_library_and_open_file_count_as_in_use(five_releases: store.ReleaseStore) -> None:
    (five_releases.releases / "r3/lib.so").write_bytes(b"x" * 4096)
    code = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=1); f.close()"
    with (
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{code}; print(flush=True); sys.stdin.read()",
                five_releases.releases / "r3/lib.so",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
        (five_releases.releases / "r4/release.json").open(),
    ):
        assert process.stdout is not None
        process.stdout.readline()
        assert store.in_use(five_releases) == {"r3", "r4"}
        process.communicate(b"\n")


def test_state_folders_are_created(tmp_path: pathlib.Path) -> None:
    links = [{"target": "uploads/a", "directory": True}, {"target": "db/app.sqlite", "directory": False}]
    staging.make_state(links, tmp_path / "state", "")
    assert (tmp_path / "state/uploads/a").is_dir()
    assert (tmp_path / "state/db").is_dir()
    assert not (tmp_path / "state/db/app.sqlite").exists()


def test_failed_staging_restores_the_umask_and_releases_the_lock(
    release_store: store.ReleaseStore, build: Callable[..., Any]
) -> None:
    request = upload(release_store, build())
    request.source_archive.write_bytes(b"")
    before = os.umask(0o077)
    try:
        with pytest.raises(BatonError, match="on this host differs from the controller's"):
            staging.stage(release_store, request, None, None, "")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    with store.locked(release_store):
        assert staged(release_store) == []


def test_state_folders_are_private_to_owner_and_group(tmp_path: pathlib.Path) -> None:
    staging.make_state([{"target": "a/b"}], tmp_path / "state", getpass.getuser())
    folders = [tmp_path / "state", tmp_path / "state/a", tmp_path / "state/a/b"]
    assert [path.stat().st_mode & 0o777 for path in folders] == [0o750] * 3
    (tmp_path / "file").touch()
    with pytest.raises(BatonError, match=r"file/x can't be created as"):
        staging.make_state([{"target": "x"}], tmp_path / "file", "")


def test_owner_who_stops_the_process_blocks_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "mkdir", "kill -STOP $$")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(staging, "STATE_LIMIT", 0.1)
    with pytest.raises(BatonError, match=r"can't be created as this user \(it took longer"):
        staging.make_state([{"target": "a"}], tmp_path / "state", "")


def test_state_folders_belong_to_their_owner() -> None:
    # not below pytest's folder, which only its own user may enter
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        owner = "nobody" if os.geteuid() == 0 else getpass.getuser()
        account = pwd.getpwnam(owner)
        staging.make_state([{"target": "a/b"}], folder / "state", owner)
        for path in (folder / "state", folder / "state/a", folder / "state/a/b"):
            assert (path.stat().st_uid, path.stat().st_gid) == (account.pw_uid, account.pw_gid)
        # without privileges, for itself
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(account.pw_gid)
                    os.setuid(account.pw_uid)
                staging.make_state([{"target": "c"}], folder / "state", owner)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (folder / "state/c").is_dir()


def test_state_folder_is_not_created_without_links(tmp_path: pathlib.Path) -> None:
    staging.make_state([], tmp_path / "state", getpass.getuser())
    assert not (tmp_path / "state").exists()


def test_linked_tree_keeps_links_and_replaces_files(tmp_path: pathlib.Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    (source / "lib").mkdir(parents=True)
    (source / "lib/module.py").write_text("new")
    (source / "lib64").symlink_to("lib")
    (source / "lib/left.py").touch()
    (destination / "lib").mkdir(parents=True)
    (destination / "lib/module.py").write_text("old")
    staging.link_tree(source, destination, {pathlib.Path("lib/left.py")})
    assert (destination / "lib64").readlink() == pathlib.Path("lib")
    assert (destination / "lib/module.py").samefile(source / "lib/module.py")
    assert sorted(path.name for path in (destination / "lib").iterdir()) == ["module.py"]
