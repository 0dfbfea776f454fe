from __future__ import annotations

import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import lockfile
from ansible_collections.baton.web.plugins.module_utils.artifact.requirements import Pin
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

Write = Callable[..., pathlib.Path]
Text = Callable[..., str]
BOOKWORM = Target(minor=11, architecture="x86_64", glibc=(2, 36), patch=2)
HASH = "sha256:" + "0" * 64


def resolve(
    root: pathlib.Path,
    tools: Tools,
    subdir: str = "",
    requirement: str = "",
    targets: Sequence[Target] = (BOOKWORM,),
    **wishes: Any,
) -> lockfile.Locked:
    return lockfile.resolve(root, subdir, requirement, lockfile.ResolveOptions(**wishes), tools, targets)


def names(locked: lockfile.Locked, target: Target = BOOKWORM) -> dict[str, str]:
    return {pin.name: pin.version for pin in lockfile.for_target(locked.pins, target)}


def test_uv_lock_without_development_groups(write: Write, run: Text, pyproject: Text, tools: Tools) -> None:
    extra = (
        '[project.optional-dependencies]\npg = ["six"]\n[dependency-groups]\ndev = ["iniconfig"]\njobs = ["docopt"]\n'
    )
    root = write("app", {"pyproject.toml": pyproject("demo", ["idna"], build=False, rest=extra)})
    run("uv", "lock", "-q", cwd=root)
    locked = resolve(root, tools)
    assert (locked.kind, locked.path, locked.locked, locked.locals) == ("uv.lock", "uv.lock", True, [])
    assert set(names(locked)) == {"idna"}
    assert all(pin.hashes for pin in locked.pins)
    assert set(names(resolve(root, tools, extras=("pg",), groups=("jobs",)))) == {"idna", "six", "docopt"}


def test_documented_export_for_an_image_has_the_packages_of_a_release(
    write: Write, run: Text, pyproject: Text, tools: Tools
) -> None:
    rest = '[dependency-groups]\ndev = ["iniconfig"]\n'
    root = write("app", {"pyproject.toml": pyproject("demo", ["idna", "six"], rest=rest), "demo/__init__.py": ""})
    run("uv", "lock", "-q", cwd=root)
    of_release = resolve(root, tools)
    readme = pathlib.Path(__file__).parents[5] / "README.md"
    (command,) = [line for line in readme.read_text().splitlines() if line.startswith("uv export ")]
    run(*shlex.split(command, comments=True), cwd=root)
    of_image = resolve(root, tools, lock="requirements.txt")
    assert (names(of_image), of_image.locals) == (names(of_release), [])
    assert of_release.locals == [""]
    assert all(pin.hashes for pin in of_image.pins)


def test_workspace_member_uses_the_lock_above_and_the_members_it_needs(
    write: Write, run: Text, pyproject: Text, tools: Tools
) -> None:
    sources = "[tool.uv.sources]\ncore = {workspace = true}\n"
    root = write(
        "ws",
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
            "apps/api/pyproject.toml": pyproject("api", ["core", "idna"], rest=sources),
            "apps/api/api/__init__.py": "",
            "apps/other/pyproject.toml": pyproject("other", ["six"]),
            "libs/core/pyproject.toml": pyproject("core"),
            "libs/core/core/__init__.py": "",
        },
    )
    run("uv", "lock", "-q", cwd=root)
    locked = resolve(root, tools, "apps/api")
    assert locked.locals == ["apps/api", "libs/core"]
    assert set(names(locked)) == {"idna"}


