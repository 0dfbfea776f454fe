"""An application's log is shown without its secrets."""

from __future__ import annotations

import json
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import masking

MESSAGE = (
    "ValidationError: input_value='postgresql://links:p%40ss@db/links' password p@ss of links, dsn p%40ss; flag on"
)


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


def test_secret_values_and_url_passwords_are_masked(root: str) -> None:
    text = masking.masked("links", MESSAGE, root)
    assert text == "ValidationError: input_value='***' password *** of links, dsn ***; flag on"


def test_each_line_of_a_secret_is_masked(root: str) -> None:
    assert masking.masked("links", "It said: second line", root) == "It said: ***"


def test_nothing_is_masked_without_secrets(tmp_path: pathlib.Path) -> None:
    assert masking.masked("links", MESSAGE, str(tmp_path)) == MESSAGE


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("'SECRET_KEY': 'changethi...", "'SECRET_KEY': '***..."),
        ("...that-is-long'", "...***'"),
        ("changethis...t-is-long", "***...***"),
        ("changeth changet", "*** changet"),
        ("changing", "changing"),
    ],
)
def test_parts_of_a_truncated_secret_are_masked(message: str, expected: str) -> None:
    assert masking.without(message, ["changethis-secret-that-is-long"]) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # the address without a password is no secret, and many messages contain it
        ("connect to postgresql://links: refused", "connect to postgresql://links: refused"),
        ("FATAL: database db/links of postgresql", "FATAL: database db/links of postgresql"),
        ("dsn='postgresql://links:hunter...'", "dsn='***...'"),
        ("dsn='...ter2-and-more@db/links'", "dsn='...***'"),
    ],
)
def test_url_without_its_password_is_not_masked(message: str, expected: str) -> None:
    assert masking.without(message, ["postgresql://links:hunter2-and-more@db/links"]) == expected


@pytest.mark.parametrize("shown", ["p%40ss%2Fw%20rd", "p%40ss/w%20rd", "p%40ss%2Fw+rd"])
def test_secret_in_a_url_is_masked(shown: str) -> None:
    assert masking.without(f"GET /login?key={shown}&n=1", ["p@ss/w rd"]) == "GET /login?key=***&n=1"


def test_path_of_a_url_without_a_password_is_masked() -> None:
    hook = "https://hooks.example.org/services/T0123/B4567/abcdefgh"
    assert masking.without("GET https://hooks.example.org/", [hook]) == "GET https://hooks.example.org/"
    assert masking.without(f"to {hook[:50]}…", [hook]) == "to ***…"


def test_secret_is_masked_in_every_form_that_libraries_print(tmp_path: pathlib.Path) -> None:
    secrets = tmp_path / "etc/links/secrets"
    secrets.mkdir(parents=True)
    (secrets / "KEY").write_text('{"type": "account", "private_key": "line-one-of-it\\nline-two"}')
    (secrets / "WORD").write_text('pass"word\\x')
    mask = masking.mask_of("links", str(tmp_path))
    assert mask("key line-one-of-it\nline-two") == "key ***"
    assert mask(repr({"key": "line-one-of-it\nline-two"})) == "{'key': '***'}"
    assert mask(json.dumps({"word": 'pass"word\\x'})) == '{"word": "***"}'
