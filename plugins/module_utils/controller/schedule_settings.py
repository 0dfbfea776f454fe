"""The settings of an application's scheduled commands (`app_schedules`): what can't be, and a host's share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import process_settings
from .process_settings import ONE_LINE, SECONDS, is_line, shown, whole_number

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
        found += wrong or _of_settings(f"app_schedules.{name}", given, set(secrets))
    return found


def _of_name(name: Any, application: str, types: set[str], others: set[str]) -> list[str]:
    units = (f"{application}-{name}.service", f"{application}-{name}.timer")
    if name in types:
        return [f"app_schedules.{name}: app_processes has a type of that name. Call one of them otherwise."]
    return process_settings.of_name("app_schedules", "schedule", name, units, others)


def _of_settings(where: str, given: Any, secrets: set[str]) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{where} is {shown(given)}. Give a mapping with `command` and `calendar`."
        return
    for key in given:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(str(key), DEFAULTS, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Use {', '.join(DEFAULTS)}."
            yield f"{where}.{key} is no setting of a schedule. {fix}"
    if not str(given.get("command") or "").strip():
        yield f"{where}.command is missing or empty. Give the command that runs in the release."
    elif not is_line(given["command"]):
        yield f"{where}.command is {shown(given['command'])}. {ONE_LINE}"
    times = given.get("calendar") or ""
    if not times or not all(isinstance(one, str) and one.strip() and is_line(one) for one in _listed(times)):
        yield (
            f"{where}.calendar is {shown(times)}. Give when it runs as systemd.time(7) writes it, such as "
            '"*-*-* 03:00" or "Mon..Fri 08..18:00/15", or a list of such.'
        )
    if given.get("hosts", "first") not in ("all", "first"):
        yield f"{where}.hosts is {shown(given['hosts'])}. Give all or first."
    if whole_number(given.get("timeout", 1)) is None:
        yield f"{where}.timeout is {shown(given['timeout'])}. {SECONDS}"
    if not isinstance(given.get("catch_up", True), bool):
        yield f"{where}.catch_up is {shown(given['catch_up'])}. Give true or false."
    if not process_settings.is_memory(given.get("memory_max", "")):
        yield f"{where}.memory_max is {shown(given['memory_max'])}. {process_settings.MEMORY}"
    yield from process_settings.of_environment(f"{where}.environment", given.get("environment", {}), secrets)


def _listed(times: Any) -> list[Any]:
    return list(times) if isinstance(times, list | tuple) else [times]