def _poetry_lock(root: pathlib.Path, python: str) -> None:
    """Write the lock that `poetry lock` would, without asking an index."""
    from poetry.factory import Factory

    packages = ""
    for name, group, optional in (("idna", "main", False), ("six", "main", True), ("iniconfig", "dev", False)):
        marker = 'markers = "extra == \\"pg\\""\n' if optional else ""
        packages += (
            f'[[package]]\nname = "{name}"\nversion = "1.0"\ndescription = ""\noptional = {str(optional).lower()}\n'
            f'python-versions = ">=3.6"\ngroups = ["{group}"]\n{marker}'
            f'files = [{{file = "{name}-1.0-py3-none-any.whl", hash = "{HASH}"}}]\n'
        )
    content_hash = Factory().create_poetry(root).locker._get_content_hash()
    (root / "poetry.lock").write_text(
        f'{packages}[extras]\npg = ["six"]\n[metadata]\nlock-version = "2.1"\npython-versions = "{python}"\n'
        f'content-hash = "{content_hash}"\n'
    )


def test_poetry_lock_that_excludes_the_controllers_python(write: Write, tools: Tools) -> None:
    text = (
        '[tool.poetry]\nname = "demo"\nversion = "1"\ndescription = ""\nauthors = []\npackage-mode = false\n'
        '[tool.poetry.dependencies]\npython = "^3.40"\nidna = "*"\nsix = {version = "*", optional = true}\n'
        '[tool.poetry.group.dev.dependencies]\niniconfig = "*"\n[tool.poetry.extras]\npg = ["six"]\n'
    )
    root = write("app", {"pyproject.toml": text})
    _poetry_lock(root, "^3.40")
    future = Target(41, "x86_64", (2, 41))
    locked = resolve(root, tools, targets=[future])
    assert locked.kind == "poetry.lock"
    assert names(locked, future) == {"idna": "1.0"}
    assert [pin.hashes for pin in locked.pins] == [(HASH,)]
    assert set(names(resolve(root, tools, extras=("pg",), groups=("dev",)), future)) == {"idna", "six", "iniconfig"}
    lockfile.check_python(locked, [future])
    with pytest.raises(BatonError, match=r"\^3\.40, but there are app servers with Python 3\.11\.2"):
        lockfile.check_python(locked, [BOOKWORM])
    with pytest.raises(BatonError, match="no extra 'nope'"):
        resolve(root, tools, extras=("nope",))
    (root / "pyproject.toml").write_text(text.replace('idna = "*"', 'idna = "2"'))
    with pytest.raises(BatonError, match=r"changed since poetry\.lock"):
        resolve(root, tools)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("uv.lock", "poetry.lock", "requirements.txt"), "uv.lock"),
        (("poetry.lock", "requirements.txt"), "poetry.lock"),
        # a workspace's lock takes precedence over a member's requirements
        (("uv.lock", "svc/requirements.txt"), "uv.lock"),
        (("requirements.txt", "svc/requirements.txt"), "svc/requirements.txt"),
        (("uv.lock", "svc/uv.lock"), "svc/uv.lock"),
    ],
)
def test_choice_between_two_locks_is_deterministic(write: Write, files: tuple[str, ...], expected: str) -> None:
    root = write("app", {"svc/main.py": "", **dict.fromkeys(files, "")})
    found = lockfile.find(root, "svc", "")
    assert found is not None
    assert found[1] == root / expected
    # the setting takes precedence
    override = lockfile.find(root, "svc", files[-1])
    assert override is not None
    assert override[1] == root / files[-1]


@pytest.mark.parametrize("word", ["-r", "-c", "--requirement"])
def test_requirements_that_include_each_other_are_read_once(write: Write, tools: Tools, word: str) -> None:
    root = write(
        "app",
        {
            "requirements.txt": f"idna==3.7 --hash={HASH}\n{word} requirements/b.txt\n",
            "requirements/b.txt": f"{word} ../requirements/a.txt\n",
            "requirements/a.txt": f"{word} b.txt\n-r ../requirements.txt\n",
        },
    )
    assert names(resolve(root, tools)) == {"idna": "3.7"}


