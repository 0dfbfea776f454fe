"""Writes the duration of each task of a playbook, by play, as JSON."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bench_seconds
type: aggregate
short_description: Writes how long each task took
description:
  - Writes a JSON list of C(play), C(task) and C(seconds) to the file named by E(BENCH_SECONDS). A task's duration ends
    where the next one begins.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_seconds"

    def __init__(self) -> None:
        super().__init__()
        self._play = ""
        self._began: list[tuple[float, str, str]] = []

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play.get_name().strip()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        self._began.append((time.time(), self._play, task.get_name().strip()))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._began.append((time.time(), self._play, task.get_name().strip()))

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002
        ends = [began for began, _, _ in self._began[1:]] + [time.time()]
        steps = [
            {"play": play, "task": task, "seconds": round(end - began, 3)}
            for (began, play, task), end in zip(self._began, ends, strict=True)
        ]
        pathlib.Path(os.environ["BENCH_SECONDS"]).write_text(json.dumps(steps))
