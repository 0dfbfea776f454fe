"""The settings of an application's background process types (`app_processes`): validation, and those of one host."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..app import layout
from .command_settings import COMMAND, SECONDS, Kind, Rule, name_problems, setting_problems, whole_number
from .settings import shown

DEFAULTS: dict[str, Any] = {
    "command": "",
    "count": 1,
    "hosts": "all",
    "strategy": "overlap",
    "order": "",  # depends on the strategy: see `_complete`
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
    "strategy": layout.STRATEGIES,
    "order": ("before_web", "after_web"),
    "stop_signal": ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2"),
}
# what takes jobs gets a new release before the web processes enqueue its jobs; a scheduler, which may run only once,
# after the workers on all hosts, because it enqueues jobs itself
_ORDERS = {"overlap": "before_web", "replace": "after_web"}
CORES = "cores"
MOST = 1000  # processes of a type on a host
_OPERATOR = re.compile("[;&|()]+")  # a shell's operators except redirections
_KEYWORDS = ("if", "for", "while", "until", "case", "{", "!")


def _complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a type's settings with the defaults of those that aren't given. They may be invalid."""
    one = DEFAULTS | dict(given)
    return one | {"order": one["order"] or _ORDERS.get(str(one["strategy"]), "")}


def on_host(processes: Mapping[str, Mapping[str, Any]], *, first: bool, cores: int) -> dict[str, dict[str, Any]]:
    """Return each type with all its settings for one host; `count` is 0 if it doesn't run there.

    `processes`: valid settings (see `problems`). `first`: whether the host is the one of `hosts: first`.
    """
    found = {}
    for name, given in processes.items():
        one = _complete(given)
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
    """Return the command with `exec`, so that it gets the stop signal itself.

    Otherwise the shell would end on the signal, and systemd would kill the command.
    """
    words = _words(command) or []
    return command.strip() if "exec" in words else f"exec {command.strip()}"


def _words(command: str) -> list[str] | None:
    """Return the words and operators of a shell command; None if a quote isn't closed."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    # a shell's comments begin only between words; in one, an operator is refused, too
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:
        return None


def _command_problems(where: str, command: str) -> Iterator[str]:
    words = _words(command)
    if words is None:
        yield f"{where} is {shown(command)}, in which a quote isn't closed. Close the quote."
    elif "exec" not in words and (words[0] in _KEYWORDS or any(_OPERATOR.fullmatch(word) for word in words)):
        yield (
            f"{where} is {shown(command)}: the shell would get the stop signal, and the command would be killed. Write "
            "`exec` before the command that should get the signal."
        )
    elif "exec" not in words and re.match("[A-Za-z_][A-Za-z0-9_]*=", words[0]):
        yield f"{where} is {shown(command)}, which sets a variable. Set it in `environment` of the process type."


def for_activation(processes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the content of /etc/<app>/processes.json, from the result of `on_host`."""
    keys = ("command", "count", "strategy", "order", "settle_seconds", "stop_timeout", "check")
    return {name: {key: one[key] for key in keys} for name, one in processes.items()}


def has_before_web(hosts: Iterable[Any]) -> bool:
    """Whether any process type has `order: before_web`. `hosts`: each host's `app_processes`, possibly invalid."""
    return any(
        isinstance(one, Mapping) and _complete(one)["order"] == "before_web"
        for processes in hosts
        if isinstance(processes, Mapping)
        for one in processes.values()
    )


def longest_wait(processes: Any, hosts: int, waits: Mapping[str, int] | None = None) -> int:
    """Return the seconds that a change of so many hosts waits for process types at most. The settings may be invalid.

    `waits`: the stop_timeout of types on the hosts that an activation waits for; those that the settings no longer have
    are removed, at worst host by host.

    Each type is proven in an activation, and before that in a rehearsal if its processes may overlap; otherwise the
    activation first waits until the old ones have stopped. One host is first, then all others; types after the web
    processes take their turn with these, at worst host by host.
    """
    declared: Mapping[str, Any] = processes if isinstance(processes, Mapping) else {}
    removed = [timeout for name, timeout in (waits or {}).items() if name not in declared]
    seconds = hosts * sum(timeout + layout.STOP_MARGIN for timeout in removed)
    for given in declared.values():
        if not isinstance(given, Mapping):
            continue
        one = _complete(given)
        proof = (whole_number(one["settle_seconds"]) or 0) + (layout.CHECK_SECONDS if one["check"] else 0)
        if one["strategy"] == "replace":
            rehearsal, activation = 0, proof + (whole_number(one["stop_timeout"]) or 0) + layout.STOP_MARGIN
        else:
            rehearsal, activation = proof, proof
        seconds += 2 * rehearsal + (hosts if one["order"] == "after_web" else 2) * activation
    return seconds


def problems(processes: Any, application: str, secrets: Iterable[str] = (), others: Iterable[str] = ()) -> list[str]:
    """Return a sentence with the fix for each invalid setting.

    `secrets`: names of the application's secrets. `others`: units on the host with the application's name as prefix
    that Baton didn't write.
    """
    if not isinstance(processes, Mapping):
        return [
            f"app_processes is {shown(processes)}. Give a mapping of names to settings, such as "
            "app_processes: {worker: {command: celery -A links.jobs worker}}."
        ]
    found: list[str] = []
    for name, given in processes.items():
        wrong = name_problems("app_processes", KIND.name, name, _units(application, name), set(others))
        found += wrong or setting_problems(KIND, f"app_processes.{name}", given, set(secrets))
    return found


def _units(application: str, name: Any) -> tuple[str, ...]:
    return (f"{application}-{name}@.service", f"{application}-{name}-check@.service")


_RULES: dict[str, Rule] = {
    "check": COMMAND,
    "count": (
        lambda value: value == CORES or whole_number(value, MOST) is not None,
        f"Give a number from 1 to {MOST}, or {CORES} for one per processor core; to run none, remove the type.",
    ),
    "stop_timeout": SECONDS,
    "settle_seconds": SECONDS,
    "database_connections": (
        lambda value: whole_number(value) is not None or str(value) == "0",
        "Give a whole number, 0 for none.",
    ),
}
KIND = Kind("process type", "`command` at least", DEFAULTS, CHOICES, _RULES, _command_problems)
