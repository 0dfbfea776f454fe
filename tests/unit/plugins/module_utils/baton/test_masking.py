"""What an application logs reaches the operator without its secrets."""

from __future__ import annotations

import pathlib

import pytest
from ansible.module_utils.baton import masking

SAID = "ValidationError: input_value='postgresql://links:p%40ss@db/links' password p@ss of links, dsn p%40ss; flag on"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    secrets = tmp_path / "etc/links/secrets"
    secrets.mkdir(parents=True)
    (secrets / "DATABASE_URL").write_text("postgresql://links:p%40ss@db/links\n")
    (secrets / "FLAG").write_text("on")
    (secrets / "key.pem").write_bytes(b"\xff\xfe")
    migration = tmp_path / "etc/links/migration-secrets"
    migration.mkdir()
    (migration / "OWNER").write_text("first line of a key\nsecond line")
    return str(tmp_path)


def test_values_and_passwords_of_urls_are_left_out_and_words_stay(root: str) -> None:
    told = masking.masked("links", SAID, root)
    assert told == "ValidationError: input_value='***' password *** of links, dsn ***; flag on"


def test_each_line_of_a_secret_is_left_out(root: str) -> None:
    assert masking.masked("links", "It said: second line", root) == "It said: ***"


def test_an_application_without_secrets_says_all(tmp_path: pathlib.Path) -> None:
    assert masking.masked("links", SAID, str(tmp_path)) == SAID


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{'SECRET_KEY': 'changethis-...'}", "{'SECRET_KEY': '***...'}"),
        ("ends with ...ow-or-be-sorry.", "ends with ...***."),
        ("changethi and changeth1", "*** and ***1"),
        ("changethis-now-or-be-sorry changethis-now", "*** ***"),
        # shorter than what could only be it
        ("change it", "change it"),
    ],
)
def test_what_is_left_of_a_secret_that_was_shortened_is_left_out(said: str, told: str) -> None:
    assert masking.without(said, ["changethis-now-or-be-sorry"]) == told
