"""Provide a run's identity, the durations of its plays, and the handling of Ctrl-C."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run
author: Baton contributors (!UNKNOWN)
type: aggregate
short_description: Provides a run's identity and the durations of its plays, makes Ctrl-C revert, and collects problems
description:
  - Tasks find the values in the controller's environment. E(BATON_RUN) is the run's identity in the format of the
    option O(baton.web.deploy_lock#module:run); E(BATON_PHASES) is a JSON list of the plays so far, each with C(id) (the
    play's variable C(baton_phase), or empty), C(name), C(started) and C(seconds); E(BATON_INTERRUPTED) is the path of
    a file that exists after a Ctrl-C.
  - In a play with the variable C(baton_defer_interrupt) the first Ctrl-C doesn't end the run. The current step
    finishes, and the playbook reverts as after a failure. The second Ctrl-C ends Ansible as usual.
  - In a play that also has the variable C(baton_commit_phase) it is too late to revert, and the first Ctrl-C only says
    so.
  - In a play with the variable C(baton_defer_problems) the messages of failed tasks are collected, also over several
    plays. E(BATON_PROBLEMS) is the path of a file with them as one text, which is empty if there are none.
  - Ends a run before anything else happens if Ansible has cut the value of a C(-e key=value) at a space.
  - Likewise a run of Baton's playbooks with an option that would leave out checks (C(--tags), C(--start-at-task)), with
    a strategy other than C(linear), with a part of C(--limit) that matches no host, or without any host.
"""

import json
import os
import pathlib
import signal
import time
import uuid
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, NoReturn

from ansible import constants, context
from ansible.parsing.splitter import parse_kv, split_args
from ansible.plugins.callback import CallbackBase
from ansible_collections.baton.web.plugins.module_utils.controller import groups, problems, run

WORDS = """
Interrupted. Baton finishes the current step, reverts the activated hosts and releases the deploy lock.
Press Ctrl-C again to stop immediately and leave everything in its current state.
"""


TOO_LATE = """
Interrupted too late to revert: the change is being completed, which takes a moment.
Press Ctrl-C again to stop immediately; the deploy lock then remains.
"""


# variables with free text, which may contain a `=`
FREE_TEXT = ("command", "grep", "since")
WRONG_OPTIONS = 5  # Ansible's own exit code for them
PROJECT = pathlib.Path(__file__).resolve().parents[2]
# the only ones with which a task runs once, and on all hosts before the next task
STRATEGIES = ("linear", "debug")
# Ansible's own tags; Baton's tasks have no others
SPECIAL_TAGS = {"all", "always", "tagged", "untagged"}


def cut(given: str) -> str:
    """Return the variable of an `-e key=value` whose value Ansible cuts at a space; empty if it cuts none."""
    if given.startswith(("@", "/", ".", "[", "{")):
        return ""
    last, quoted = "", False
    for word in split_args(given):
        name, assigns, value = word.partition("=")
        if not assigns or "_raw_params" in parse_kv(word):
            return last or word
        if last in FREE_TEXT and not quoted:
            return last
        last, quoted = name.strip(), value.startswith(("'", '"'))
    return ""


def is_ours(play: Any) -> bool:
    """Whether a play is one of Baton's, also if it was imported."""
    path = pathlib.Path(str(play.get_path()).rpartition(":")[0]).resolve()
    return path.is_relative_to(PROJECT / "playbooks") or path == PROJECT / "site.yml"


def partial(options: Mapping[str, Any], strategies: Iterable[str]) -> str:
    """Return why tasks of the playbooks wouldn't run, or not in their order; empty if they would."""
    given = {
        "--tags": "all" not in (options.get("tags") or ["all"]),
        "--skip-tags": bool(SPECIAL_TAGS.intersection(options.get("skip_tags") or ())),
        "--start-at-task": bool(options.get("start_at_task")),
    }
    if names := [name for name, is_given in given.items() if is_given]:
        return (
            f"{' and '.join(names)} would leave out checks and steps of Baton's playbooks, which run as a whole. "
            f"Remove {' and '.join(names)}, also from the section [tags] of ansible.cfg; --limit selects hosts."
        )
    if wrong := [name for name in strategies if name.rpartition(".")[2] not in STRATEGIES]:
        return (
            f"The strategy {wrong[0]} would run tasks before all hosts have been checked. Use linear: remove "
            "`strategy` from ansible.cfg, and ANSIBLE_STRATEGY from the environment."
        )
    return ""


