"""What an application logs reaches the operator without its secrets."""

from __future__ import annotations

import json
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import masking

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
        ("'SECRET_KEY': 'changethi...", "'SECRET_KEY': '***..."),
        ("...that-is-long'", "...***'"),
        ("changethis...t-is-long", "***...***"),
        ("changeth changet", "*** changet"),
        ("changing", "changing"),
    ],
)
def test_what_is_left_of_a_shortened_secret_is_left_out(said: str, told: str) -> None:
    assert masking.without(said, ["changethis-secret-that-is-long"]) == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        # an address alone is none, and many messages have it
        ("connect to postgresql://links: refused", "connect to postgresql://links: refused"),
        ("FATAL: database db/links of postgresql", "FATAL: database db/links of postgresql"),
        ("dsn='postgresql://links:hunter...'", "dsn='***...'"),
        ("dsn='...ter2-and-more@db/links'", "dsn='...***'"),
    ],
)
def test_of_a_url_the_password_is_left_out_and_its_address_stays(said: str, told: str) -> None:
    assert masking.without(said, ["postgresql://links:hunter2-and-more@db/links"]) == told


def test_a_url_without_a_password_is_secret_by_its_path() -> None:
    hook = "https://hooks.example.org/services/T0123/B4567/abcdefgh"
    assert masking.without("GET https://hooks.example.org/", [hook]) == "GET https://hooks.example.org/"
    assert masking.without(f"to {hook[:50]}…", [hook]) == "to ***…"


def test_a_secret_is_found_in_each_form_that_libraries_print(tmp_path: pathlib.Path) -> None:
    secrets = tmp_path / "etc/links/secrets"
    secrets.mkdir(parents=True)
    (secrets / "KEY").write_text('{"type": "account", "private_key": "line-one-of-it\\nline-two"}')
    (secrets / "WORD").write_text('pass"word\\x')
    mask = masking.mask_of("links", str(tmp_path))
    assert mask("key line-one-of-it\nline-two") == "key ***"
    assert mask(repr({"key": "line-one-of-it\nline-two"})) == "{'key': '***'}"
    assert mask(json.dumps({"word": 'pass"word\\x'})) == '{"word": "***"}'
