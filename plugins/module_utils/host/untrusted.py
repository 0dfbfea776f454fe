"""Read input of applications, clients, packages and hosts, bounded in size, depth and type.

`parse` reads untrusted JSON, `read` files that others can write, and `printable` escapes text for a terminal. Results
contain no infinite numbers, no lone surrogates, and no nesting so deep that it would overflow a recursion.
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
LATEST = 250_000_000_000  # seconds since the epoch that datetime can represent; in the year 9892
TEXT = 64 * 1024  # characters of a string that are kept

_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r(?=\n)")  # and Windows' line ends
# control characters, bidirectional and line-ending characters, surrogates, tags
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[]}]', re.DOTALL)


class UntrustedError(ValueError):
    """The input is invalid or too large. The message says why."""


def parse(text: str | bytes, size: int = SIZE, depth: int = DEPTH) -> Any:
    """Parse JSON. Raises UntrustedError if it is invalid, too large, too deep, or has duplicate keys.

    Numbers that aren't finite, or with more than 64 bits, are returned as strings: no field of Baton's has such values.
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
        raise UntrustedError(f"it is not valid JSON: {error}") from None


def parse_object(text: str | bytes, size: int = SIZE) -> dict[str, Any]:
    """Parse a JSON object. Raises UntrustedError."""
    found = parse(text, size)
    if not isinstance(found, dict):
        raise UntrustedError("it is not an object")
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
        raise UntrustedError("it has duplicate keys")
    return found


def _integer(digits: str) -> int | str:
    # Python refuses to convert thousands of digits
    return digits if len(digits) > 20 or abs(int(digits)) >= LARGEST else int(digits)


def _finite(digits: str) -> float | str:
    return found if math.isfinite(found := float(digits)) else digits


def _whole(found: Any) -> Any:
    """Return the value with lone surrogates replaced, which can't be encoded."""
    if isinstance(found, str):
        return _SURROGATE.sub("\ufffd", found)
    if isinstance(found, list):
        return [_whole(one) for one in found]
    if isinstance(found, dict):
        return {_SURROGATE.sub("\ufffd", key): _whole(one) for key, one in found.items()}
    return found


def text(found: Any, longest: int = TEXT) -> str:
    """Return a string, truncated if too long; a number as a string; empty for anything else."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    return found[:longest] if isinstance(found, str) else ""


def number(found: Any) -> float:
    """Return a finite number; 0 for anything else."""
    if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
        return float(found)
    return 0.0


def whole_number(found: Any) -> int:
    """Return a whole number of at most 64 bits; 0 for anything else."""
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < LARGEST:
        return found
    return 0


def moment(found: Any) -> float:
    """Return a time in seconds since the epoch that datetime can represent; 0 for anything else."""
    return time if 0 <= (time := number(found)) < LATEST else 0.0


def mapping(found: Any) -> Mapping[str, Any]:
    """Return a mapping; an empty one for anything else."""
    return found if isinstance(found, Mapping) else {}


def objects(found: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; empty for anything else."""
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []


def texts(found: Any) -> list[str]:
    """Return the strings in a list; empty for anything else."""
    return [one for one in found if isinstance(one, str)] if isinstance(found, list | tuple) else []


def read(path: str | os.PathLike[str], size: int = SIZE, *, follow: bool = False) -> bytes:
    """Read a regular file of at most `size` bytes, and no symlink unless `follow`. Raises OSError for anything else.

    Where others can write, there could be a pipe that blocks, a link to an endless or secret file, or a device, which
    must not even be opened.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(f"{path} is not a regular file")
        with open(f"/proc/self/fd/{found}", "rb") as file:
            content = file.read(size + 1)
    finally:
        os.close(found)
    if len(content) > size:
        raise OSError(f"{path} is larger than {size} bytes")
    return content


def printable(text: str) -> str:
    """Return a text without colours, and with other control and invisible characters escaped."""
    return _CONTROL.sub(_escaped, _COLOURS.sub("", text))


def line(text: str) -> str:
    """Return a text with line breaks replaced: the next line could imitate other output."""
    return text.replace("\r", " ").replace("\n", " ")


def _escaped(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