def unmatched(inventory: Any) -> list[str]:
    """Return the parts of --limit that match no host, of which Ansible only warns."""
    parts = [part.lstrip("!&") for part in inventory._subset or ()]
    return [part for part in parts if part and not inventory.get_hosts(part, ignore_limits=True)]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Sets environment variables, which the processes that Ansible forks for each task inherit."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "baton.web.run"

    def __init__(self) -> None:
        super().__init__()
        self._phases: list[dict[str, Any]] = []
        self._began = 0.0
        self._unguarded: Any = None
        self._ending = False
        self._warned = False
        self._defers = False
        self._problems = problems.Problems()
        self._ours: list[Any] = []  # Baton's plays
        self._play: Any = None  # the current one

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Reset everything: each playbook of a command is a separate run."""
        for given in context.CLIARGS.get("extra_vars") or ():
            if given and (name := cut(str(given))):
                # without the value, which may be a secret
                self._refuse(
                    f"-e {name} has no value. Write it as -e {name}=VALUE, or -e @FILE for a file."
                    if str(given).strip() == name
                    else f"Ansible cuts the value of -e {name}=... at its first space, and drops or misreads the rest. "
                    f'Quote the value again: -e "{name}=\'two words\'", or use JSON: -e \'{{"{name}": "two words"}}\'.'
                )
        self._check(playbook)
        self._guard(False)
        self._phases = []
        self._warned = False
        me = {"token": uuid.uuid4().hex, "who": run.who(), "process": run.identity(os.getpid())}
        os.environ["BATON_RUN"] = json.dumps(me)
        os.environ.pop("BATON_PHASES", None)
        # a file, because a running task wouldn't see a changed variable
        interrupted = pathlib.Path(constants.DEFAULT_LOCAL_TMP, "interrupted")
        interrupted.unlink(missing_ok=True)
        os.environ["BATON_INTERRUPTED"] = str(interrupted)
        # another one, because a process can't start others with a variable of more than 128 kB
        self._problems = problems.Problems()
        os.environ["BATON_PROBLEMS"] = str(pathlib.Path(constants.DEFAULT_LOCAL_TMP, "problems"))
        self._write_problems()

    def _refuse(self, message: str) -> NoReturn:
        self._display.error(message)
        raise SystemExit(WRONG_OPTIONS)

    def _check(self, playbook: Any) -> None:
        """Refuse what would run Baton's plays in part."""
        self._ours = list(filter(is_ours, playbook.get_plays()))
        if not self._ours:
            return
        if why := partial(context.CLIARGS, [play.strategy for play in self._ours]):
            self._refuse(why)
        if parts := unmatched(self._ours[0].get_variable_manager()._inventory):
            self._refuse(
                f"--limit has {', '.join(parts)}, which matches no host of the inventory. Correct or remove it."
            )

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Record the start of the play, and install or remove the handler of Ctrl-C."""
        self._play = play
        now, moment = time.time(), time.monotonic()
        variables = play.get_vars()
        phase = {"id": str(variables.get("baton_phase", "")), "name": play.get_name().strip()}
        if self._phases:
            self._phases[-1]["seconds"] += round(moment - self._began, 1)
        # the batches of a play are one phase
        if not self._phases or not phase.items() <= self._phases[-1].items():
            self._phases.append({**phase, "started": now, "seconds": 0.0})
        self._began = moment
        os.environ["BATON_PHASES"] = json.dumps(self._phases)
        self._ending = bool(variables.get("baton_commit_phase"))
        self._defers = bool(variables.get("baton_defer_problems"))
        self._guard(bool(variables.get("baton_defer_interrupt")))

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Remove a play without hosts; refuse a run without any."""
        self._phases.pop()
        # later plays may have none, such as those of load balancers
        if self._ours and self._play.get_path() == self._ours[0].get_path():
            sources = ", ".join(context.CLIARGS.get("inventory") or constants.DEFAULT_HOST_LIST)
            why = f"There is nothing to run on: {sources} has no host in {', '.join(self._play.hosts)}"
            if limit := context.CLIARGS.get("subset"):
                self._refuse(f"{why} that --limit {limit} includes. Correct --limit.")
            inventory = self._play.get_variable_manager()._inventory
            wanted = [pattern.partition("[")[0] for pattern in self._play.hosts]
            if meant := groups.misspelt(inventory.get_groups_dict(), wanted):
                self._refuse(f"{why}. Rename its group {' or '.join(meant)} to {' or '.join(set(meant.values()))}.")
            self._refuse(f"{why}. Correct the inventory, -i or ANSIBLE_INVENTORY.")
        os.environ["BATON_PHASES"] = json.dumps(self._phases)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Collect the problems that a check has found, whether or not the host leaves the run."""
        del ignore_errors
        if self._defers:
            self._problems.add(result.host.get_name(), result.result, of_all=bool(result.task.run_once))
            self._write_problems()

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Collect a lost connection: the host leaves the run, which must not go on without it."""
        if not result.task.ignore_unreachable:
            self.v2_runner_on_failed(result)

    def _write_problems(self) -> None:
        pathlib.Path(os.environ["BATON_PROBLEMS"]).write_text(self._problems.text(), encoding="utf-8")

    def _guard(self, wanted: bool) -> None:
        if wanted and self._unguarded is None:
            self._unguarded = signal.signal(signal.SIGINT, self._interrupt)
        elif not wanted and self._unguarded is not None:
            signal.signal(signal.SIGINT, self._unguarded)
            self._unguarded = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._warned:
            self._unguarded(number, frame)
            return
        self._warned = True
        if not self._ending:
            pathlib.Path(os.environ["BATON_INTERRUPTED"]).touch()
        # without Ansible's display: the interrupted code may hold its lock
        os.write(2, (TOO_LATE if self._ending else WORDS).encode())
