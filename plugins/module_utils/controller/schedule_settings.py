"""The settings of an application's scheduled commands (`app_schedules`): what can't be, and a host's share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .command_settings import SECONDS, Kind, Rule, is_line, of_name, of_settings, shown

DEFAULTS: dict[str, Any] = {
    "command": "",
    "calendar": "",
    "hosts": "first",
    "timeout": 3600,
    "catch_up": True,
    "memory_max": "",
    "environment": {},
}


def calendars(given: Any) -> list[str]:
    """The times of a schedule, of which there may be several."""
    return [str(one).strip() for one in given] if isinstance(given, list | tuple) else [str(given).strip()]


def on_host(schedules: Mapping[str, Mapping[str, Any]], *, first: bool) -> dict[str, dict[str, Any]]:
    """Each command with all its settings as one host has them; `runs` says whether it runs there.

    `schedules` has no `problems`. `first` says whether the host is the first of the app servers.
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
    """What an activation must know of each command of `on_host`, as /etc/<app>/schedules.json has it."""
    return {name: {"runs": one["runs"]} for name, one in schedules.items()}


def of_preflight(schedules: Any) -> list[dict[str, str]]:
    """The times that a host is to parse, each with the setting; nothing has checked the settings."""
    found = []
    if isinstance(schedules, Mapping):
        for name, given in schedules.items():
            if isinstance(given, Mapping) and given.get("calendar"):
                found += [
                    {"setting": f"app_schedules.{name}.calendar", "calendar": one}
                    for one in calendars(given["calendar"])
                ]
    return found


def problems(
    schedules: Any, application: str, processes: Any, secrets: Iterable[str] = (), others: Iterable[str] = ()
) -> list[str]:
    """A sentence for each setting that can't be, with the fix.

    `processes` are the application's process types, `secrets` the names of its secrets, `others` the host's units of
    its name that Baton didn't write. Whether a calendar is one, a host says.
    """
    if not isinstance(schedules, Mapping):
        return [
            f"app_schedules is {shown(schedules)}. Give a mapping of names to settings, such as "
            'app_schedules: {cleanup: {command: links-cleanup, calendar: "*-*-* 03:00"}}.'
        ]
    found: list[str] = []
    types = set(processes) if isinstance(processes, Mapping) else set()
    for name, given in schedules.items():
        wrong = _of_name(name, application, types, set(others))
        found += wrong or of_settings(KIND, f"app_schedules.{name}", _with_calendar(given), set(secrets))
    return found


def _of_name(name: Any, application: str, types: set[str], others: set[str]) -> list[str]:
    units = (f"{application}-{name}.service", f"{application}-{name}.timer")
    if name in types:
        return [f"app_schedules.{name}: app_processes has a type of that name. Call one of them otherwise."]
    return of_name("app_schedules", KIND.name, name, units, others)


def _with_calendar(given: Any) -> Any:
    """The settings of a schedule, which has to have a calendar, so that one that is missing is told of."""
    return {"calendar": "", **given} if isinstance(given, Mapping) else given


def _is_calendar(value: Any) -> bool:
    times = list(value) if isinstance(value, list | tuple) else [value]
    return bool(times) and all(isinstance(one, str) and one.strip() and is_line(one) for one in times)


_RULES: dict[str, Rule] = {
    "calendar": (
        _is_calendar,
        'Give when it runs as systemd.time(7) writes it, such as "*-*-* 03:00" or "Mon..Fri 08..18:00/15", or a list '
        "of such.",
    ),
    "timeout": SECONDS,
    "catch_up": (lambda value: isinstance(value, bool), "Give true or false."),
}
KIND = Kind("schedule", "`command` and `calendar`", DEFAULTS, {"hosts": ("all", "first")}, _RULES)
