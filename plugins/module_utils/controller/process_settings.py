"""The settings of an application's process types beside `web` (`app_processes`): what can't be, and a host's share."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import settings

DEFAULTS: dict[str, Any] = {
    "command": "",
    "count": 1,
    "hosts": "all",
    "strategy": "overlap",
    "order": "before_web",
    "stop_signal": "TERM",
    "stop_timeout": 30,
    "settle_seconds": 5,
    "check": "",
    "memory_max": "",
    "environment": {},
}
CHOICES = {
    "hosts": ("all", "first"),
    "strategy": ("overlap", "replace"),
    "order": ("before_web", "after_web"),
    "stop_signal": ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2"),
}
CORES = "cores"
# what the application's other units are called by
RESERVED = ("web", "bridge", "rehearsal", "migration", "check")
_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
_OPERATOR = re.compile("[;&|()]+")  # but of redirections
_KEYWORDS = ("if", "for", "while", "until", "case", "{", "!")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# systemd.resource-control(5): bytes, with a binary suffix or none, a share of the host's memory, or no limit
_MEMORY = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?[KMGTPE%]?|infinity")


def whole_number(value: Any) -> int | None:
    """A whole number above 0, be it written as a text; None for anything else."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        return None
    return int(str(value))


def on_host(processes: Mapping[str, Mapping[str, Any]], *, first: bool, cores: int) -> dict[str, dict[str, Any]]:
    """Each type with all its settings as one host has them; `count` is 0 where it doesn't run there.

    `processes` has no `problems`. `first` says whether the host is the first of the app servers.
    """
    found = {}
    for name, given in processes.items():
        one = DEFAULTS | dict(given)
        count = cores if one["count"] == CORES else int(one["count"])
        found[name] = one | {
            "command": executed(one["command"]),
            "check": one["check"].strip(),
            "memory_max": str(one["memory_max"]),
            "count": count if first or one["hosts"] == "all" else 0,
            **{key: int(one[key]) for key in ("stop_timeout", "settle_seconds")},
        }
    return found


def executed(command: str) -> str:
    """The command so that its own process gets the stop signal: a shell would end by it, and the rest be killed."""
    words = _words(command) or []
    return command.strip() if "exec" in words else f"exec {command.strip()}"


def _words(command: str) -> list[str] | None:
    """The words and operators of a shell's line; None where a quote isn't closed."""
    try:
        return list(shlex.shlex(command, posix=True, punctuation_chars=True))
    except ValueError:
        return None


def _of_command(where: str, command: str) -> Iterator[str]:
    words = _words(command)
    if words is None:
        yield f"{where} is {_shown(command)}, in which a quote isn't closed. Close it."
    elif "exec" not in words and (words[0] in _KEYWORDS or any(_OPERATOR.fullmatch(word) for word in words)):
        yield (
            f"{where} is {_shown(command)}, of which the shell would get the stop signal, and the rest be killed. Say "
            "`exec` before the command that is to run and be told to stop."
        )
    elif "exec" not in words and re.match("[A-Za-z_][A-Za-z0-9_]*=", words[0]):
        yield f"{where} is {_shown(command)}, and sets a variable. Set it in `environment` of the process type."


def for_activation(processes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What an activation must know of each type of `on_host`, as /etc/<app>/processes.json has it."""
    keys = ("count", "strategy", "order", "settle_seconds", "stop_timeout")
    return {name: {key: one[key] for key in keys} | {"check": bool(one["check"])} for name, one in processes.items()}


def has_before_web(hosts: Iterable[Any]) -> bool:
    """Whether a release reaches one of these hosts' types before the web processes; `hosts` are their settings."""
    return any(
        isinstance(one, Mapping) and one.get("order", DEFAULTS["order"]) == "before_web"
        for processes in hosts
        if isinstance(processes, Mapping)
        for one in processes.values()
    )


def longest_stop(processes: Any) -> int:
    """Seconds that an activation may wait for the processes of a type to end; nothing has checked the settings."""
    given = [one for one in processes.values() if isinstance(one, Mapping)] if isinstance(processes, Mapping) else []
    waits = [whole_number(one.get("stop_timeout", DEFAULTS["stop_timeout"])) for one in given]
    return max((seconds or 0 for seconds in waits), default=0)


def problems(processes: Any, application: str, secrets: Iterable[str] = (), others: Iterable[str] = ()) -> list[str]:
    """A sentence for each setting that can't be, with the fix.

    `secrets` are the names of the application's secrets, `others` the host's units of the application's name that
    Baton didn't write.
    """
    if not isinstance(processes, Mapping):
        return [
            f"app_processes is {shown(processes)}. Give a mapping of names to settings, such as "
            "app_processes: {worker: {command: celery -A links.jobs worker}}."
        ]
    found: list[str] = []
    for name, given in processes.items():
        wrong = of_name("app_processes", "process type", name, _units(application, name), set(others))
        found += wrong or _of_settings(f"app_processes.{name}", given, set(secrets))
    return found


def _units(application: str, name: Any) -> tuple[str, ...]:
    return (f"{application}-{name}@.service", f"{application}-{name}-check@.service")


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


def _of_settings(where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping with `command` at least."
        return
    for key in given:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(str(key), DEFAULTS, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Use {', '.join(DEFAULTS)}."
            yield f"{where}.{key} is no setting of a process type. {fix}"
    if not str(given.get("command") or "").strip():
        yield f"{where}.command is missing or empty. Give the command that runs in the release."
    elif _is_line(given["command"]):
        yield from _of_command(f"{where}.command", given["command"])
    for key, (is_right, fix) in _RULES.items():
        if key in given and not is_right(given[key]):
            yield f"{where}.{key} is {shown(given[key])}. {fix}"
    for key, choices in CHOICES.items():
        if key in given and given[key] not in choices:
            yield f"{where}.{key} is {shown(given[key])}. Give {', '.join(choices[:-1])} or {choices[-1]}."
    yield from of_environment(f"{where}.environment", given.get("environment", {}), secrets)


def of_environment(where: str, given: Any, secrets: set[str]) -> Iterator[str]:
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


def is_line(value: Any) -> bool:
    return isinstance(value, str) and not re.search(r"[\r\n\0]", value.strip())


def is_memory(value: Any) -> bool:
    return value == "" or (not isinstance(value, bool) and _MEMORY.fullmatch(str(value)) is not None)


ONE_LINE = "Give one line of text; what takes several belongs into a script of the application."
MEMORY = "Give what systemd's MemoryMax takes, such as 512M, 2G or 25%; leave it out for no limit."
SECONDS = "Give whole seconds, above 0."
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "command": (lambda value: value is None or is_line(value), ONE_LINE),
    "check": (is_line, ONE_LINE),
    "count": (
        lambda value: value == CORES or whole_number(value) is not None,
        f"Give a number above 0, or {CORES} for as many as the host has; take the type out to have none.",
    ),
    "stop_timeout": (lambda value: whole_number(value) is not None, SECONDS),
    "settle_seconds": (lambda value: whole_number(value) is not None, SECONDS),
    "memory_max": (is_memory, MEMORY),
}


def shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
