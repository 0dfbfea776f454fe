"""The settings of an application's process types beside `web` (`app_processes`): what can't be, and a host's share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .command_settings import ONE_LINE, SECONDS, Kind, Rule, of_name, of_settings, shown, whole_number

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
    "database_connections": 1,
    "environment": {},
}
CHOICES = {
    "hosts": ("all", "first"),
    "strategy": ("overlap", "replace"),
    "order": ("before_web", "after_web"),
    "stop_signal": ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2"),
}
CORES = "cores"
_OPERATOR = re.compile("[;&|()]+")  # but of redirections
_KEYWORDS = ("if", "for", "while", "until", "case", "{", "!")


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
            **{key: int(one[key]) for key in ("stop_timeout", "settle_seconds", "database_connections")},
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
        yield f"{where} is {shown(command)}, in which a quote isn't closed. Close it."
    elif "exec" not in words and (words[0] in _KEYWORDS or any(_OPERATOR.fullmatch(word) for word in words)):
        yield (
            f"{where} is {shown(command)}, of which the shell would get the stop signal, and the rest be killed. Say "
            "`exec` before the command that is to run and be told to stop."
        )
    elif "exec" not in words and re.match("[A-Za-z_][A-Za-z0-9_]*=", words[0]):
        yield f"{where} is {shown(command)}, and sets a variable. Set it in `environment` of the process type."


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
        wrong = of_name("app_processes", KIND.name, name, _units(application, name), set(others))
        found += wrong or of_settings(KIND, f"app_processes.{name}", given, set(secrets))
    return found


def _units(application: str, name: Any) -> tuple[str, ...]:
    return (f"{application}-{name}@.service", f"{application}-{name}-check@.service")


_RULES: dict[str, Rule] = {
    "check": ONE_LINE,
    "count": (
        lambda value: value == CORES or whole_number(value) is not None,
        f"Give a number above 0, or {CORES} for as many as the host has; take the type out to have none.",
    ),
    "stop_timeout": SECONDS,
    "settle_seconds": SECONDS,
    "database_connections": (
        lambda value: whole_number(value) is not None or str(value) == "0",
        "Give a whole number, 0 for none.",
    ),
}
KIND = Kind("process type", "`command` at least", DEFAULTS, CHOICES, _RULES, _of_command)
