"""What the settings of process types and schedules have in common: names, a command, and what a unit is given."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import settings

# what the application's other units are called by
RESERVED = ("web", "bridge", "rehearsal", "migration", "check")
_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# systemd.resource-control(5): bytes, with a binary suffix or none, a share of the host's memory, or no limit
_MEMORY = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?[KMGTPE%]?|infinity")

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and the fix."""


def whole_number(value: Any) -> int | None:
    """A whole number above 0, be it written as a text; None for anything else."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        return None
    return int(str(value))


def is_line(value: Any) -> bool:
    return isinstance(value, str) and not re.search(r"[\r\n\0]", value.strip())


def is_memory(value: Any) -> bool:
    return value == "" or (not isinstance(value, bool) and _MEMORY.fullmatch(str(value)) is not None)


ONE_LINE: Rule = (is_line, "Give one line of text; what takes several belongs into a script of the application.")
SECONDS: Rule = (lambda value: whole_number(value) is not None, "Give whole seconds, above 0.")
MEMORY: Rule = (is_memory, "Give a value for systemd's MemoryMax, such as 512M, 2G or 25%; omit it for no limit.")


def _no_problem(_where: str, _command: str) -> Iterator[str]:
    return iter(())


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of unit with a command: its settings with their defaults, and what each of them may be."""

    name: str
    needs: str  # what a mapping of settings must have, for a message
    defaults: Mapping[str, Any]
    choices: Mapping[str, Sequence[str]]
    rules: Mapping[str, Rule]
    command: Callable[[str, str], Iterator[str]] = _no_problem  # sentences about a command of one line


def of_name(setting: str, kind: str, name: Any, units: Iterable[str], others: set[str]) -> list[str]:
    """Why a name can't be that of a process type or schedule, whose units are given; at most one sentence."""
    if name in RESERVED:
        return [
            f"{setting}.{name}: {name} is a name of Baton's own. Call the {kind} otherwise"
            + (", and set up the web processes by app_service_*." if name == "web" else ".")
        ]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [
            f"{setting} has a {kind} called {shown(name)}. Use at most 32 lower-case letters, digits and "
            '"_", a letter first.'
        ]
    return [
        f"{setting}.{name}: the host has a unit {unit} that Baton didn't write. Call the {kind} otherwise, "
        "or remove that unit."
        for unit in units
        if unit in others
    ][:1]


def of_settings(kind: Kind, where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    """A sentence for each setting of one unit that can't be; `secrets` are the names of the application's."""
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping with {kind.needs}."
        return
    for key in given:
        if key not in kind.defaults:
            near = difflib.get_close_matches(str(key), kind.defaults, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Use {', '.join(kind.defaults)}."
            yield f"{where}.{key} is no setting of a {kind.name}. {fix}"
    if not str(given.get("command") or "").strip():
        yield f"{where}.command is missing or empty. Give the command that runs in the release."
    elif is_line(given["command"]):
        yield from kind.command(f"{where}.command", given["command"])
    else:
        yield f"{where}.command is {shown(given['command'])}. {ONE_LINE[1]}"
    for key, (is_right, fix) in {**kind.rules, "memory_max": MEMORY}.items():
        if key in given and not is_right(given[key]):
            yield f"{where}.{key} is {shown(given[key])}. {fix}"
    for key, choices in kind.choices.items():
        if key in given and given[key] not in choices:
            yield f"{where}.{key} is {shown(given[key])}. Give {', '.join(choices[:-1])} or {choices[-1]}."
    yield from _of_environment(f"{where}.environment", given.get("environment", {}), secrets)


def _of_environment(where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping of names to values."
        return
    for name, value in given.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            yield f'{where} has {shown(name)}, which is no name of a variable. Use letters, digits and "_".'
        elif settings.reserved_variables([name]):
            yield f"{where}.{name} can't be set: the units set it for each release. Take it out."
        elif name in secrets:
            yield f"{where}.{name} is among app_config_secrets, too, which would win. Keep one of them."
        elif isinstance(value, float):
            yield f"{where}.{name} is a number with a point, of which YAML may drop a digit. Write it in quotes."
        elif not isinstance(value, str | int) or re.search(r"[\r\n\0]", str(value)):
            yield f"{where}.{name} is no text of one line. Write one, in quotes."


def shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
