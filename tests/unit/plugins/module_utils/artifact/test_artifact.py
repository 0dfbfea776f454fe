from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import pathlib
import shutil
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, lockfile, wheels
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

Write = Callable[..., pathlib.Path]
Text = Callable[..., str]
MakeRequest = Callable[..., artifact.Request]
TRIXIE = Target(minor=13, architecture="x86_64", glibc=(2, 41), patch=5)
MAIN = "async def app(scope, receive, send): ...\ndef create_app(): return app\n"


def contents(path: str) -> dict[str, bytes | str]:
    """The files and the targets of the links in an archive."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(path) as packed:
        for entry in packed:
            if entry.issym():
                found[entry.name] = entry.linkname
            elif entry.isfile():
                file = packed.extractfile(entry)
                assert file is not None
                found[entry.name] = file.read()
    return found


def test_same_input_has_the_same_id_for_any_fleet(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": "idna==3.10\n"})
    first = artifact.build(make_request(app), tools)
    again = artifact.build(make_request(app, targets=[TRIXIE, *make_request(app).targets]), tools)
    assert first["id"] == again["id"]
    assert len(first["id"]) == 16
    assert first["source"] == again["source"]
    assert set(again["wheels"]) == {"py3.11-x86_64-glibc2.36", "py3.13-x86_64-glibc2.41"}
    write("app", {"main.py": MAIN + "#"})
    changed = artifact.build(make_request(app), tools)
    assert changed["id"] != first["id"]
    assert changed["wheels"] == first["wheels"], "a change of code leaves the wheels as they are"


def test_other_files_of_the_server_package_do_not_change_the_id(
    write: Write, make_request: MakeRequest, tools: Tools, tmp_path: pathlib.Path
) -> None:
    request = make_request(write("app", {"main.py": MAIN, "requirements.txt": ""}))
    # an installed collection has none of these files
    checkout = tmp_path / "checkout"
    shutil.copytree(request.handover_source, checkout)
    for name in ("CHANGELOG.md", "requirements-test.txt", "tests/test_reload.py"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("")
    assert (
        artifact.build(dataclasses.replace(request, handover_source=checkout), tools)["id"]
        == (artifact.build(request, tools)["id"])
    )


def test_other_git_token_does_not_change_the_id_and_hosts_get_none(
    write: Write, run: Text, make_request: MakeRequest, tools: Tools, rotated: Callable[[str, str], str]
) -> None:
    app = write("repo", {"main.py": MAIN, "requirements.txt": ""})
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        run("git", *words, cwd=app)
    one, two = (artifact.build(make_request("git+" + rotated("repo", token)), tools) for token in ("TOKEN1", "TOKEN2"))
    assert one["release"]["source"].endswith("/repo")
    assert (one["id"], one["source"]) == (two["id"], two["source"])
    assert "TOKEN" not in str(contents(one["source"]["path"]))


@pytest.mark.parametrize(
    "change",
    [
        {"app_module": "main:create_app()"},
        {"import_paths": ["lib"]},
        {"working_directory": "lib"},
        {"excluded": ["notes.txt"]},
        {"files": [{"path": "a.ini", "content": "x"}]},
        {"state_links": [{"path": "data"}]},
        {"salt": "3.13"},
        {"options": lockfile.ResolveOptions(extra_requirements=("six",))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_setting_that_changes_the_release_changes_the_id(
    change: dict[str, object], write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    app = write("app", {"main.py": MAIN, "lib/x.py": "", "notes.txt": "", "requirements.txt": "idna==3.10\n"})
    assert artifact.build(make_request(app), tools)["id"] != artifact.build(make_request(app, **change), tools)["id"]


def test_contents_of_the_archives(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    app = write(
        "app", {"main.py": MAIN, "data/keep": "", "dev.env": "", "requirements.txt": "uvicorn==0.20.0\nclick==8.1.7\n"}
    )
    request = make_request(
        app,
        excluded=["*.env"],
        files=[{"path": "conf/app.ini", "content": "[x]", "mode": "0644"}],
        state_links=[{"path": "data", "target": "uploads"}],
    )
    built = artifact.build(request, tools)
    source = contents(built["source"]["path"])
    assert {name for name in source if name.startswith("src/")} == {
        "src/main.py", "src/data", "src/conf/app.ini", "src/requirements.txt"
    }  # fmt: skip
    assert source["src/data"] == "/var/lib/demo/uploads"
    release = json.loads(source["artifact.json"])
    assert release == built["release"]
    assert (release["import_paths"], release["working_directory"]) == (["src"], "src")
    wheels = contents(built["wheels"]["py3.11-x86_64-glibc2.36"]["path"])
    venv, server = str(wheels["venv.txt"]), str(wheels["server.txt"])
    assert "uvicorn==0.20.0 --hash=sha256:" in venv, "the application's venv is exactly as locked"
    assert "uvicorn==0.5" in server
    assert "gunicorn-handover==" in server
    assert "click" not in server, "the application's own click is in the supported range"
    assert built["source"]["unpacked_bytes"] > 0 < built["wheels"]["py3.11-x86_64-glibc2.36"]["unpacked_bytes"]


def test_src_layout_with_a_build_system_is_imported_from_its_source(
    write: Write, run: Text, pyproject: Text, make_request: MakeRequest, tools: Tools
) -> None:
    generated = (
        '[tool.hatch.build.hooks.vcs]\nversion-file = "src/demo/_version.py"\n[tool.hatch.version]\nsource = "vcs"\n'
    )
    text = (
        pyproject("demo", ["idna"])
        .replace('version = "1.0"', 'dynamic = ["version"]')
        .replace('"hatchling"]', '"hatchling", "hatch-vcs"]')
    )
    app = write(
        "repo", {"svc/pyproject.toml": text + generated, "svc/src/demo/main.py": MAIN, "svc/src/demo/__init__.py": ""}
    )
    run("uv", "lock", "-q", cwd=app / "svc")
    built = artifact.build(
        make_request(app, app_source_subdir="svc", app_module="demo.main:app", app_version="2.1"), tools
    )
    assert built["release"]["import_paths"] == ["src/svc/src", "src/svc"]
    source = contents(built["source"]["path"])
    assert b"2.1" in bytes(source["src/svc/src/demo/_version.py"]), "a file that the build makes is beside the source"  # type: ignore[arg-type]
    assert [name for name in source if name.startswith("wheels/")] == ["wheels/demo-2.1-py3-none-any.whl"]
    assert str(source["project.txt"]).startswith("b'demo==2.1 ")


def test_workspace_member_includes_the_members_it_needs(
    write: Write, run: Text, pyproject: Text, make_request: MakeRequest, tools: Tools
) -> None:
    root = write(
        "ws",
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
            "apps/api/pyproject.toml": pyproject(
                "api", ["core"], build=False, rest="[tool.uv.sources]\ncore = {workspace = true}\n"
            ),
            "apps/api/main.py": MAIN,
            "libs/core/pyproject.toml": pyproject("core"),
            "libs/core/core/__init__.py": "",
        },
    )
    run("uv", "lock", "-q", cwd=root)
    built = artifact.build(make_request(root, app_source_subdir="apps/api"), tools)
    assert built["release"]["import_paths"] == ["src/apps/api"]
    source = contents(built["source"]["path"])
    assert [name for name in source if name.startswith("wheels/")] == ["wheels/core-1.0-py3-none-any.whl"]


def test_package_called_src(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    app = write("app", {"src/main.py": MAIN, "src/logging.py": "", "requirements.txt": ""})
    assert artifact.build(make_request(app, app_module="src.main:app"), tools)["release"]["import_paths"] == ["src"]


def test_pure_package_without_a_wheel_is_built_on_the_controller(
    write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": "docopt==0.6.2\n"})
    built = artifact.build(make_request(app, targets=[TRIXIE, *make_request(app).targets]), tools)
    for found in built["wheels"].values():
        assert "wheels/docopt-0.6.2-py2.py3-none-any.whl" in contents(found["path"])


def test_package_that_needs_a_compiler_is_refused_or_left_to_a_builder(
    write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": "ciso8601==2.2.0\n"})
    with pytest.raises(BatonError, match=r"ciso8601 2\.2\.0") as caught:
        artifact.build(make_request(app), tools)
    for name in ("app_release_builder", "app_release_build", "app_release_build_packages", "/bin/false"):
        assert name in str(caught.value)
    incomplete = artifact.build(make_request(app, build="host"), tools)
    assert not incomplete["complete"]
    (job,) = incomplete["builds"]
    assert (job["target"], job["packages"]) == ("py3.11-x86_64-glibc2.36", ["ciso8601 2.2.0"])
    packed = contents(job["archive"])
    assert any(name.startswith("wheels/setuptools-") for name in packed), "the builder uses no index"
    (folder,) = job["results"].values()
    wheel = pathlib.Path(folder) / "ciso8601-2.2.0-cp311-cp311-linux_x86_64.whl"
    # the wheel that a builder would return
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("ciso8601-2.2.0.dist-info/METADATA", "Name: ciso8601\nVersion: 2.2.0\n")
    try:
        assert artifact.build(make_request(app, build="host"), tools)["complete"]
    finally:
        wheel.unlink()


def test_only_the_start_of_large_wheel_metadata_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "large-1.0-py3-none-any.whl"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made,
        made.open("large-1.0.dist-info/METADATA", "w") as file,
    ):
        file.write(b"Requires-Python: >=3.11\n\n")
        for _ in range(100):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    try:
        assert wheels.metadata(path)[0] == ">=3.11"
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_missing_module_is_reported_with_suggestions(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    app = write("app", {"service/main.py": MAIN, "requirements.txt": ""})
    with pytest.raises(BatonError, match=r"servce\.main.*Similar modules: service\.main"):
        artifact.build(make_request(app, app_module="servce.main:app"), tools)


def test_published_package_has_its_module_in_a_wheel(make_request: MakeRequest, tools: Tools) -> None:
    request = make_request("idna", app_version="3.10", app_module="idna.core:encode")
    built = artifact.build(request, tools)
    assert built["release"]["version"] == "3.10"
    assert built["warnings"]
    with pytest.raises(BatonError, match=r"idna\.coer.*Similar modules: idna\.core"):
        artifact.build(dataclasses.replace(request, app_module="idna.coer:encode"), tools)


@pytest.fixture
def published(tmp_path: pathlib.Path) -> Iterator[str]:
    """The address of a wheel of `demo` on a local server without access control: 127.0.0.1:1234/demo…whl."""
    wheel = tmp_path / "published/demo-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("demo/main.py", MAIN)
        made.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        made.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("demo-1.0.dist-info/RECORD", "")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(wheel.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}/{wheel.name}"
    server.shutdown()
    server.server_close()


def test_other_package_token_does_not_change_the_id_and_hosts_get_none(
    published: str, make_request: MakeRequest, tools: Tools
) -> None:
    one, two = (
        artifact.build(make_request(f"demo @ http://me:{token}@{published}", app_module="demo.main:app"), tools)
        for token in ("TOKEN1", "TOKEN2")
    )
    assert one["release"]["version"] == f"http://{published}"
    assert one["id"] == two["id"]
    assert "TOKEN" not in f"{one} {two} {contents(one['source']['path'])}"


def test_build_command_runs_once_for_the_same_source(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": "", "web/a.js": ""})
    # its output differs in each run
    command = [
        "/bin/sh",
        "-c",
        "mkdir web/dist node_modules; cp web/a.js web/dist/; touch node_modules/y; "
        "cat /proc/sys/kernel/random/uuid > web/dist/made",
    ]
    first = artifact.build(make_request(app, build_command=command, excluded=["/web/a.js", "web/a.js"]), tools)
    again = artifact.build(make_request(app, build_command=command, excluded=["/web/a.js", "web/a.js"]), tools)
    assert first["id"] == again["id"]
    assert {name for name in contents(first["source"]["path"]) if "web" in name or "node" in name} == {
        "src/web/dist/a.js",
        "src/web/dist/made",
    }
    with pytest.raises(BatonError, match="app_release_build_command failed: no such luck"):
        artifact.build(make_request(app, build_command=["/bin/sh", "-c", "echo no such luck; exit 3"]), tools)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app_source_subdir": "nowhere"}, "no folder 'nowhere'"),
        ({"app_source_subdir": "../x"}, "leads out"),
        ({"targets": []}, "no app server"),
        ({"import_paths": ["nope"]}, "app_release_import_paths"),
        ({"working_directory": "nope"}, "app_release_working_directory"),
        ({"files": [{"path": "x"}]}, "app_release_files|not complete"),
        ({"app_module": "main;app"}, "app_module"),
    ],
)
def test_invalid_setting_is_named(
    change: dict[str, object], message: str, write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": ""})
    with pytest.raises(BatonError, match=message):
        artifact.build(make_request(app, **change), tools)


def test_package_that_the_server_replaces_needs_no_build(write: Write, make_request: MakeRequest, tools: Tools) -> None:
    # older locks: httptools 0.6.0 and uvloop 0.19.0 have no wheel for Python 3.13
    app = write("app", {"main.py": MAIN, "requirements.txt": "httptools==0.6.0\nuvloop==0.19.0\nidna==3.10\n"})
    built = artifact.build(make_request(app, targets=[TRIXIE]), tools)
    assert built["complete"]
    (found,) = built["wheels"].values()
    for name in ("httptools", "uvloop"):
        assert found["venv"][name] == found["server"][name], "the application's other processes use it, too"
        assert any(f"{name} 0." in warning and "has no wheel" in warning for warning in built["warnings"])
    assert found["venv"]["idna"] == "3.10"
    # if there is a wheel of the application's own version, its other processes use that
    (found,) = artifact.build(make_request(app), tools)["wheels"].values()
    assert found["venv"]["httptools"] == "0.6.0"