def test_hashed_requirements_are_used_unchanged(write: Write, tools: Tools) -> None:
    root = write(
        "app",
        {
            "requirements.txt": f"--index-url https://elsewhere.example.org\n-r more.txt\n"
            f"idna[all]==3.10 \\\n    --hash={HASH}  # why\n",
            "more.txt": f"six==1.16.0 ; python_version < '3.12' --hash={HASH} --hash={HASH[:-1]}1\n",
        },
    )
    locked = resolve(root, tools)
    assert locked.locked
    assert not locked.warnings
    assert names(locked) == {"idna": "3.10", "six": "1.16.0"}
    assert names(locked, Target(13, "x86_64", (2, 41))) == {"idna": "3.10"}
    assert [len(pin.hashes) for pin in sorted(locked.pins)] == [1, 2]


def test_unpinned_requirements_are_resolved_with_a_warning(write: Write, tools: Tools) -> None:
    root = write("app", {"requirements.txt": "-c bounds.txt\nanyio==4.3.0\n", "bounds.txt": "idna<3.8\n"})
    locked = resolve(root, tools)
    assert not locked.locked
    assert "doesn't lock everything (idna, sniffio" in locked.warnings[0]
    assert names(locked)["anyio"] == "4.3.0"
    assert names(locked)["idna"] == "3.7"
    offline = Tools(tools.cache, index_url="")
    assert resolve(root, offline).universal() == locked.universal()


def test_pinned_requirements_without_hashes_count_as_locked(write: Write, tools: Tools) -> None:
    root = write("app", {"requirements.txt": "anyio==4.3.0\nidna==3.7\nsniffio==1.3.1\n"})
    locked = resolve(root, tools)
    assert locked.locked
    assert not locked.warnings


def test_requirements_with_local_projects(write: Write, pyproject: Text, tools: Tools) -> None:
    root = write(
        "app",
        {
            "svc/requirements.txt": "-e ../libs/core\nsix==1.16.0\n",
            "libs/core/pyproject.toml": pyproject("core", ["idna==3.10"]),
            "libs/core/core/__init__.py": "",
        },
    )
    locked = resolve(root, tools, "svc")
    assert locked.locals == ["libs/core"]
    assert names(locked) == {"six": "1.16.0", "idna": "3.10"}


def test_unlocked_project_with_constraints_and_a_date(write: Write, pyproject: Text, tools: Tools) -> None:
    root = write("app", {"pyproject.toml": pyproject("demo", ["idna", "six"], build=False)})
    locked = resolve(
        root, tools, constraints=("six<1.16",), exclude_newer="2024-03-01T00:00:00Z", extra_requirements=("docopt",)
    )
    assert names(locked) == {"idna": "3.6", "six": "1.15.0", "docopt": "0.6.2"}
    assert "is not locked" in locked.warnings[0]


def test_extra_requirements_do_not_change_a_lock(write: Write, tools: Tools) -> None:
    root = write("app", {"requirements.txt": f"idna==3.7 --hash={HASH}\n"})
    locked = resolve(root, tools, extra_requirements=("anyio==4.3.0",))
    assert names(locked) == {"idna": "3.7", "anyio": "4.3.0", "sniffio": names(locked)["sniffio"]}
    assert [pin.hashes for pin in locked.pins if pin.name == "idna"] == [(HASH,)]


def test_published_package(write: Write, tools: Tools) -> None:
    locked = resolve(write("empty", {"x": ""}), tools, requirement="anyio==4.3.0")
    assert locked.kind == "package"
    assert {"anyio", "idna", "sniffio"} == set(names(locked))


