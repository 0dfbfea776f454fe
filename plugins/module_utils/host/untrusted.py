"""Text that an application, a client, a package or a host wrote: read here, bounded in size, depth and type.

All JSON of others goes through `parse`, all files that others may write through `read`, and what a terminal is given
through `printable`. What comes out holds no number that isn't one, no half of a character, and nothing that is nested
so deeply that it ends whoever walks through it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from typing import Any

SIZE = 2**22  # characters of JSON
DEPTH = 32
LARGEST = 2**63  # of whole numbers
LATEST = 250_000_000_000  # seconds since the epoch that a calendar has; in the year 9892
TEXT = 64 * 1024  # characters of one text that is kept

_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r(?=\n)")  # and the line ends of Windows
# besides control characters: those that turn the direction of writing or end a line, halves of characters, tags
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
_HALF = re.compile("[\ud800-\udfff]")
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[]}]', re.DOTALL)


class UntrustedError(ValueError):
    """The text isn't what it should be, or more than is read. The message says why."""


def parse(text: str | bytes, size: int = SIZE, depth: int = DEPTH) -> Any:
    """What JSON says. Raises UntrustedError for what is no JSON, too large, too deep, or says something twice.

    A number that isn't finite, or that has more than 64 bits, is its text: no field of ours holds such a one.
    """
    if len(text) > size:
        raise UntrustedError(f"it is larger than {size} characters")
    if isinstance(text, bytes | bytearray):
        text = text.decode("utf-8", "replace")
    if _deeper(text, depth):
        raise UntrustedError(f"it is nested more than {depth} deep")
    try:
        return _whole(
            json.loads(
                text,
                object_pairs_hook=_object,
                parse_int=_integer,
                parse_float=_finite,
                parse_constant=str,
            )
        )
    except UntrustedError:
        raise
    except (ValueError, RecursionError) as error:
        raise UntrustedError(f"it is no JSON: {error}") from None


def parse_object(text: str | bytes, size: int = SIZE, depth: int = DEPTH) -> dict[str, Any]:
    """As `parse`, for what must be an object."""
    found = parse(text, size, depth)
    if not isinstance(found, dict):
        raise UntrustedError("it is no object")
    return found


def _deeper(text: str, most: int) -> bool:
    level = 0
    for found in _NESTING.finditer(text):
        if found[0] in "[{":
            level += 1
            if level > most:
                return True
        elif found[0] in "]}":
            level -= 1
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UntrustedError("it says something twice")
    return found


def _integer(digits: str) -> int | str:
    # an int of thousands of digits can't even be made
    return digits if len(digits) > 20 or abs(int(digits)) >= LARGEST else int(digits)


def _finite(digits: str) -> float | str:
    return found if math.isfinite(found := float(digits)) else digits


def _whole(found: Any) -> Any:
    """The value without halves of characters, which can't be written anywhere."""
    if isinstance(found, str):
        return _HALF.sub("\ufffd", found)
    if isinstance(found, list):
        return [_whole(one) for one in found]
    if isinstance(found, dict):
        return {_HALF.sub("\ufffd", key): _whole(one) for key, one in found.items()}
    return found


def text(found: Any, longest: int = TEXT) -> str:
    """A text, cut where it is too long; of a number its digits; empty for anything else."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    return found[:longest] if isinstance(found, str) else ""


def number(found: Any, default: float = 0.0) -> float:
    """A finite number; the default for anything else."""
    if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
        return float(found)
    return default


def whole_number(found: Any, default: int = 0) -> int:
    """A whole number of at most 64 bits; the default for anything else."""
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < LARGEST:
        return found
    return default


def moment(found: Any) -> float:
    """A time in seconds since the epoch that a calendar has; 0 for anything else."""
    return time if 0 <= (time := number(found)) < LATEST else 0.0


def mapping(found: Any) -> Mapping[str, Any]:
    """An object; an empty one for anything else."""
    return found if isinstance(found, Mapping) else {}


def objects(found: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; none for anything else."""
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []


def texts(found: Any) -> list[str]:
    """The texts of a list; none for anything else."""
    return [one for one in found if isinstance(one, str)] if isinstance(found, list | tuple) else []


def read(path: str | os.PathLike[str], size: int = SIZE, *, follow: bool = False) -> bytes:
    """A regular file of at most so many bytes. Raises OSError for anything else.

    Where others may write, there could be a pipe that never says anything, or a link to what has no end or isn't theirs
    to show; and of a device it can be too much to be opened.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(f"{path} is no file")
        with open(f"/proc/self/fd/{found}", "rb") as file:
            content = file.read(size + 1)
    finally:
        os.close(found)
    if len(content) > size:
        raise OSError(f"{path} is larger than {size} bytes")
    return content


def printable(said: str) -> str:
    """The text without colours, and with what else a terminal would obey, or hide, spelled out."""
    return _CONTROL.sub(_spelled, _COLOURS.sub("", said))


def _spelled(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
