r"""The service's environment: a file with plain variables, and systemd credentials for secrets.

The file is a systemd `EnvironmentFile=` restricted to lines of the form `NAME="value"`, in which `\`, `"`, `$` and
a backtick are escaped by a backslash, comment lines (`#`) and blank lines. systemd and this module read it alike.
gunicorn.conf.py reads it again at each reload, so that a HUP applies changed variables:

    from gunicorn_handover import environment
    raw_env = environment.raw_env("/etc/links/environment")
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r'(?P<name>[A-Za-z_][A-Za-z0-9_]*)="(?P<value>(?:[^"\\$`]|\\["\\$`])*)"[ \t]*')
_ESCAPE = re.compile(r'["\\$`]')
_UNESCAPE = re.compile(r'\\(["\\$`])')


class EnvironmentFileError(ValueError):
    """The environment can't be read. The message names the place and the fix, and never contains a value."""


def read(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the variables in the file at `path`. Raises OSError, and EnvironmentFileError for an invalid line."""
    try:
        # newline="\n": a lone carriage return is part of a value, as in systemd
        with open(path, encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError as error:
        raise EnvironmentFileError(f"{os.fspath(path)} is not UTF-8. Save it as UTF-8.") from error
    variables = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip(" \t"))
        if match is None or "\0" in line:
            raise EnvironmentFileError(
                f'{os.fspath(path)}, line {number}: not a variable of the form NAME="value". '
                'Put the value in double quotes, and a backslash before each \\, ", $ and ` in it.'
            )
        variables[match["name"]] = _UNESCAPE.sub(r"\1", match["value"])
    return variables


def line(name: str, value: str) -> str:
    """The line that `read` parses into `name` and `value`. Raises EnvironmentFileError if no line can hold them."""
    if not NAME.fullmatch(name):
        raise EnvironmentFileError(f"{name!r} is not a valid variable name. Use letters, digits and underscores.")
    if "\n" in value or "\0" in value:
        raise EnvironmentFileError(f"The value of {name} contains a line break or NUL. Pass it as a secret instead.")
    return f'{name}="' + _ESCAPE.sub(r"\\\g<0>", value) + '"'


def raw_env(path: str | os.PathLike[str]) -> list[str]:
    """The file at `path` in the form of Gunicorn's `raw_env` setting. Raises as `read` does."""
    return [f"{name}={value}" for name, value in read(path).items()]


def credentials(directory: str | None) -> dict[str, str]:
    """The files in systemd's `$CREDENTIALS_DIRECTORY` whose names are valid variable names, without one final newline.

    Raises OSError, or EnvironmentFileError for a credential that can't be a variable's value.
    """
    if not directory:
        return {}
    found = {}
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not NAME.fullmatch(entry.name) or not entry.is_file():
                continue
            with open(entry.path, "rb") as file:
                content = file.read()
            if b"\0" in content:
                raise EnvironmentFileError(
                    f"The credential {entry.name} contains a NUL, which a variable can't hold. "
                    "Put a dot or dash in its name, and let the application read the file."
                )
            found[entry.name] = os.fsdecode(content.removesuffix(b"\n"))
    return found


def export_credentials(environ: MutableMapping[str, str]) -> frozenset[str]:
    """Adds the credentials to `environ`, replacing variables of the same names, and returns their names. Raises as
    `credentials` does.
    """
    found = credentials(environ.get("CREDENTIALS_DIRECTORY"))
    environ.update(found)
    return frozenset(found)