def test_other_index_token_uses_the_cached_result(
    write: Write, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []

    def compile_requirements(_: Tools, words: object, *__: object) -> str:
        runs.append(words)
        return f"idna==3.{len(runs)} --hash={HASH}\n"

    monkeypatch.setattr(Tools, "ask_with_builds", compile_requirements)
    root = write("app", {"requirements.txt": "idna\n"})
    for token in ("TOKEN1", "TOKEN2"):
        index = f"https://me:{token}@index.example.org/simple"
        assert names(resolve(root, Tools(tmp_path / "cache", index, [f"{index}/more"]))) == {"idna": "3.1"}


@pytest.mark.parametrize("where", ["project", "lock"])
def test_excluded_python_is_refused_with_both_names(where: str, write: Write, pyproject: Text, tools: Tools) -> None:
    root = write(
        "app",
        {
            "pyproject.toml": pyproject("demo", python=">=3.12" if where == "project" else ">=3.11", build=False),
            "uv.lock": f'version = 1\nrequires-python = "{">=3.12" if where == "lock" else ">=3.11"}"\n'
            '[[package]]\nname = "demo"\nversion = "1.0"\nsource = { virtual = "." }\n',
        },
    )
    locked = resolve(root, tools)
    with pytest.raises(BatonError, match=r">=3\.12.*Python 3\.11\.2"):
        lockfile.check_python(locked, [Target(13, "x86_64", (2, 41)), BOOKWORM])


def test_source_without_requirements_is_refused(write: Write, tools: Tools) -> None:
    with pytest.raises(BatonError, match="No lock and no project"):
        resolve(write("app", {"main.py": ""}), tools)
    with pytest.raises(BatonError, match="app_release_lock"):
        resolve(write("app", {"main.py": ""}), tools, lock="nowhere.txt")


def test_lock_named_by_its_path(write: Write, tools: Tools) -> None:
    root = write("app", {"requirements/prod.txt": f"idna==3.7 --hash={HASH}\n", "requirements.txt": "six\n"})
    assert names(resolve(root, tools, lock="requirements/prod.txt")) == {"idna": "3.7"}


def test_unresolvable_requirement_is_reported(write: Write, tools: Tools) -> None:
    with pytest.raises(BatonError, match="can't be resolved"):
        resolve(write("app", {"requirements.txt": "idna>999\n"}), tools)


def test_two_versions_for_one_target_are_refused() -> None:
    pins = [Pin("a", "1", marker="python_version < '3.12'"), Pin("a", "2", marker="python_version > '3.10'")]
    with pytest.raises(BatonError, match="pinned to 1 and 2"):
        lockfile.for_target(pins, BOOKWORM)


def test_uv_lock_in_toml_1_1(write: Write, run: Text, pyproject: Text, tools: Tools) -> None:
    root = write("app", {"pyproject.toml": pyproject("demo", ["idna"], build=False)})
    run("uv", "lock", "-q", cwd=root)
    path = root / "uv.lock"
    text = path.read_text()
    newer = text.replace("source = { registry =", "source = {\n  registry =").replace('simple" }', 'simple",\n}')
    assert newer != text
    path.write_text(newer)
    locked = resolve(root, tools)
    assert set(names(locked)) == {"idna"}
    assert locked.requires_python[0] == ("uv.lock of the source", ">=3.11")


@pytest.mark.parametrize("text", ["version = \n", "version = 1\nx = {\n"])
def test_invalid_toml_in_a_lock_is_reported(text: str, write: Write, tools: Tools) -> None:
    for name in ("uv.lock", "poetry.lock"):
        root = write(name, {"api/pyproject.toml": "", f"api/{name}": text})
        with pytest.raises(BatonError, match=f"^api/{name} of the source is not valid TOML"):
            resolve(root, tools, "api")


PROJECT = (
    '[project]\nname = "demo"\nversion = "1.0"\nrequires-python = ">=3.11"\n'
    'dependencies = ["idna>=3", "anyio[trio]>=4,<5; python_version < \'3.13\'", "six @ git+https://git.example.org/six"]\n'
    '[project.optional-dependencies]\nall = ["demo[pg]"]\npg = ["Six_Two"]\n'
    '[dependency-groups]\ndev = ["iniconfig"]\nmore = [{include-group = "dev"}]\n'
    '[tool.uv.sources]\nsix-two = {path = "six"}\n'
)
UV_LOCK = (
    'version = 1\nrequires-python = ">=3.11"\n[[package]]\nname = "demo"\nversion = "1.0"\nsource = { virtual = "." }\n'
    "[package.metadata]\nrequires-dist = [\n"
    '    { name = "anyio", extras = ["trio"], marker = "python_full_version < \'3.13\'", specifier = ">=4,<5" },\n'
    '    { name = "idna", specifier = ">=3" },\n    { name = "six", git = "https://git.example.org/six" },\n'
    '    { name = "six-two", marker = "extra == \'all\'", directory = "six" },\n'
    '    { name = "six-two", marker = "extra == \'pg\'", directory = "six" },\n]\n'
    '[package.metadata.requires-dev]\ndev = [{ name = "iniconfig" }]\nmore = [{ name = "iniconfig" }]\n'
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", ""),
        ("idna>=3", "idna>=3.5", r"pyproject\.toml requires idna>=3\.5"),
        ("anyio[trio]", "anyio", r"requires anyio<5,>=4"),
        ('"idna>=3"', '"idna>=3", "httpx"', "requires httpx"),
        ('"idna>=3", ', "", r"has idna>=3, which pyproject\.toml no longer requires"),
        ('pg = ["Six_Two"]', 'pg = ["Six_Two", "h2"]', "requires h2"),
        ('dev = ["iniconfig"]', 'dev = ["iniconfig>=2"]', "requires iniconfig>=2"),
        (">=4,<5", "<5, >=4", ""),
        ('"demo"', '"Demo"', ""),
    ],
)
def test_stale_uv_lock_is_refused(old: str, new: str, message: str, write: Write, tools: Tools) -> None:
    assert old in PROJECT
    root = write("app", {"pyproject.toml": PROJECT.replace(old, new, 1) if old else PROJECT, "uv.lock": UV_LOCK})
    if not message:
        assert not resolve(root, tools).warnings
        return
    with pytest.raises(BatonError, match=f"^uv.lock is stale: .*{message}.*`uv lock`.*app_release_allow_stale_lock"):
        resolve(root, tools)
    assert "is stale and deployed anyway" in resolve(root, tools, allow_stale=True).warnings[0]


