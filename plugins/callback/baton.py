"""Ansible's usual output, for people: messages stand as they were written, and a failure is its message."""

from __future__ import annotations

DOCUMENTATION = r"""
name: baton
type: stdout
short_description: Ansible's usual output with messages as they were written
description:
  - The `default` callback, except that text of C(debug) and the message of a failure are printed as they are.
    With C(-v) everything is printed as `default` does. For the plain one set C(ANSIBLE_STDOUT_CALLBACK=default).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

from typing import Any

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):  # type: ignore[misc]
    """Stdout callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "baton"

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print the text of a debug task as it is."""
        text = result.result.get("msg")
        if result.task.action in ("debug", "ansible.builtin.debug") and isinstance(text, str) and not self._verbose():
            self._print_task_banner_once(result.task)
            self._display.display(text)
        else:
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print why a task failed, as it was written."""
        text = result.result.get("msg")
        if ignore_errors or self._verbose() or not isinstance(text, str) or "results" in result.result:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._failed(result, text)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print why an item of a loop failed, as it was written."""
        text = result.result.get("msg")
        if self._verbose() or not isinstance(text, str):
            super().v2_runner_item_on_failed(result)
        else:
            self._failed(result, text)

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
