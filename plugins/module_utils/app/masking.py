"""Mask an application's secrets in its output, before it reaches the operator, a receipt or a CI log."""

from __future__ import annotations

import contextlib
import json
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..host import credential, untrusted

SHORT = 4  # characters; masking shorter values would make texts unreadable and reveal guessable values
PART = 8  # characters of a value's beginning or end that are masked too: libraries print long values shortened
MASK = "***"


def without(text: str, values: Iterable[str]) -> str:
    """Return a text with these values masked, including shortened ones."""
    wanted = sorted({value for value in values if len(value) >= SHORT}, key=len, reverse=True)
    for value in wanted:
        escaped = (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value))
        quoted = [urllib.parse.quote(value, safe=safe, errors="replace") for safe in ("", "/")]  # as in URLs and forms
        forms = (value, *(form[1:-1] for form in escaped), *quoted, quoted[0].replace("%20", "+"))
        for form in dict.fromkeys(forms):
            text = text.replace(form, MASK)
    for value in wanted:
        begins, ends = _telling(value)
        if begins < len(value):
            text = _without_part(text, value, begins)
        if ends < len(value):
            text = _without_part(text[::-1], value[::-1], ends)[::-1]
    return text


def _telling(value: str) -> tuple[int, int]:
    """Return how many characters of a value's beginning and of its end reveal it. A URL's host isn't secret."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(value)
        if parts.scheme and parts.netloc:
            address = len(parts.scheme) + len("://") + len(parts.netloc)
            if not parts.password:
                return address + PART, PART
            start = value.index("://") + len("://") + parts.netloc.index(":") + 1
            return start + min(SHORT, len(parts.password)), len(value) - start - len(parts.password) + SHORT
    return PART, PART


def _without_part(text: str, value: str, least: int) -> str:
    """Return the text with beginnings of a value masked that have at least `least` characters."""
    start, parts, place = value[:least], [], 0
    while (found := text.find(start, place)) >= 0:
        end = found + least
        while end < len(text) and end - found < len(value) and text[end] == value[end - found]:
            end += 1
        parts += [text[place:found], MASK]
        place = end
    return "".join([*parts, text[place:]])


def masked(application: str, text: str, root: str = "/") -> str:
    """Return a text with the application's secrets masked, including passwords in secrets that are URLs."""
    return mask_of(application, root)(text)


def mask_of(application: str, root: str = "/") -> Callable[[str], str]:
    """Return a function that masks the application's secrets, which are read once."""
    return mask_of_folders(pathlib.Path(root, "etc", application, name) for name in ("secrets", "migration-secrets"))


def mask_of_folders(folders: Iterable[str | pathlib.Path]) -> Callable[[str], str]:
    """Return a function that masks the secrets in some folders, one per file; ignores ''."""
    values = set()
    for folder in folders:
        for path in pathlib.Path(folder).glob("*") if folder else ():
            try:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    values |= set(_forms(credential.read(path).decode().strip()))
            except credential.CredentialError as error:
                # a process that started earlier may have the secret, and have printed it
                why = f"[not shown: a secret can't be decrypted on this host, so it can't be masked ({error}). Run "
                why += "playbooks/configure.yml, which encrypts the secrets again.]"
                return lambda text: why if text else ""
    return lambda text: without(text, values)


def _forms(value: str) -> Iterator[str]:
    """Yield a value and the parts that an application may print: lines, strings in JSON, the password of a URL."""
    yield value
    yield from (line.strip() for line in value.splitlines())
    if value.startswith(("{", "[")):
        with contextlib.suppress(untrusted.UntrustedError):
            yield from (text for text in _texts(untrusted.parse(value)) if len(text) >= PART)
    with contextlib.suppress(ValueError):
        if password := urllib.parse.urlsplit(value).password:
            yield password
            yield urllib.parse.unquote(password)


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, list | dict):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _texts(one)
