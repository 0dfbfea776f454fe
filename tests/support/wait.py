"""Waiting for what comes when it comes: a test never takes time for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0  # seconds until what should happen counts as not happening, on a machine of any speed


def until(condition: Callable[[], Any], missing: str) -> Any:
    """What the condition returns as soon as that is true; `missing`: what is the matter as long as it isn't."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{missing} after {PATIENCE:g} s"
        time.sleep(0.1)
    return found
