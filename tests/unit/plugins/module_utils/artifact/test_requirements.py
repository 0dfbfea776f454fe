"""Untrusted requirements files: any content is either read or reported, quickly."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import lockfile, requirements, wheels
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from hypothesis import given, settings
from hypothesis import strategies as st

TARGET = Target(11, "x86_64", (2, 36))


def read(folder: pathlib.Path, text: str | bytes, **others: str) -> requirements.Requirements:
    path = folder / "requirements.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    for name, content in others.items():
        (folder / name).write_text(content)
    return requirements.read(path, root=folder, within=folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        # what would crash the parser, or keep it busy for hours
        pytest.param("a; " + "(" * 1800 + "os_name == 'a'" + ")" * 1800, "is not a requirement", id="parentheses"),
        pytest.param("a; " + "(" * 600 + "os_name=='a'" + ")" * 600, "is not a requirement", id="fewer parentheses"),
        pytest.param("[" * 200_000, "is too long", id="brackets"),
        pytest.param("./" + "[a" * 60_000 + "x", "is too long", id="brackets in a path"),
        pytest.param("a==" + "1." * 100_000 + "x", "is too long", id="version"),
        pytest.param("x" * 200_000 + "!", "is too long", id="word"),
        pytest.param("!" + "/baton-artifact" * 10_000, "is too long", id="names of temporary folders"),
        pytest.param("a==1 " + "--hash=sha256:0 " * 20_000, "is too long", id="hashes"),
        # invalid addresses, or addresses outside the index and the source
        ("file://[", "is not a valid URL"),
        ("a @ file://[", "is not a requirement"),
        ("a @ http://[", "is not a requirement"),
        ("file:./x%0A--index-url%20http://elsewhere", "has a line break"),
        ("a @ file:./x%0A--index-url%20http://elsewhere", "has a line break"),
        ("a @ FTP://elsewhere/a.whl", "none of https, http, git and file"),
        ("a @ data:,x", "none of https, http, git and file"),
        # variables that uv would replace by those of the operator
        ("a @ https://elsewhere/${HOME}/a.whl", "an environment variable of the controller"),
        ("-e git+https://elsewhere/${GITHUB_TOKEN}#egg=a", "an environment variable of the controller"),
        # repositories that only the operator may read
        ("a @ git+file:///home/operator/private", "a git repository on the controller"),
        ("-e git+FILE:/home/operator/private#egg=a", "a git repository on the controller"),
        # what controls a terminal
        ("a==1\x1b[2J", "has control characters"),
        ("a==1 # \x00", "has control characters|a NUL"),
    ],
)
def test_invalid_line_is_reported(tmp_path: pathlib.Path, line: str, reason: str) -> None:
    with pytest.raises(BatonError, match=reason) as caught:
        read(tmp_path, f"{line}\n")
    assert len(str(caught.value)) < 2000


def test_file_url_is_a_local_path_in_any_case(tmp_path: pathlib.Path) -> None:
    found = read(tmp_path, "a @ FILE:///etc/passwd\nb @ File:///etc/passwd\n")
    assert found.locals == [(pathlib.Path("/etc/passwd"), "")] * 2  # the lock's reader checks where it leads
    assert not found.pins


def test_path_that_is_too_long_is_kept(tmp_path: pathlib.Path) -> None:
    assert read(tmp_path, f"./{'a' * 300}\n").locals == [(tmp_path / ("a" * 300), "")]


def test_extras_of_a_path_are_its_last_brackets() -> None:
    paths = ("./a[b]", "./a[b,c]", "./a", "./[a][b]", "./a[b[c]", "./a]", "/a[b]c")
    assert [requirements.local_path(path) for path in paths] == [
        ("./a", "[b]"),
        ("./a", "[b,c]"),
        ("./a", ""),
        ("./[a]", "[b]"),
        ("./a", "[b[c]"),
        ("./a]", ""),
        ("/a[b]c", ""),
    ]


@pytest.mark.parametrize("separator", [" ", "=", "\t", " \t"])
def test_include_may_be_written_as_pip_accepts_it(tmp_path: pathlib.Path, separator: str) -> None:
    (tmp_path / "more.txt").write_text("idna==3.10\n")
    (tmp_path / "requirements.txt").write_text(f"-r{separator}more.txt\n")
    assert requirements.read(tmp_path / "requirements.txt").lines == ["idna==3.10"]


def test_circular_includes_end(tmp_path: pathlib.Path) -> None:
    assert read(tmp_path, "-r a\na==1\n", a="-r b\nb==1\n", b="-r a\n-c requirements.txt\n").lines == ["b==1", "a==1"]
    with pytest.raises(BatonError, match="more than 100 files"):
        read(tmp_path, "-r f0\n", **{f"f{number}": f"-r f{number + 1}\n" for number in range(3000)})


def test_included_file_must_be_a_regular_file_of_limited_size(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.truncate(os.open(tmp_path / "sparse", os.O_CREAT | os.O_WRONLY), 2**40)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, reason in (
        ("pipe", "is not a regular file"),
        ("sparse", "is larger than"),
        ("loop", "can't be read"),
        (".", "is not a regular file"),
    ):
        with pytest.raises(BatonError, match=reason):
            read(tmp_path, f"-r {name}\n")
    for name in ("zero", "/etc/passwd", "../elsewhere", "a/../../elsewhere"):
        with pytest.raises(BatonError, match="leads out of the source"):
            read(tmp_path, f"-r {name}\n")


@pytest.mark.parametrize(
    "marker", ["os_name ~= 'posix'", "'a' == 'b'", "python_full_version ~= '3'", "(" * 400 + "x", "nonsense"]
)
def test_marker_without_an_answer_is_reported(marker: str) -> None:
    with pytest.raises(BatonError, match="can't be evaluated"):
        TARGET.holds(marker)


def test_invalid_python_version_is_reported() -> None:
    locked = lockfile.Locked("uv.lock", "uv.lock", [], requires_python=[("uv.lock of the source", "\N{SNAKE} >> 3")])
    with pytest.raises(BatonError, match=r"uv.lock of the source requires Python .* which is not a version"):
        lockfile.check_python(locked, [TARGET])


def test_build_requirement_with_a_variable_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["a @ https://elsewhere/${AWS_SECRET_ACCESS_KEY}/a-1-py3-none-any.whl"]\n'
    )
    wanted = wheels._declared_requirements(tmp_path)
    with pytest.raises(
        BatonError, match=r"builds for thing's build requirements.* an environment variable of the controller"
    ):
        wheels._wheels_for("thing", wanted, TARGET, Tools(tmp_path / "cache"))


NAMES = st.sampled_from(["a", "b", "sub/c", "loop", "../x", "/etc/passwd", "requirements.txt", "pipe"])
OPTIONS = (
    "-r ",
    "--requirement=",
    "-c ",
    "-e ",
    "-e ./",
    "--index-url ",
    "--find-links=",
    "--hash=",
    "-",
    "a @ ",
    "file:",
)
LINES = st.one_of(
    st.builds(str.__add__, st.sampled_from(OPTIONS), NAMES),
    st.builds(
        str.__add__,
        st.sampled_from(["a==1 ", "a>=1; ", "a[b] @ ", "git+", "# ", "./", "a==1 \\\n"]),
        st.text(max_size=20),
    ),
    st.text(max_size=40),
    st.text(alphabet="ab=<>!~[](){}$;'\".,@:/#&% -\\\n\t123", max_size=40),
)


@settings(max_examples=settings().max_examples * 3)
@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=3))
def test_any_lines_are_read_or_reported(lines: list[str], included: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "sub").mkdir()
        (folder / "loop").symlink_to("loop")
        os.mkfifo(folder / "pipe")
        text = "\n".join(included).encode(errors="replace")
        for path in ("a", "b", "sub/c"):
            (folder / path).write_bytes(text)
        try:
            found = read(folder, "\n".join(lines).encode(errors="replace"))
            for pin in found.pins:
                TARGET.holds(pin.marker)
                assert "\n" not in pin.line()
            lockfile.for_target(found.pins, TARGET)
        except BatonError:
            return
        # uv must get one requirement per line, without options
        for line in (*found.lines, *found.constraints, *(str(path) for path, _ in found.locals)):
            assert not {"\n", "\0"} & set(line)
            assert not line.startswith("-")
            assert "${" not in line
        assert all(path.resolve().is_relative_to(folder.resolve()) for path in found.files)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_reported(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(BatonError):
        read(pathlib.Path(name), content)
