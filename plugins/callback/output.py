"""Compact stdout callback: plays with durations, a line for each task, changes, and failures as messages."""

from __future__ import annotations

DOCUMENTATION = r"""
name: output
author: Baton contributors (!UNKNOWN)
type: stdout
short_description: Compact output with the duration of each play, a line for each task, changes and failures
description:
  - Prints plays with their durations in seconds, tasks as they begin, and the hosts on which something changed or
    failed. A play in batches names the hosts of each; a play on C(all:!all), which isn't due, is omitted. Text of
    C(debug) and messages of failures keep their line breaks, and a long message that several hosts have in common is
    printed once. The duration of the whole run comes last.
  - In a play with the variable C(baton_defer_problems), whose failures the callback P(baton.web.run#callback) collects,
    only the task that reports all of them prints one. It has C(run_once), and doesn't ignore its failure.
  - Escapes control characters, and characters that change the direction of text, in everything that hosts print.
  - With C(-v) it prints the same as `default`, which you can also select with C(ANSIBLE_STDOUT_CALLBACK=default).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

import dataclasses
import os
import pathlib
import time
from typing import Any

from ansible import constants
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.baton.web.plugins.module_utils.change import outcome
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

# tasks that only include others, and those whose banner is printed only together with their output
SILENT = {"meta", "include_role", "include_tasks", "import_role", "import_tasks", "validate_argument_spec"}
SILENT |= {"debug", "fail", "set_fact"}
# tasks that only have a message
CHECKS = {"assert", "fail"}
# `hosts` of a play that isn't due
NO_HOSTS = ["all:!all"]
# maximum number of a batch's hosts that are listed
MAX_NAMES = 5


class _Coloured(str):
    """A text that contains the callback's own colours."""


class _Display:
    """Wrapper of Ansible's display that escapes control characters."""

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


def _clean(found: Any) -> Any:
    """Return a value with all strings in it made printable."""
    if isinstance(found, str):
        return found if isinstance(found, _Coloured) else untrusted.printable(found)
    if isinstance(found, dict):
        return {key: _clean(one) for key, one in found.items()}
    if isinstance(found, list | tuple):
        return type(found)([_clean(one) for one in found])
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return dataclasses.replace(
            found, **{one.name: _clean(getattr(found, one.name)) for one in dataclasses.fields(found) if one.init}
        )
    return found


def _message(result: Any) -> Any:
    """Return a result's message; an assertion's list of messages as lines."""
    found = result.result.get("msg")
    return "\n".join(map(str, found)) if isinstance(found, list) else found


