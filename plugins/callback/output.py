"""Ansible's output, for people: plays with their seconds, a line for each task, what changed, failures as messages."""

from __future__ import annotations

DOCUMENTATION = r"""
name: output
author: Baton contributors (!UNKNOWN)
type: stdout
short_description: Plays with their seconds, a line for each task, what changed below it, and a failure as its message
description:
  - Shows plays with the seconds they took, tasks as they begin, and the hosts on which something changed or failed. A
    play in batches names the hosts of each; one of C(all:!all), which isn't due, is left out. Text of C(debug) and the
    message of a failure are printed as they were written, and a long one that several hosts have in common once. The
    seconds of the whole run come last.
  - Whatever hosts say, no terminal obeys it; control characters, and those that turn the direction of writing, are
    spelled out.
  - With C(-v) everything is printed as `default` does. For the plain one set C(ANSIBLE_STDOUT_CALLBACK=default).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

import dataclasses
import time
from typing import Any

from ansible import constants
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.baton.web.plugins.module_utils.change import outcome
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

# tasks that only lead to others, and those that are named when they have something to say
SILENT = {"meta", "include_role", "include_tasks", "import_role", "import_tasks", "validate_argument_spec"}
SILENT |= {"debug", "fail", "set_fact"}
# what `hosts` of a play that isn't due is made to be
NOBODY = ["all:!all"]
# hosts of a batch that are named one by one
NAMED = 5


class _Coloured(str):
    """A text whose colours are ours."""


class _Display:
    """Ansible's display, which is given nothing that a terminal would obey."""

    def __init__(self, display: Any) -> None:
        self._display = display

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display, name)

    def display(self, msg: str, *given: Any, **options: Any) -> None:
        """Print a text."""
        self._display.display(_clean(msg), *given, **options)

    def banner(self, msg: str, *given: Any, **options: Any) -> None:
        """Print a heading."""
        self._display.banner(_clean(msg), *given, **options)

    def _warning(self, warning: Any, *given: Any, **options: Any) -> None:
        self._display._warning(_clean(warning), *given, **options)

    def _deprecated(self, warning: Any, *given: Any, **options: Any) -> None:
        self._display._deprecated(_clean(warning), *given, **options)

    def _error(self, error: Any, *given: Any, **options: Any) -> None:
        self._display._error(_clean(error), *given, **options)


def _clean(said: Any) -> Any:
    """What is said, with every text in it printable."""
    if isinstance(said, str):
        return said if isinstance(said, _Coloured) else untrusted.printable(said)
    if isinstance(said, dict):
        return {key: _clean(one) for key, one in said.items()}
    if isinstance(said, list | tuple):
        return type(said)([_clean(one) for one in said])
    if dataclasses.is_dataclass(said) and not isinstance(said, type):
        return dataclasses.replace(
            said, **{one.name: _clean(getattr(said, one.name)) for one in dataclasses.fields(said) if one.init}
        )
    return said