def test_changed_constraints_make_a_lock_stale(write: Write, run: Text, pyproject: Text, tools: Tools) -> None:
    bounds = (
        '[tool.uv]\nconstraint-dependencies = ["idna<4"]\noverride-dependencies = ["six; python_version<\'3.13\'"]\n'
    )
    root = write("app", {"pyproject.toml": pyproject("demo", ["idna"], build=False, rest=bounds)})
    run("uv", "lock", "-q", cwd=root)
    assert not resolve(root, tools).warnings
    for old, new, message in (("idna<4", "idna<3.9", "requires idna<3.9"), ("override-", "no-", "has six")):
        changed = bounds.replace(old, new).replace("no-dependencies", "override-dependencies = []\n#")
        write("app", {"pyproject.toml": pyproject("demo", ["idna"], build=False, rest=changed)})
        with pytest.raises(BatonError, match=f"is stale: .*{message}"):
            resolve(root, tools)


def test_changed_workspace_member_makes_a_lock_stale(write: Write, run: Text, pyproject: Text, tools: Tools) -> None:
    sources = "[tool.uv.sources]\ncore = {workspace = true}\n"
    root = write(
        "ws",
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
            "apps/api/pyproject.toml": pyproject("api", ["core", "idna"], rest=sources),
            "libs/core/pyproject.toml": pyproject("core"),
        },
    )
    run("uv", "lock", "-q", cwd=root)
    assert not resolve(root, tools, "apps/api").warnings
    (root / "libs/core/pyproject.toml").write_text(pyproject("core", ["six"]))
    with pytest.raises(BatonError, match=r"libs/core/pyproject\.toml requires six, which uv\.lock doesn't have"):
        resolve(root, tools, "apps/api")


