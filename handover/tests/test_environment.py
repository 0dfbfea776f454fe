"""The environment file, which systemd and this package must parse alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunicorn_handover import environment

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=60)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_written_lines_are_read_back(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> None:
    path = tmp_path_factory.getbasetemp() / "environment"
    lines = [environment.line(name, value) for name, value in variables.items()]
    path.write_bytes("\n# a comment\n".join(["", *lines, ""]).encode())
    assert environment.read(path) == variables
    assert environment.raw_env(path) == [f"{name}={value}" for name, value in variables.items()]


@pytest.mark.parametrize(
    "line",
    [
        "NAME=hunter2",
        "NAME='hunter2'",
        'NAME="hunter2',
        'NAME="a"b"',
        'NAME="cost $5"',
        'NAME="a\\nb"',
        'export NAME="hunter2"',
        '1NAME="hunter2"',
        'NA-ME="hunter2"',
        'NAME = "hunter2"',
        'NAME="hunter2" # comment',
    ],
)
def test_invalid_line_is_reported_by_number_without_value(tmp_path: Path, line: str) -> None:
    path = tmp_path / "environment"
    path.write_text(f'GOOD="1"\n\n{line}\n')
    with pytest.raises(environment.EnvironmentFileError, match="line 3") as error:
        environment.read(path)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("A B", "x"), ("", "x"), ("A", "line\nbreak"), ("A", "\0")])
def test_unrepresentable_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(environment.EnvironmentFileError):
        environment.line(name, value)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "environment"
    path.write_bytes(b'NAME="\xff"\n')
    with pytest.raises(environment.EnvironmentFileError, match="UTF-8"):
        environment.read(path)


def test_credentials_are_exported(tmp_path: Path) -> None:
    (tmp_path / "SECRET").write_bytes(b"one\ntwo\n")
    (tmp_path / "BYTES").write_bytes(b"\xff")
    (tmp_path / "tls.key").write_bytes(b"-")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "SECRET": "plain"}
    assert environment.export_credentials(environ) == {"SECRET", "BYTES"}
    assert environ["SECRET"] == "one\ntwo"
    assert environ["BYTES"].encode("utf-8", "surrogateescape") == b"\xff"
    assert environment.export_credentials({}) == frozenset()


def test_credential_with_nul_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SECRET").write_bytes(b"a\0b")
    with pytest.raises(environment.EnvironmentFileError, match="SECRET"):
        environment.credentials(str(tmp_path))
