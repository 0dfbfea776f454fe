"""The settings of an application's scheduled commands (`app_schedules`): validation, and those of one host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .command_settings import SECONDS, Kind, Rule, is_line, name_problems, setting_problems
from .settings import shown

DEFAULTS: dict[str, Any] = {
    "command": "",
    "calendar": "",
    "hosts": "first",
    "timeout": 3600,
    "catch_up": True,
    "overlap": "forbid",
    "memory_max": "",
    "environment": {},
}


def calendars(given: Any) -> list[str]:
    """Return the calendar expressions of a schedule, given as one or as a list."""
    return [str(one).strip() for one in given] if isinstance(given, list | tuple) else [str(given).strip()]


def on_host(schedules: Mapping[str, Mapping[str, Any]], *, first: bool) -> dict[str, dict[str, Any]]:
    """Return each command with all its settings for one host; `runs` is whether it runs there.

    `schedules`: valid settings (see `problems`). `first`: whether the host is the one of `hosts: first`.
    """
    found = {}
    for name, given in schedules.items():
        one = DEFAULTS | dict(given)
        found[name] = one | {
            "command": one["command"].strip(),
            "calendar": calendars(one["calendar"]),
            "timeout": int(one["timeout"]),
            "memory_max": str(one["memory_max"]),
            "runs": first or one["hosts"] == "all",
        }
    return found


def for_activation(schedules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the content of /etc/<app>/schedules.json, from the result of `on_host`."""
    return {name: {key: one[key] for key in ("command", "runs", "timeout")} for name, one in schedules.items()}


def for_preflight(schedules: Any) -> list[dict[str, str]]:
    """Return the calendar expressions that a host must check, each with the setting. The settings may be invalid."""
    found = []
    if isinstance(schedules, Mapping):
        for name, given in schedules.items():
            if isinstance(given, Mapping) and _is_calendar(given.get("calendar")):
                found += [
                    {"setting": f"app_schedules.{name}.calendar", "calendar": one}
                    for one in calendars(given["calendar"])
                ]
    return found


def problems(
    schedules: Any, application: str, processes: Any, secrets: Iterable[str] = (), others: Iterable[str] = ()
) -> list[str]:
    """Return a sentence with the fix for each invalid setting. Only hosts can check calendar expressions.

    `processes`: the application's process types. `secrets`: names of its secrets. `others`: units on the host with the
    application's name as prefix that Baton didn't write.
    """
    if not isinstance(schedules, Mapping):
        return [
            f"app_schedules is {shown(schedules)}. Give a mapping of names to settings, such as "
            'app_schedules: {cleanup: {command: links-cleanup, calendar: "*-*-* 03:00"}}.'
        ]
    found: list[str] = []
    types = set(processes) if isinstance(processes, Mapping) else set()
    for name, given in schedules.items():
        wrong = _name_problems(name, application, types, set(others))
        found += wrong or setting_problems(KIND, f"app_schedules.{name}", _with_calendar(given), set(secrets))
    return found


def _name_problems(name: Any, application: str, types: set[str], others: set[str]) -> list[str]:
    units = (f"{application}-{name}.service", f"{application}-{name}.timer")
    if name in types:
        return [f"app_schedules.{name}: app_processes has a type with the same name. Rename one of them."]
    return name_problems("app_schedules", KIND.name, name, units, others)


def _with_calendar(given: Any) -> Any:
    """Return a schedule's settings with an empty calendar if it is missing, so that the check reports it."""
    return {"calendar": "", **given} if isinstance(given, Mapping) else given


def _is_calendar(value: Any) -> bool:
    times = list(value) if isinstance(value, list | tuple) else [value]
    return bool(times) and all(isinstance(one, str) and one.strip() and is_line(one) for one in times)


_RULES: dict[str, Rule] = {
    "calendar": (
        _is_calendar,
        'Give a calendar expression of systemd.time(7), such as "*-*-* 03:00" or "Mon..Fri 08..18:00/15", or a list '
        "of them.",
    ),
    "timeout": SECONDS,
    "catch_up": (lambda value: isinstance(value, bool), "Give true or false."),
    "overlap": (lambda value: value == "forbid", "Two runs never overlap on a host. Give forbid, or omit it."),
}
KIND = Kind("schedule", "`command` and `calendar`", DEFAULTS, {"hosts": ("all", "first")}, _RULES)
