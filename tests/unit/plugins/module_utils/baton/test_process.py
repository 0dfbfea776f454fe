"""What is told of commands that fail, and what is kept back."""

from __future__ import annotations

import pytest
from ansible.module_utils.baton.process import BatonError, CommandError, run, without_credentials


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://oauth2:TOKEN@git.example.org/x.git", "https://git.example.org/x.git"),
        ("a @ git+https://TOKEN@git.example.org/x.git@v1", "a @ git+https://git.example.org/x.git@v1"),
        ("fatal: 'http://a:TO@KEN@h/x' and\nhttps://TOKEN@i/y", "fatal: 'http://h/x' and\nhttps://i/y"),
        ("https://git.example.org/x.git@v1", "https://git.example.org/x.git@v1"),
        ("git@git.example.org:x.git", "git@git.example.org:x.git"),
        ("file:///srv/a@b", "file:///srv/a@b"),
    ],
)  # fmt: skip
def test_a_url_is_told_without_its_credentials(text: str, told: str) -> None:
    assert without_credentials(text) == told


def test_errors_keep_credentials_back() -> None:
    error = BatonError("https://me:TOKEN@h/x can't be read.", "Correct https://me:TOKEN@h/x.")
    assert (error.cause, error.fix) == ("https://h/x can't be read.", "Correct https://h/x.")
    assert str(error) == "https://h/x can't be read. Correct https://h/x."


def test_what_a_command_printed_is_told_without_credentials() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", 'echo "no https://me:TOKEN@h/x" >&2; exit 3', "https://me:TOKEN@h/y"])
    assert caught.value.last_lines() == "no https://h/x"
    assert "TOKEN" not in str(caught.value)