class CallbackModule(Default):  # type: ignore[misc]
    """Stdout callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "baton.web.output"

    def __init__(self) -> None:
        super().__init__()
        self._display: Any = _Display(self._display)
        # the first host with each long failure, by task and normalized message
        self._shown: dict[tuple[str, str], str] = {}
        self._began = time.monotonic()
        # start of the current play; None if the play isn't printed
        self._play_began: float | None = None
        # whether failures are reported together, and whether that is still due
        self._defers = self._unreported = False
        # whether they were reported: Ansible still begins the other plays if a host had left the run before
        self._has_ended = False

    def get_option(self, option: str, hostvars: Any = None) -> Any:
        """Return an option; with -v, also show tasks without changes."""
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
        """Print the play's name, and the hosts of a batch."""
        if self._verbose():
            super().v2_playbook_on_play_start(play)
            return
        self._end_play()
        self._play = play
        self._last_task_banner = None
        self._play_began = None
        self._defers = bool(play.get_vars().get("baton_defer_problems"))
        if play.hosts == NO_HOSTS or self._has_ended:
            return
        self._play_began = time.monotonic()
        batch = f": {self._batch(play)}" if play.serial else ""
        mode = " [check mode]" if play.check_mode else ""
        self._display.display(f"\n{play.get_name().strip()}{batch}{mode}", color=constants.COLOR_HIGHLIGHT)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Print that a play has no hosts."""
        if self._verbose():
            super().v2_playbook_on_no_hosts_matched()
        elif self._play_began is not None:
            self._play_began = None
            self._display.display("  (no hosts)")

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Print why a play ends early."""
        if self._verbose():
            super().v2_playbook_on_no_hosts_remaining()
        elif not self._has_ended:
            self._display.display("No host is left to continue with.", color=constants.COLOR_ERROR)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print each host's counts, and the duration of the run."""
        if self._verbose():
            super().v2_playbook_on_stats(stats)
            return
        self._end_play()
        if self._unreported and (problems := os.environ.get("BATON_PROBLEMS")):
            # no host was left to report them
            self._display.display(f"\nfailed: {pathlib.Path(problems).read_text()}", color=constants.COLOR_ERROR)
        self._display.display("\nPLAY RECAP", color=constants.COLOR_HIGHLIGHT)
        width = max(map(len, stats.processed), default=0)
        for host in sorted(stats.processed):
            found = stats.summarize(host)
            # the most important counts, in the format of Ansible's own output, which other programs parse
            counts = {"ok": "ok", "changed": "changed", "unreachable": "unreachable", "failed": "failures"}
            words = " ".join(f"{f'{word}={found[key]}':<{len(word) + 5}}" for word, key in counts.items())
            bad = found["failures"] or found["unreachable"]
            color = constants.COLOR_CHANGED if found["changed"] else constants.COLOR_OK
            line = f"{host:<{width}} : {words}".rstrip()
            self._display.display(line, color=constants.COLOR_ERROR if bad else color)
        self._display.display(f"\n{time.monotonic() - self._began:.1f} s in total")

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Omit includes of other tasks."""
        if self._verbose():
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print the text of a debug task unchanged, and otherwise what changed."""
        text = result.result.get("msg")
        if isinstance(result.task, TaskInclude) and not self._verbose():
            return
        if result.task.action in ("debug", "ansible.builtin.debug") and isinstance(text, str) and not self._verbose():
            self._print_task_banner_once(result.task)
            self._display.display(text)
        else:
            if not result.result.get("changed") and not self.get_option("display_ok_hosts"):
                # print the warnings of a result that isn't printed
                self._handle_warnings_and_exception(result)
            if isinstance(notice := result.result.get("notice"), str):
                self._print_task_banner_once(result.task)
                self._display.display(untrusted.printable(notice))
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print why a task failed, with its line breaks."""
        text = _message(result)
        if self._is_deferred(reports=result.task.run_once and not ignore_errors):
            return
        if self._verbose() or not isinstance(text, str) or "results" in result.result:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._failed(result, text)
        if ignore_errors:
            self._display.display("...ignoring", color=constants.COLOR_SKIP)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print why an item of a loop failed; an unreachable host that the playbook handles isn't printed."""
        if result.result.get("unreachable") and result.task.ignore_unreachable and not self._verbose():
            return
        text = _message(result)
        if self._is_deferred():
            return
        if self._verbose() or not isinstance(text, str):
            super().v2_runner_item_on_failed(result)
        else:
            self._failed(result, text)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Print why a host is unreachable, unless the playbook handles it (ignore_unreachable)."""
        if self._verbose():
            super().v2_runner_on_unreachable(result)
        elif not result.task.ignore_unreachable and not self._is_deferred():
            self._failed(result, str(result.result.get("msg", "")), "unreachable")

    def _is_deferred(self, *, reports: bool = False) -> bool:
        """Whether another task prints a failure; `reports`: whether this one does."""
        self._unreported = self._defers and not reports
        problems = os.environ.get("BATON_PROBLEMS")
        self._has_ended = bool(not self._unreported and problems and os.path.getsize(problems))
        return self._unreported and not self._verbose()

    def v2_runner_retry(self, result: Any) -> None:
        """Print that a task is waiting; a retry is not a failure."""
        if self._verbose():
            super().v2_runner_retry(result)
            return
        left = result.result["retries"] - result.result["attempts"]
        self._display.display(f"not yet: [{result.host.get_name()}] tries left: {left}", color=constants.COLOR_DEBUG)

    def _handle_exception(self, result: Any, use_stderr: bool = False) -> None:
        """Omit the location in the playbook: the message is printed, and some failures are expected."""
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
        # a check of several hosts runs on the first of them, which need not be the host with the problem
        for_all = result.task.run_once and result.task.action.rpartition(".")[2] in CHECKS
        label = "" if for_all else f" [{self.host_label(result)}]"
        if "\n" in words:
            first = self._shown.setdefault((result.task._uuid, outcome.normalized(host, words)), host)
            words = words if first == host else f"the same as on {first}"
        self._display.display(f"{how}:{label} {words}", color=constants.COLOR_ERROR, stderr=False)

    def _get_diff(self, difflist: Any) -> str:
        return _Coloured(super()._get_diff(_clean(difflist)))

    def _end_play(self) -> None:
        if self._play_began is not None:
            self._display.display(f"  {time.monotonic() - self._play_began:.1f} s")

    @staticmethod
    def _batch(play: Any) -> str:
        # callbacks don't get the hosts of a batch
        names = play.get_variable_manager().get_vars(play=play, include_hostvars=False)["ansible_play_batch"]
        more = len(names) - MAX_NAMES
        return ", ".join(names) if more <= 0 else f"{', '.join(names[:MAX_NAMES])} and {more} more"

    def _print_task_banner_once(self, task: Any) -> None:
        if self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    def _verbose(self) -> bool:
        return bool(self._display.verbosity)
