"""The checks that settings of process types and of schedules share: names, commands, and a unit's options."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import capacity, settings
from .settings import shown

# suffixes of the application's other units
RESERVED = ("web", "bridge", "rehearsal", "migration", "check")
_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
_DIRECTIVE = re.compile("[A-Z][A-Za-z0-9]*")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# systemd.resource-control(5): bytes, with or without a binary suffix, or a percentage of the host's memory
_MEMORY = re.compile(r"[0-9]{1,18}((\.[0-9]{1,9})?[KMGTPE]?|(\.[0-9]{1,2})?%)")
# MiB: a program needs more than the first; systemd ignores values above the second
LEAST_MEMORY, MOST_MEMORY = 16, 2**43

Rule = tuple[Callable[[Any], bool], str]
"""A function that returns whether a value is valid, and the fix."""


def whole_number(value: Any, most: int = 999_999_999) -> int | None:
    """Return a whole number from 1 to `most`, also from a string; None for anything else."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        return None
    number = int(str(value))
    return number if number <= most else None


def is_line(value: Any) -> bool:
    """Whether a value is a string of one line without control characters."""
    return isinstance(value, str) and settings.is_printable(value.strip())


def is_command(value: Any) -> bool:
    """Whether a value is a shell command of one line."""
    return is_line(value) and not value.strip().startswith("#")


def is_memory(value: Any) -> bool:
    """Whether a value is valid for MemoryMax, with room for a program, or empty."""
    text = str(value)
    if text in ("", "infinity"):
        return True
    if isinstance(value, bool) or not _MEMORY.fullmatch(text):
        return False
    if text.endswith("%"):
        return 0 < float(text[:-1]) <= 100
    return LEAST_MEMORY <= capacity.megabytes(text, 0) < MOST_MEMORY


COMMAND: Rule = (
    is_command,
    "Give one line of text that isn't a comment; put longer commands into a script of the application.",
)
SECONDS: Rule = (
    lambda value: whole_number(value, settings.WEEK) is not None,
    f"Give a whole number of seconds from 1 to {settings.WEEK}.",
)
MEMORY: Rule = (
    is_memory,
    f"Give a value for systemd's MemoryMax from {LEAST_MEMORY}M, such as 512M, 2G or 25%; omit it for "
    "85% of the host's memory, or set infinity for no limit.",
)


def _no_problem(_where: str, _command: str) -> Iterator[str]:
    return iter(())


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of unit with a command: its settings, their defaults and valid values."""

    name: str
    needs: str  # the required settings, for a message
    defaults: Mapping[str, Any]
    choices: Mapping[str, Sequence[str]]
    rules: Mapping[str, Rule]
    command: Callable[[str, str], Iterator[str]] = _no_problem  # yields the problems of a one-line command


def name_problems(setting: str, kind: str, name: Any, units: Iterable[str], others: set[str]) -> list[str]:
    """Return why a name is invalid for a process type or schedule with these units; at most one sentence."""
    if name in RESERVED:
        return [
            f"{setting}.{name}: Baton uses the name {name} itself. Give the {kind} another name"
            + (", and configure the web processes with app_service_*." if name == "web" else ".")
        ]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [
            f"{setting} has a {kind} called {shown(name)}. Use at most 32 lower-case letters, digits and "
            '"_", beginning with a letter.'
        ]
    return [
        f"{setting}.{name}: the host has a unit {unit} that Baton didn't write. Give the {kind} another name, "
        "or remove that unit."
        for unit in units
        if unit in others
    ][:1]


def setting_problems(kind: Kind, where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    """Yield a sentence for each invalid setting of one unit. `secrets`: names of the application's secrets."""
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping with {kind.needs}."
        return
    for key in given:
        if key not in kind.defaults:
            near = difflib.get_close_matches(str(key), kind.defaults, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Use {', '.join(kind.defaults)}."
            yield f"{where}.{key} is not a setting of a {kind.name}. {fix}"
    if not str(given.get("command") or "").strip():
        yield f"{where}.command is missing or empty. Give the command that runs in the release."
    elif is_command(given["command"]):
        yield from kind.command(f"{where}.command", given["command"])
    else:
        yield f"{where}.command is {shown(given['command'])}. {COMMAND[1]}"
    for key, (is_right, fix) in {**kind.rules, "memory_max": MEMORY}.items():
        if key in given and not is_right(given[key]):
            yield f"{where}.{key} is {shown(given[key])}. {fix}"
    for key, choices in kind.choices.items():
        if key in given and given[key] not in choices:
            yield f"{where}.{key} is {shown(given[key])}. Give {', '.join(choices[:-1])} or {choices[-1]}."
    yield from _environment_problems(f"{where}.environment", given.get("environment", {}), secrets)


def _environment_problems(where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping of names to values."
        return
    for name, value in given.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            yield f'{where} has {shown(name)}, which is not a valid variable name. Use letters, digits and "_".'
        elif settings.reserved_variables([name]):
            yield f"{where}.{name} can't be set: the units set it for each release. Remove it."
        elif name in secrets:
            yield f"{where}.{name} is also in app_config_secrets, which would override it. Remove one of them."
        elif isinstance(value, float):
            yield f"{where}.{name} is a decimal number, of which YAML may drop digits. Write it in quotes."
        elif not isinstance(value, str | int) or not settings.is_printable(str(value)):
            yield f"{where}.{name} is not a text of one line without control characters. Write one, in quotes."


def directive_problems(directives: Mapping[str, Any], setting: str) -> list[str]:
    """Return a sentence for each invalid directive of a unit. `setting`: the mapping's name."""
    found = []
    for name, given in directives.items():
        values = given if isinstance(given, list | tuple) else [given]
        if not isinstance(name, str) or not _DIRECTIVE.fullmatch(name):
            found.append(f"{setting} has {shown(name)}, which isn't a directive's name, such as ReadWritePaths.")
        elif not all(_is_directive_value(value) for value in values):
            found.append(
                f"{setting}.{name} is {shown(given)}. Give a text of one line, a number, true or false, or a list of "
                "these."
            )
    return found


def _is_directive_value(value: Any) -> bool:
    # an empty value resets a directive
    return value is None or isinstance(value, bool | int | float) or is_line(value)
