"""Ansible's output, for people: a line for each task, what changed below it, and a failure as its message."""

from __future__ import annotations

DOCUMENTATION = r"""
name: baton
type: stdout
short_description: A line for each task, what changed below it, and a failure as its message
description:
  - Shows plays, tasks as they begin, and the hosts on which something changed or failed. Text of C(debug) and the
    message of a failure are printed as they were written.
  - With C(-v) everything is printed as `default` does. For the plain one set C(ANSIBLE_STDOUT_CALLBACK=default).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

from typing import Any

from ansible import constants
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as Default

# tasks that only lead to others
SILENT = {"meta", "include_role", "include_tasks", "import_role", "import_tasks", "validate_argument_spec"}


class CallbackModule(Default):  # type: ignore[misc]
    """Stdout callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "baton"

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
        """Print the play's name."""
        if self._verbose():
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        self._last_task_banner = None
        mode = " [check mode]" if play.check_mode else ""
        self._display.display(f"\n{play.get_name().strip()}{mode}", color=constants.COLOR_HIGHLIGHT)

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
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print why a task failed, as it was written."""
        text = result.result.get("msg")
        if ignore_errors or self._verbose() or not isinstance(text, str) or "results" in result.result:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._failed(result, text)

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
        """Leave it to the playbook to say so, where it takes that on itself."""
        if self._verbose() or not result.task.ignore_unreachable:
            super().v2_runner_on_unreachable(result)

    def _failed(self, result: Any, text: str) -> None:
        self._clean_results(result.result, result.task.action)
        self._handle_warnings(result.result)
        details = [result.result[key].strip() for key in ("stderr", "stdout") if result.result.get(key)]
        self._print_task_banner_once(result.task)
        words = "\n".join([text.strip(), *details])
        self._display.display(f"failed: [{result.host.get_name()}] {words}", color=constants.COLOR_ERROR, stderr=False)

    def _print_task_banner_once(self, task: Any) -> None:
        if self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    def _verbose(self) -> bool:
        return bool(self._display.verbosity)
