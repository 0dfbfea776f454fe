from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import floors
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, old_packages
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

Write = Callable[..., pathlib.Path]
OLD = ["starlette==0.47.3"]
REASON = "(read on the controller) has starlette 0.47.3, older than 1.3.1: "


def problems(source: pathlib.Path, **values: Any) -> list[str]:
    return old_packages.problems({"app_source": str(source), **values}, ["/"])


@pytest.fixture(params=["uv.lock", "requirements.txt"])
def locked(
    request: pytest.FixtureRequest, write: Write, run: Callable[..., str], pyproject: Callable[..., str]
) -> Callable[[list[str], list[str]], pathlib.Path]:
    """A project with a real lock: locked(dependencies, development_dependencies)."""

    def make(dependencies: list[str], development: list[str]) -> pathlib.Path:
        groups = f"[dependency-groups]\ndev = {development}\n"
        groups += f"[project.optional-dependencies]\nall = {development}\n"
        files = {"pyproject.toml": pyproject("app", dependencies, python=">=3.11,<4", build=False, rest="")}
        files["pyproject.toml"] += groups
        files["main.py"] = "async def app(scope, receive, send): ...\n"
        source = write("app", files)
        if request.param == "uv.lock":
            run("uv", "lock", "--quiet", cwd=source)
        else:
            run("uv", "pip", "compile", "--universal", "pyproject.toml", "-o", "requirements.txt", cwd=source)
        assert (source / request.param).is_file()
        return source

    return make


def test_lock_is_checked_before_anything_else(
    locked: Callable[[list[str], list[str]], pathlib.Path],
    make_request: Callable[..., artifact.Request],
    tools: Tools,
    request: pytest.FixtureRequest,
) -> None:
    source = locked(OLD, [])
    name = request.node.callspec.params["locked"]
    (message,) = problems(source)
    assert message.startswith(f"{name} {REASON}")
    assert problems(source, app_release_allow_old_packages=["starlette"]) == []
    assert problems(source, app_release_allow_old_packages="h11,starlette") == []
    # before a build command, the result isn't certain; the build then reports the same
    assert problems(source, app_release_build_command="make") == []
    with pytest.raises(BatonError) as failure:
        artifact.build(make_request(source), tools)
    assert str(failure.value) == message
    built = artifact.build(dataclasses.replace(make_request(source), allow_old_packages=["starlette"]), tools)
    assert sum("starlette 0.47.3, older than 1.3.1" in warning for warning in built["warnings"]) == 1


def test_development_dependencies_are_not_checked(
    locked: Callable[[list[str], list[str]], pathlib.Path], make_request: Callable[..., artifact.Request], tools: Tools
) -> None:
    source = locked(["idna==3.10"], OLD)
    assert problems(source) == []
    assert artifact.build(make_request(source), tools)["complete"]
    assert problems(locked([f"{OLD[0]} ; sys_platform == 'win32'"], [])) == [], "nor packages for other platforms"


def test_transitive_dependencies_are_checked(locked: Callable[[list[str], list[str]], pathlib.Path]) -> None:
    (message,) = problems(locked(["fastapi==0.115.12"], []))
    assert f"{REASON}".replace("0.47.3", "0.46.2") in message


def test_extras_of_dependencies_are_checked(
    write: Write, run: Callable[..., str], pyproject: Callable[..., str]
) -> None:
    bound = '[tool.uv]\nconstraint-dependencies = ["python-multipart==0.0.20"]\n'
    for asked, old in (("fastapi[standard]==0.165.0", True), ("fastapi==0.165.0", False)):
        source = write(asked, {"pyproject.toml": pyproject("app", [asked], build=False, rest=bound)})
        run("uv", "lock", "--quiet", cwd=source)
        assert ("python-multipart 0.0.20" in " ".join(problems(source))) == old


POETRY_LOCK = pathlib.Path(__file__).parents[5] / "molecule/applications/tests/files/factory.poetry.lock"


def test_poetry_lock_is_checked_too(write: Write) -> None:
    text = POETRY_LOCK.read_text()
    (message,) = problems(write("app", {"poetry.lock": text}))
    assert message.startswith(f"poetry.lock {REASON}")
    before, package, after = text.partition('name = "starlette"')
    for other in ('groups = ["dev"]', 'groups = ["main"]\nmarkers = "sys_platform == \'win32\'"'):
        changed = before + package + after.replace('groups = ["main"]', other, 1)
        assert problems(write("app", {"poetry.lock": changed})) == []


@pytest.mark.parametrize(
    ("lines", "old"),
    [
        ("starlette==0.47.3 ; sys_platform == 'win32'\nstarlette==1.10.0 ; sys_platform != 'win32'\n", False),
        ("starlette==0.47.3 ; python_version < '3.13'\nstarlette==1.10.0 ; python_version >= '3.13'\n", False),
        ("starlette==0.47.2 ; python_version < '3.13'\nstarlette==0.47.3 ; python_version >= '3.13'\n", True),
        ("starlette>=0.40\n", False),
        ("h11==0.14.0\ngunicorn==20.1.0\nuvicorn==0.23.2\n", False),  # replaced for the web processes
        ("this is [no requirement\n", False),  # reported when the lock is read completely
    ],
)
def test_only_certain_findings_are_refused_immediately(write: Write, lines: str, old: bool) -> None:
    assert bool(problems(write("app", {"requirements.txt": lines}))) == old


def test_hosts_python_decides_between_two_versions(
    write: Write, make_request: Callable[..., artifact.Request], tools: Tools
) -> None:
    """Only the build knows that Debian 12's Python needs the old version."""
    lines = "starlette==0.47.3 ; python_version < '3.13'\nstarlette==1.10.0 ; python_version >= '3.13'\n"
    source = write("app", {"main.py": "async def app(scope, receive, send): ...\n", "requirements.txt": lines})
    with pytest.raises(BatonError, match=r"starlette 0\.47\.3, older than"):
        artifact.build(make_request(source), tools)


def test_lock_is_not_read_through_a_link_out_of_the_source(write: Write, tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere.txt").write_text("starlette==0.47.3\n")
    source = write("app", {"main.py": ""})
    (source / "requirements.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert problems(source) == []


def test_package_with_a_url_is_checked_by_its_wheel(
    write: Write,
    make_request: Callable[..., artifact.Request],
    tools: Tools,
    run: Callable[..., str],
    rotated: Callable[[str, str], str],
) -> None:
    package = write("starlette", {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "starlette"\nversion = "0.1"\n',
        "starlette/__init__.py": "",
    })  # fmt: skip
    run("git", "init", "--quiet", cwd=package)
    run("git", "add", ".", cwd=package)
    run("git", "commit", "--quiet", "-m", "x", cwd=package)
    commit = run("git", "rev-parse", "HEAD", cwd=package).strip()
    lines = f"starlette @ git+{rotated('starlette', 'TOKEN')}@{commit}\n"
    source = write("app", {"main.py": "async def app(scope, receive, send): ...\n", "requirements.txt": lines})
    assert problems(source) == []
    with pytest.raises(BatonError, match=r"^The wheels for py3\.11-.* has starlette 0\.1, older than 1\.3\.1"):
        artifact.build(make_request(source), tools)


def test_allowed_name_without_a_minimum_is_refused_immediately(write: Write) -> None:
    (message,) = problems(
        write("app", {"requirements.txt": "idna==3.10\n"}), app_release_allow_old_packages=["starlet"]
    )
    assert message.startswith(f"{floors.SETTING} names starlet")
