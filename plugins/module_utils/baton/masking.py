"""Leaving an application's secrets out of what it logged, before that goes to the operator, a receipt or a CI's log."""

from __future__ import annotations

import contextlib
import pathlib
import urllib.parse
from collections.abc import Iterable

SHORT = 4  # characters; masking shorter values would make the text unreadable, and guessable ones plain


def without(text: str, values: Iterable[str]) -> str:
    """The text without these values."""
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SHORT:
            text = text.replace(value, "***")
    return text


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