def test_stale_poetry_lock_can_be_allowed(write: Write, tools: Tools) -> None:
    text = (
        '[tool.poetry]\nname = "demo"\nversion = "1"\ndescription = ""\nauthors = []\npackage-mode = false\n'
        '[tool.poetry.dependencies]\npython = "^3.11"\nidna = "*"\n'
    )
    root = write("app", {"pyproject.toml": text})
    _poetry_lock(root, "^3.11")
    (root / "pyproject.toml").write_text(text.replace('idna = "*"', 'idna = ">=1"'))
    with pytest.raises(BatonError, match=r"poetry\.lock is stale.*`poetry lock`.*app_release_allow_stale_lock"):
        resolve(root, tools)
    for _ in range(2):  # the second time from the cache
        allowed = resolve(root, tools, allow_stale=True)
        assert set(names(allowed)) == {"idna"}
        assert "deployed anyway" in allowed.warnings[0]


def test_encoding_of_requirements_is_detected(write: Write, tools: Tools) -> None:
    text = f"idna==3.7 --hash={HASH}\r\n"
    root = write("app", {"requirements.txt": ""})
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):
        (root / "requirements.txt").write_bytes(text.encode(encoding))
        assert names(resolve(root, tools)) == {"idna": "3.7"}
    for data in (text.encode("utf-16-le"), b"# caf\xe9\nidna==3.7\n"):
        (root / "requirements.txt").write_bytes(data)
        with pytest.raises(BatonError, match=r"requirements\.txt is not UTF-8.*Save requirements\.txt as UTF-8"):
            resolve(root, tools)


@pytest.mark.parametrize(("name", "command"), [("Pipfile.lock", "pipenv requirements"), ("pdm.lock", "pdm export")])
def test_locks_of_other_tools_are_named_with_the_alternative(
    name: str, command: str, write: Write, pyproject: Text, tools: Tools
) -> None:
    root = write("app", {name: "{}"})
    with pytest.raises(BatonError, match=f"{name} is not supported.*{command}"):
        resolve(root, tools)
    with pytest.raises(BatonError, match=f"{name} .*doesn't support.*{command}"):
        resolve(root, tools, lock=name)
    write("app", {"pyproject.toml": pyproject("demo", ["idna==3.10"], build=False)})
    assert [one for one in resolve(root, tools).warnings if name in one and command in one]


@pytest.mark.parametrize("subdirectory", ["..", "../../elsewhere", "/etc", "out"])
def test_git_dependency_outside_its_repository_is_refused(
    write: Write, run: Text, tools: Tools, rotated: Callable[[str, str], str], subdirectory: str
) -> None:
    repository = write("lib", {"setup.py": "from setuptools import setup\nsetup(name='lib', version='1')\n"})
    (repository / "out").symlink_to("/etc")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        run("git", *words, cwd=repository)
    root = write("app", {"requirements.txt": f"lib @ git+{rotated('lib', 'TOKEN')}#subdirectory={subdirectory}\nsix\n"})
    with pytest.raises(BatonError, match="is no folder of its repository"):
        resolve(root, tools)


def test_git_dependency_is_fetched_with_the_operators_access(
    write: Write, run: Text, tools: Tools, rotated: Callable[[str, str], str]
) -> None:
    setup = "from setuptools import setup\nsetup(name='lib', version='1', install_requires=['idna==3.10'])\n"
    repository = write("lib", {"part/setup.py": setup})
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        run("git", *words, cwd=repository)
    url = rotated("lib", "TOKEN")
    root = write("app", {"requirements.txt": f"lib @ git+{url}#subdirectory=part\nsix\n"})
    locked = resolve(root, tools)
    commit = run("git", "rev-parse", "HEAD", cwd=repository).strip()
    assert {pin.name for pin in locked.pins} == {"lib", "idna", "six"}
    assert [pin.url for pin in locked.pins if pin.name == "lib"] == [f"git+{url}@{commit}#subdirectory=part"]
    assert locked.locals == []


