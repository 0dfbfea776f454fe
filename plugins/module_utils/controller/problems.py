"""The problems that the checks before a change find: collected over all hosts and checks, and reported together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..change import outcome
from ..host import untrusted

# begin Ansible's own messages about a task whose expressions it couldn't evaluate
UNEVALUATED = ("Task failed: ", "Error rendering template: ", "The filter plugin ")


@dataclasses.dataclass
class Problems:
    """Each problem with its hosts, in the order in which they were found."""

    found: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unevaluated: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, host: str, result: Mapping[str, Any], *, of_all: bool) -> None:
        """Add a failed task's messages. `of_all`: whether it checked all hosts, and its messages name the host."""
        items = untrusted.objects(result.get("results"))
        failed = [item for item in items if item.get("failed") or item.get("unreachable")]
        for message in [message for one in failed or [result] for message in outcome.messages(one)]:
            found = self.unevaluated if message.startswith(UNEVALUATED) else self.found
            if of_all or message.startswith(f"{host} "):
                found.setdefault(message, [])
            else:
                hosts = found.setdefault(f": {message.removeprefix(f'{host}: ')}", [])
                hosts += [host] if host not in hosts else []

    def text(self) -> str:
        """Return the problems as one message; empty for none.

        A check that couldn't be evaluated mostly depends on the result of another one. It is left out if there are
        other problems: the next run evaluates it.
        """
        lines = [f"{', '.join(sorted(hosts))}{message}" for message, hosts in (self.found or self.unevaluated).items()]
        if len(lines) < 2:
            return "".join(lines)
        # the second line of a message can't imitate another one
        return "\n- ".join([f"{len(lines)} problems. Nothing has been changed.", *(_indented(line) for line in lines)])


def _indented(message: str) -> str:
    return message.replace("\n", "\n  ")
