"""Waits for a condition. Its time limit is no measurement: it only ends a test that would never finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0  # seconds until a wait is given up, on a machine of any speed


def until(condition: Callable[[], Any], missing: str, details: Callable[[], str] = lambda: "") -> Any:
    """Wait until the condition is true; return its value. `missing`, `details`: the message if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{missing} after {PATIENCE:g} s{details()}"
        time.sleep(0.1)
    return found
