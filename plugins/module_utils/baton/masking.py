"""Leaving an application's secrets out of what it logged, before that goes to the operator, a receipt or a CI's log."""

from __future__ import annotations

import contextlib
import pathlib
import urllib.parse
from collections.abc import Iterable

SHORT = 4  # characters; masking shorter values would make the text unreadable, and guessable ones plain
PART = 8  # characters of a secret's beginning or end that are masked alone: programs print values shortened


def without(text: str, values: Iterable[str]) -> str:
    """The text without these values, and without what is left of one that was shortened to its beginning or end."""
    wanted = sorted({value for value in values if len(value) >= SHORT}, key=len, reverse=True)
    for value in wanted:
        text = text.replace(value, "***")
    for value in wanted:
        if len(value) > PART:
            text = _without_part(text, value, value[:PART], 1)
            text = _without_part(text, value, value[-PART:], -1)
    return text


def _without_part(text: str, value: str, part: str, step: int) -> str:
    """The text without each run of characters that begins (or ends) as the value does, however far it goes on so."""
    masked, at = [], 0
    while (found := text.find(part, at)) >= 0:
        first, last = found, found + len(part)
        known = len(part)
        if step > 0:
            while last < len(text) and known < len(value) and text[last] == value[known]:
                last, known = last + 1, known + 1
        else:
            while first > at and known < len(value) and text[first - 1] == value[-known - 1]:
                first, known = first - 1, known + 1
        masked += [text[at:first], "***"]
        at = last
    return "".join(masked) + text[at:]


def masked(application: str, text: str, root: str = "/") -> str:
    """The text without the values of the application's secrets, and without the passwords of those that are URLs."""
    values = set()
    for folder in ("secrets", "migration-secrets"):
        for path in pathlib.Path(root, "etc", application, folder).glob("*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                value = path.read_text(encoding="utf-8").strip()
                values |= {value, *value.splitlines()}
                with contextlib.suppress(ValueError):
                    if password := urllib.parse.urlsplit(value).password:
                        values |= {password, urllib.parse.unquote(password)}
    return without(text, values)