class CallbackModule(Default):  # type: ignore[misc]
    """Stdout callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "baton.web.output"

    def __init__(self) -> None:
        super().__init__()
        self._display: Any = _Display(self._display)
        # long failures of a task, by what is alike in them, with the host that had it first
        self._told: dict[tuple[str, str], str] = {}
        self._began = time.monotonic()
        # of the play that runs; None when there is nothing to tell of it
        self._play_began: float | None = None

    def get_option(self, option: str, hostvars: Any = None) -> Any:
        """Show what went well, too, when asked for everything."""
        return (option == "display_ok_hosts" and self._verbose()) or super().get_option(option, hostvars)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        super()._task_start(task, prefix)
        if not self._verbose() and task.action.rpartition(".")[2] not in SILENT:
            self._print_task_banner_once(task)

    def _print_task_banner(self, task: Any) -> None:
        if self._verbose():
            super()._print_task_banner(task)
            return
        self._display.display(f"  {self._last_task_name or task.get_name().strip()}")
        self._last_task_banner = task._uuid

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Print the play's name, and of a batch its hosts."""
        if self._verbose():
            super().v2_playbook_on_play_start(play)
            return
        self._end_play()
        self._play = play
        self._last_task_banner = None
        self._play_began = None
        if play.hosts == NOBODY:
            return
        self._play_began = time.monotonic()
        batch = f": {self._batch(play)}" if play.serial else ""
        mode = " [check mode]" if play.check_mode else ""
        self._display.display(f"\n{play.get_name().strip()}{batch}{mode}", color=constants.COLOR_HIGHLIGHT)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say that a play is of no host."""
        if self._verbose():
            super().v2_playbook_on_no_hosts_matched()
        elif self._play_began is not None:
            self._play_began = None
            self._display.display("  (no hosts)")

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say why a play ends early."""
        if self._verbose():
            super().v2_playbook_on_no_hosts_remaining()
        else:
            self._display.display("No host is left to continue with.", color=constants.COLOR_ERROR)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print each host's counts, and how long everything took."""
        if self._verbose():
            super().v2_playbook_on_stats(stats)
            return
        self._end_play()
        self._display.display("\nPLAY RECAP", color=constants.COLOR_HIGHLIGHT)
        width = max(map(len, stats.processed), default=0)
        for host in sorted(stats.processed):
            told = stats.summarize(host)
            # the words that Ansible's own output has, as programs look for them; its other ones tell people nothing
            counts = {"ok": "ok", "changed": "changed", "unreachable": "unreachable", "failed": "failures"}
            words = " ".join(f"{f'{word}={told[key]}':<{len(word) + 5}}" for word, key in counts.items())
            bad = told["failures"] or told["unreachable"]
            color = constants.COLOR_CHANGED if told["changed"] else constants.COLOR_OK
            line = f"{host:<{width}} : {words}".rstrip()
            self._display.display(line, color=constants.COLOR_ERROR if bad else color)
        self._display.display(f"\n{time.monotonic() - self._began:.1f} s in total")

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Leave out what only leads to other tasks."""
        if self._verbose():
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print the text of a debug task as it is, and otherwise what changed."""
        text = result.result.get("msg")
        if isinstance(result.task, TaskInclude) and not self._verbose():
            return
        if result.task.action in ("debug", "ansible.builtin.debug") and isinstance(text, str) and not self._verbose():
            self._print_task_banner_once(result.task)
            self._display.display(text)
        else:
            if not result.result.get("changed") and not self.get_option("display_ok_hosts"):
                # the result isn't shown, but what it warns of is
                self._handle_warnings_and_exception(result)
            if isinstance(notice := result.result.get("notice"), str):
                self._print_task_banner_once(result.task)
                self._display.display(untrusted.printable(notice))
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print why a task failed, as it was written."""
        text = result.result.get("msg")
        if self._verbose() or not isinstance(text, str) or "results" in result.result:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._failed(result, text)
        if ignore_errors:
            self._display.display("...ignoring", color=constants.COLOR_SKIP)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print why an item of a loop failed, as it was written, or leave it to the playbook as a host that is down."""
        if result.result.get("unreachable") and result.task.ignore_unreachable and not self._verbose():
            return
        text = result.result.get("msg")
        if self._verbose() or not isinstance(text, str):
            super().v2_runner_item_on_failed(result)
        else:
            self._failed(result, text)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Print why, or leave it to the playbook to say so, where it takes that on itself."""
        if self._verbose():
            super().v2_runner_on_unreachable(result)
        elif not result.task.ignore_unreachable:
            self._failed(result, str(result.result.get("msg", "")), "unreachable")

    def v2_runner_retry(self, result: Any) -> None:
        """Say that a task waits for something: that isn't there yet, and nothing has failed."""
        if self._verbose():
            super().v2_runner_retry(result)
            return
        left = result.result["retries"] - result.result["attempts"]
        self._display.display(f"not yet: [{result.host.get_name()}] tries left: {left}", color=constants.COLOR_DEBUG)

    def _handle_exception(self, result: Any, use_stderr: bool = False) -> None:
        """Leave out where in a playbook it went wrong: the message is printed, and some failures are expected."""
        if self._verbose():
            super()._handle_exception(result, use_stderr)
        else:
            result.pop("exception", None)

    def _failed(self, result: Any, text: str, how: str = "failed") -> None:
        self._clean_results(result.result, result.task.action)
        self._handle_warnings(result.result)
        details = [result.result[key].strip() for key in ("stderr", "stdout") if result.result.get(key)]
        self._print_task_banner_once(result.task)
        host, words = result.host.get_name(), "\n".join([text.strip(), *details])
        if "\n" in words:
            first = self._told.setdefault((result.task._uuid, outcome.normalized(host, words)), host)
            words = words if first == host else f"the same as on {first}"
        self._display.display(f"{how}: [{host}] {words}", color=constants.COLOR_ERROR, stderr=False)

    def _get_diff(self, difflist: Any) -> str:
        return _Coloured(super()._get_diff(_clean(difflist)))

    def _end_play(self) -> None:
        if self._play_began is not None:
            self._display.display(f"  {time.monotonic() - self._play_began:.1f} s")

    @staticmethod
    def _batch(play: Any) -> str:
        # no callback is told the hosts
        names = play.get_variable_manager().get_vars(play=play, include_hostvars=False)["ansible_play_batch"]
        more = len(names) - NAMED
        return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMED])} and {more} more"

    def _print_task_banner_once(self, task: Any) -> None:
        if self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    def _verbose(self) -> bool:
        return bool(self._display.verbosity)