def test_unreadable_git_dependency_is_named(write: Write, tools: Tools, rotated: Callable[[str, str], str]) -> None:
    root = write("app", {"requirements.txt": f"lib @ git+{rotated('nowhere', 'TOKEN')}@v1\nsix\n"})
    with pytest.raises(BatonError, match=r"lib, which the application needs from .*nowhere@v1") as caught:
        resolve(root, tools)
    assert "app_source" not in caught.value.fix
    assert "lock again" in caught.value.fix


@pytest.mark.parametrize("line", ["-r {}", "-c {}", "-r ../../home/secret.txt", "-e ../../home", "{}"])
def test_requirements_cannot_read_outside_the_source(line: str, write: Write, tools: Tools) -> None:
    secret = write("home", {"secret.txt": "-----BEGIN KEY-----\n", "setup.py": ""}) / "secret.txt"
    root = write("work/app", {"requirements.txt": line.format(secret) + "\nidna==3.10\n"})
    with pytest.raises(BatonError, match="leads out of the source") as caught:
        resolve(root, tools)
    assert "BEGIN KEY" not in str(caught.value)


VARIABLE, REPOSITORY = "an environment variable of the controller", "a git repository on the controller"


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ('dependencies = ["lib @ https://elsewhere/${UV_DEFAULT_INDEX}/lib-1-py3-none-any.whl"]', VARIABLE),
        ('optional-dependencies.some = ["lib @ https://elsewhere/${HOME}/lib-1-py3-none-any.whl"]', VARIABLE),
        ('[dependency-groups]\nsome = ["lib @ https://elsewhere/${HOME}/lib-1-py3-none-any.whl"]', VARIABLE),
        ('[build-system]\nrequires = ["lib @ https://elsewhere/${HOME}/lib-1-py3-none-any.whl"]', VARIABLE),
        ('[tool.uv]\noverride-dependencies = ["idna @ https://elsewhere/${HOME}/idna-1-py3-none-any.whl"]', VARIABLE),
        ('dependencies = ["lib @ git+file:///REPOSITORY"]', REPOSITORY),
        ('dependencies = ["lib"]\n[tool.uv.sources]\nlib = { git = "file:///REPOSITORY" }', REPOSITORY),
        ('dependencies = ["lib"]\n[tool.uv.sources]\nlib = [{ git = "file:///REPOSITORY", branch = "x" }]', REPOSITORY),
    ],
)
@pytest.mark.parametrize("place", ["", "lib/"])
def test_unlocked_project_cannot_name_variables_or_repositories_of_the_controller(
    write: Write, run: Text, tools: Tools, monkeypatch: pytest.MonkeyPatch, rest: str, why: str, place: str
) -> None:
    private = write("private", {"setup.py": "from setuptools import setup\nsetup(name='lib', version='1')\n"})
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        run("git", *words, cwd=private)
    start = '[project]\nname = "demo"\nversion = "1"\nrequires-python = ">=3.11"\n'
    files = {"pyproject.toml": f"{start}dynamic = []\n", "broken/pyproject.toml": "{{ cookiecutter.name }} ${HOME}"}
    root = write("app", {**files, f"{place}pyproject.toml": start + rest.replace("/REPOSITORY", str(private))})
    monkeypatch.setattr(Tools, "ask_with_builds", lambda *_: pytest.fail("uv was asked"))
    with pytest.raises(BatonError, match=rf"^The requirement .* \({place}pyproject\.toml\) names {why}"):
        resolve(root, tools)


def test_deeply_nested_requirements_are_found() -> None:
    project: Any = "lib @ git+file:///private"
    for _ in range(100_000):
        project = {"some": project}
    assert list(lockfile.asked_of_uv({"tool": {"uv": project}})) == ["lib @ git+file:///private"]
    # values of other types
    assert list(lockfile.asked_of_uv({"tool": 1, "project": {"dependencies": [["lib"], 2]}})) == ["lib"]
